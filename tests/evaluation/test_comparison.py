from __future__ import annotations

import numpy as np
import pytest

from axolotl_ual.evaluation.comparison import Arm, compare
from axolotl_ual.evaluation.groups import by_quantile, by_value
from axolotl_ual.evaluation.predictions import MEASURES, Predictions, ratio, sum_by_row

NLL = MEASURES[0]


def predictions(nll: list[float], confidence: list[float], correct: list[int]) -> Predictions:
    # Rows of two, one and one tokens.
    row = np.array([0, 0, 1, 2])
    zeros = np.zeros(4)
    return Predictions(
        row, 3, np.array(nll), zeros + 0.5, np.array(confidence), np.array(correct), zeros + 0.25
    )


def values(sums: dict[str, np.ndarray]) -> dict[str, float]:
    total = {name: part.sum(axis=0) for name, part in sums.items()}
    return {measure.name: float(measure.value(total)) for measure in MEASURES}


def test_measures_by_hand() -> None:
    found = values(sum_by_row(predictions([1, 2, 3, 6], [0.9, 0.9, 0.4, 0.4], [1, 0, 0, 1])))
    assert found["nll"] == 3 and found["sequence_nll"] == 4
    assert found["accuracy"] == 0.5 and found["entropy"] == 0.5 and found["brier"] == 0.25
    # Two bins have predictions, however many there are: |.5 - .9| and |.5 - .4|, halved.
    for name in ("ece_width_10", "ece_width_15", "ece_mass_10", "ece_mass_15"):
        assert found[name] == pytest.approx(0.25)
    assert found["rms"] == pytest.approx(np.sqrt((0.16 + 0.01) / 2))


def test_a_row_without_tokens_counts_nowhere() -> None:
    made = Predictions(np.array([0, 2]), 3, *np.ones((5, 2)))
    sums = sum_by_row(made)
    assert sums["rows"].tolist() == [1, 0, 1] and sums["tokens"].tolist() == [1, 0, 1]
    assert values(sums)["sequence_nll"] == 1


def arm(name: str, *runs: list[float], trained: bool = True) -> Arm:
    sums = tuple(sum_by_row(predictions(nll, [0.5] * 4, [1, 0, 1, 0])) for nll in runs)
    return Arm(name, tuple(str(i) for i in range(len(runs))), sums, trained)


def test_comparison_by_hand() -> None:
    base = arm("base", [1, 1, 1, 1], trained=False)
    sft = arm("sft", [2, 2, 1, 1], [4, 2, 1, 1])
    groups = {"all": np.ones(3, dtype=bool), "last": np.array([False, True, True])}
    whole, last = compare([base, sft], np.array([0, 1, 1]), groups, [NLL], "base", seed=0)
    assert (whole.rows, whole.prompts, last.rows, last.prompts) == (3, 2, 2, 1)
    # Means over 4 tokens: 1; 6 / 4 and 8 / 4.
    assert whole.values == {"base": 1, "sft": 1.75} and whole.by_seed["sft"] == [1.5, 2.0]
    (found,) = whole.differences
    assert found.arm == "sft" and found.difference == 0.75
    # Prompts: mean differences 3 and 0 over 2 and 2 tokens, delta .75: 1.5 and -1.5, so
    # SE^2 = 2 * (2.25 + 2.25) / 16 = .5625. Seeds: sd of 1.5 and 2 over sqrt(2) is .25.
    assert found.test is not None
    assert found.test.error == pytest.approx(np.sqrt(0.5625 + 0.0625))
    # Seeds apart: a draw is the mean of two of 1.5 and 2, less 1.
    assert found.seeds == (0.5, 1.0)
    # One of the prompts twice, both, the other twice.
    assert found.prompts == (0.0, 1.5)
    assert found.both == (0.0, 2.0)
    # One prompt tells nothing about others, and a single comparison is corrected by nothing.
    assert last.differences[0].test is None and last.differences[0].difference == 0
    assert found.p_holm == found.test.p


def test_two_identical_runs_differ_by_zero() -> None:
    a, b = arm("a", [1, 2, 3, 4]), arm("b", [1, 2, 3, 4])
    measures = list(MEASURES)
    groups = {"all": np.ones(3, dtype=bool)}
    for result in compare([a, b], np.arange(3), groups, measures, "a", seed=1):
        (found,) = result.differences
        assert found.difference == 0 and found.both == (0, 0) and found.prompts == (0, 0)
        assert found.p_holm == 1


def test_seeds_of_both_arms_are_paired() -> None:
    # Seeds shift both arms alike, so the difference of every seed is the same.
    a = arm("a", [1, 1, 1, 1], [2, 2, 2, 2], [4, 4, 4, 4])
    b = arm("b", [2, 2, 2, 2], [3, 3, 3, 3], [5, 5, 5, 5])
    groups = {"all": np.ones(3, dtype=bool)}
    (result,) = compare([a, b], np.arange(3), groups, [NLL], "a", seed=0)
    (found,) = result.differences
    assert found.difference == 1
    assert found.seeds == pytest.approx((1, 1)) and found.both == pytest.approx((1, 1))
    assert found.test is not None and found.test.p == 0


def test_p_values_are_corrected_over_arms_and_groups() -> None:
    rng = np.random.default_rng(0)
    measure = ratio("y", "y", "y", "m", None)
    arms = [
        Arm(name, ("1",), ({"y": rng.normal(shift, 1, 40), "m": np.ones(40)},))
        for name, shift in (("a", 0), ("b", 0.4), ("c", 0.6))
    ]
    half = np.arange(40) < 20
    groups = {"all": np.ones(40, dtype=bool), "half": half}
    results = compare(arms, np.arange(40), groups, [measure], "a", seed=0)
    plain = sorted(d.test.p for r in results for d in r.differences if d.test)
    corrected = sorted(d.p_holm for r in results for d in r.differences if d.p_holm is not None)
    assert len(plain) == 4 and corrected[0] == pytest.approx(4 * plain[0])


def test_groups() -> None:
    quantiles = by_quantile("u", np.array([0.0, 0.0, 0.0, 0.5, np.nan, 1.0]), 2)
    # The three zeros stay together, and the row without a number is in no group.
    assert {name: members.tolist() for name, members in quantiles.items()} == {
        "u 1/2 [0, 0]": [True, True, True, False, False, False],
        "u 2/2 [0.5, 1]": [False, False, False, True, False, True],
    }
    assert list(by_quantile("u", np.full(3, 0.5), 4)) == ["u 1/1 [0.5, 0.5]"]
    assert by_quantile("u", np.full(2, np.nan), 4) == {}
    values = by_value("kind", ["b", None, "a", "b"])
    assert {name: members.tolist() for name, members in values.items()} == {
        "kind = a": [False, False, True, False],
        "kind = b": [True, False, False, True],
    }
    with pytest.raises(ValueError, match="13 distinct values"):
        by_value("id", list(range(13)))
