"""Which rows `ual.curriculum.keep` leaves, by eye."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.data.keep import keep_part, keep_rows
from axolotl_ual.errors import AnnotationError, ConfigError, DataError, UALError
from axolotl_ual.settings.keep import KeepConfig
from axolotl_ual.settings.ual import parse_ual


def kept(values: list[Any], **keys: Any) -> list[Any]:
    dataset = Dataset.from_dict({"level": values})
    return list(keep_rows(dataset, KeepConfig(by="level", **keys), "level")[0]["level"])


def test_bounds_belong_to_what_is_kept() -> None:
    values = [0.5, 0.1, None, 0.9, 0.3]
    assert kept(values, at_least=0.3) == [0.5, None, 0.9, 0.3]
    assert kept(values, at_most=0.3) == [0.1, None, 0.3]
    assert kept(values, at_least=0.2, at_most=0.5) == [0.5, None, 0.3]


def test_quantiles_are_values_of_rows() -> None:
    # Half of 1 2 2 2 9 is reached at 2, the third value: all three 2s stay.
    assert kept([2, 9, 2, 1, 2], at_most=0.5, quantile=True) == [2, 2, 1, 2]
    assert kept([2, 9, 2, 1, 2], at_least=0.9, quantile=True) == [9]
    assert kept([2, 9, 2, 1, 2], at_least=0.0, at_most=1.0, quantile=True) == [2, 9, 2, 1, 2]


@given(values=st.lists(st.integers(0, 5), min_size=1, max_size=30), share=st.integers(0, 20))
def test_at_most_a_quantile_keeps_at_least_that_share(values: list[int], share: int) -> None:
    rest = kept(values, at_most=share / 20, quantile=True)
    assert len(rest) * 20 >= share * len(values)
    assert {value in rest for value in values if value <= max(rest)} == {True}


def test_the_line_counts_what_is_left_out() -> None:
    dataset = Dataset.from_dict(
        {"ual_uncertainty": [0.1, 0.6, None, 0.9], "ual_smoothing": [0.0, 0.2, 0.1, 0.4]}
    )
    config = KeepConfig(by="uncertainty", at_most=0.6)
    found, line = keep_rows(dataset, config, config.column)
    # Three rows of 0, 0.2 and 0.1.
    assert line == (
        "ual.curriculum.keep: 3 of 4 training rows stay, with `uncertainty` from -inf to 0.6; "
        "1 of them without a value; their mean smoothing is 0.1000"
    )
    assert found.data.num_rows == 3


def test_what_cannot_be_kept_by() -> None:
    dataset = Dataset.from_dict({"level": [0.1, 0.2], "name": ["a", "b"]})
    with pytest.raises(ConfigError, match=r"no row is left: `level` is from 0\.1 to 0\.2"):
        keep_rows(dataset, KeepConfig(by="level", at_least=0.5), "level")
    with pytest.raises(AnnotationError, match="have no column `ual_gap`"):
        keep_rows(dataset, KeepConfig(by="gap", at_least=0.5), "ual_gap")
    with pytest.raises(DataError, match="a value is not a number"):
        keep_rows(dataset, KeepConfig(by="name", at_least=0.5), "name")


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"by": "level"}, "needs `at_least`, `at_most`, or both"),
        ({"by": "level", "at_least": 2.0, "at_most": 1.0}, "the first not above the second"),
        ({"by": "level", "at_most": float("nan")}, "must be finite"),
        ({"by": "level", "at_most": 1.5, "quantile": True}, r"in \[0, 1\]"),
        ({"by": "stage", "at_most": 1.0}, "leave a stage out with 0 among"),
        ({"at_most": 1.0}, "by"),
    ],
)
def test_what_a_section_must_say(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_ual({"curriculum": {"keep": keys}})


def test_rows_are_kept_without_a_curriculum_too() -> None:
    ual = parse_ual({"curriculum": {"keep": {"by": "uncertainty", "at_most": 0.5}}})
    assert ual.curriculum.keep is not None and not ual.curriculum.active


@pytest.mark.parametrize(("max_steps", "steps"), [(None, 3), (2, 2)])
def test_pairs_that_are_kept_are_counted(max_steps: int | None, steps: int) -> None:
    """5 of 6 pairs, twice, in batches of 4: 3 steps."""
    cfg = SimpleNamespace(rl="dpo", num_epochs=2, batch_size=4, max_steps=max_steps)
    pairs = Dataset.from_dict({"ual_gap": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]})
    meta = SimpleNamespace(train_dataset=pairs, total_num_steps=3)
    keep_part(cfg, KeepConfig(by="gap", at_least=0.2), meta)
    assert meta.train_dataset["ual_gap"][:] == [0.2, 0.3, 0.4, 0.5, 0.6]
    assert meta.total_num_steps == steps
    streamed = SimpleNamespace(train_dataset=iter([]), total_num_steps=1)
    with pytest.raises(UALError, match="a streaming dataset is not there"):
        keep_part(cfg, KeepConfig(by="gap", at_least=0.2), streamed)
