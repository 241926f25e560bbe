"""The studies on changes of stage and on exact match: their numbers by hand."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tiny import make_model

EVIDENCE = Path(__file__).resolve().parents[1] / "benchmarks" / "evidence"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The scripts as modules."""
    monkeypatch.syspath_prepend(EVIDENCE)
    names = (
        "ablated_page",
        "exact",
        "exact_page",
        "mixed",
        "transitions",
        "transitions_page",
        "tuning",
    )
    return SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def test_changes_of_stage_by_hand(scripts: SimpleNamespace) -> None:
    page = scripts.transitions_page

    def run(margins: dict[str, list[float]], trained: list[float]) -> dict[str, Any]:
        return {"margins": margins, "steps": [{"pairs": [0], "margins": [one]} for one in trained]}

    half = math.log(math.expm1(0.5))  # -log sigmoid(-half) = log(1 + e^half) = 0.5
    staged = run({"1": [1.0, -1.0], "2": [-1.0, -1.0], "3": [0.5, 2.0]}, [0.0, -half, 0.0])
    shuffled = run({"1": [1.0, 1.0], "2": [1.0, 1.0], "3": [1.0, 1.0]}, [0.0, 0.0, 0.0])
    runs = {"staged": {0: staged, 1: staged}, "shuffled": {0: shuffled, 1: shuffled}}

    # Right: from step 1 to 2 the first pair is lost (-1, 0); from 2 to 3 both are won (1, 1).
    assert page.changed(staged, page.right, [1], 1).tolist() == [-1.0, 0.0]
    assert page.changed(staged, page.right, [1, 2], 1).tolist() == [0.0, 0.5]
    assert page.changed(staged, page.margin, [1], 2).tolist() == [-0.5, 3.0]
    assert page.difference(runs, page.right, [1, 2], 1).value == pytest.approx(0.25)
    # Losses log 2, 0.5, log 2: the change after step 1 falls by log 2 - 0.5, that after 2 rises.
    assert page.losses(staged).tolist() == pytest.approx([math.log(2), 0.5, math.log(2)])
    assert page.jump(staged, [1]) == pytest.approx(0.5 - math.log(2))
    assert page.jumps(runs, [2]).value == pytest.approx(math.log(2) - 0.5)
    assert page.jumps({"staged": {0: staged}, "shuffled": {1: shuffled}}, [1]) is None
    assert scripts.transitions.measured_after([3, 6, 12, 15], [1, 3]) == [
        *(3, 4, 6, 7, 9, 12, 13, 15, 16, 18)
    ]


def test_the_final_number_is_read_as_gsm8k_writes_it(scripts: SimpleNamespace) -> None:
    read = scripts.exact.final_number
    assert read("so <<2+3=5>>5.\n#### 1,200") == 1200
    assert read("#### $-3.50 of 7") == -3.5
    assert read("It is 4, no: 12.") == 12
    assert read("#### 3\n#### 4") == 4
    # After the mark nothing else counts.
    assert read("It is 4. ####") is None
    assert read("no idea") is None


def test_a_number_is_right_only_if_each_of_its_tokens_is(
    scripts: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact, mixed = scripts.exact, scripts.mixed
    tuned = scripts.tuning.Tuned(make_model(tmp_path), {})
    tokenizer = tuned.tokenizer
    rows = [
        mixed.Row("a", "So <<2*6=12>>12 and <<12+1=13>>13\n#### 13", "gsm8k"),
        mixed.Row("longer than that", "Right: 7\n#### 7", "gsm8k"),
    ]
    encoded = [mixed.encode_row(row, tokenizer) for row in rows]
    places = [exact.numbers_of(row, tokenizer) for row in rows]

    def text(row: int, one: list[int]) -> str:
        ids = encoded[row].ids[encoded[row].start :]
        return str(tokenizer.decode([ids[place] for place in one])).strip()

    assert [[text(row, one) for one in places[row]] for row in (0, 1)] == [
        ["13", "12", "13"],
        ["7"],
    ]

    def wrong_at(*tokens: int) -> tuple[list[float], list[float], list[float]]:
        """What is right where these tokens of the first answer are predicted wrong."""

        def predicted(_: Any, chosen: list[Any]) -> Any:
            import numpy as np

            right = np.ones((len(chosen), max(len(row.ids) for row in chosen) - 1), dtype=bool)
            for token in tokens:
                right[0, encoded[0].start + token - 1] = False
            return right

        monkeypatch.setattr(exact, "_predicted", predicted)
        found: tuple[list[float], list[float], list[float]] = exact.forced(tuned, encoded, places)
        return found

    final, first, second = places[0]
    assert wrong_at() == ([1.0, 1.0], [2.0, 0.0], [2.0, 0.0])
    assert wrong_at(final[-1])[0] == [0.0, 1.0]
    assert wrong_at(first[0])[:2] == ([1.0, 1.0], [1.0, 0.0])
    assert wrong_at(first[0], second[-1])[1] == [0.0, 0.0]
    # The token before a number and the one after it are none of its.
    assert wrong_at(final[0] - 1, final[-1] + 1)[0] == [1.0, 1.0]


def test_predictions_are_those_of_a_pass_by_hand(scripts: SimpleNamespace, tmp_path: Path) -> None:
    import torch

    exact, mixed = scripts.exact, scripts.mixed
    tuned = scripts.tuning.Tuned(make_model(tmp_path), {})
    rows = [mixed.Row("a", "one two 3\n#### 3", "x"), mixed.Row("b c d e", "four\n#### 5", "x")]
    encoded = [mixed.encode_row(row, tuned.tokenizer) for row in rows]
    found = exact._predicted(tuned, encoded)
    for place, row in enumerate(encoded):
        ids = torch.tensor([row.ids])
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            best = tuned.current(ids).logits[0].argmax(dim=1)
        wanted = [
            token >= row.start and int(best[token - 1]) == row.ids[token]
            for token in range(1, len(row.ids))
        ]
        assert found[place, : len(wanted)].tolist() == wanted
        assert not found[place, len(wanted) :].any()


def test_a_share_below_the_floor_decides_nothing(scripts: SimpleNamespace) -> None:
    page = scripts.exact_page
    fixed = {"floor": 0.05, "margin": 0.05}

    def arm(right: float) -> dict[int, Any]:
        return {seed: {"generated": [right] * 40} for seed in range(3)}

    def said(ual: float, sft: float) -> str:
        runs = {"ual": arm(ual), "sft": arm(sft)}
        claim = page._claim("No worse", runs, "sft", "generated", page.not_lower, fixed)
        return str(claim.verdict)

    assert said(0.0, 0.0) == "cannot tell"
    assert said(1.0, 1.0) == "supported"
    assert said(0.0, 1.0) == "not supported"


def test_the_document_of_ablate_is_turned_round(scripts: SimpleNamespace) -> None:
    """It has each arm less UAL, and a claim is of UAL less the arm."""
    page = scripts.ablated_page

    def result(measure: str, group: str, **values: float) -> dict[str, Any]:
        # t(0.975; 4) = 2.7764 errors of 0.1 on either side, and 1.96 where nothing limits them.
        errors = {"sft": {"error": 0.1, "freedom": 4.0}, "constant": {}}
        errors["shuffled"] = {"error": 0.1, "freedom": None}
        return {
            "measure": measure,
            "group": group,
            "by_seed": {"ual": [0.0] * 3},
            "differences": {arm: {"value": v, **errors[arm]} for arm, v in values.items()},
        }

    half = "entropy of base {}/2 [0.1, 2]"
    found = {
        "results": [
            result("nll", "all", constant=0.5, shuffled=-0.5),
            result("nll", half.format(1), sft=-0.3),
            result("nll", half.format(2), sft=0.5),
            result("ece_mass_15", "all", sft=0.2),
            result("silhouette", "all", sft=-0.3),
        ]
    }
    fixed = {"controls": ["sft", "constant", "shuffled"], "margin": 0.02}
    claims = [page._claim(found, fixed, *claim) for claim in page.CLAIMS]
    assert [(claim.verdict, claim.numbers) for claim in claims] == [
        ("supported", "-0.500 [-0.778, -0.222] nats a token, 3 seeds"),
        ("not supported", "+0.300 [+0.022, +0.578] nats a token, 3 seeds"),
        ("cannot tell", "-0.500 nats a token, 3 seeds"),
        ("not supported", "+0.500 [+0.304, +0.696] nats a token, 3 seeds"),
        ("cannot tell", "-0.200 [-0.478, +0.078], 3 seeds"),
        ("supported", "+0.300 [+0.022, +0.578], 3 seeds"),
    ]
    assert page._claim(None, fixed, *page.CLAIMS[0]).verdict == "not run yet"
    only_sft = {**fixed, "controls": ["sft"]}
    assert page._claim(found, only_sft, *page.CLAIMS[2]).verdict == "not run yet"
