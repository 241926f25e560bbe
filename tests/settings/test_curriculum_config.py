"""`ual.curriculum` and `ual.preference`: what they accept, and what they say when they do not."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.columns import GAP, STAGE, UNCERTAINTY
from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.ual import parse_ual


def section(**settings: Any) -> dict[str, Any]:
    return {"curriculum": {"mode": "phased", **settings}}


def test_a_value_stands_for_every_stage() -> None:
    curriculum = parse_ual(section(epochs=2, learning_rate_scale=0.5)).curriculum
    assert curriculum.stage_epochs(7) == [2, 2, 2]
    assert curriculum.stage_scales() == [0.5, 0.5, 0.5]


def test_without_epochs_the_recipe_counts() -> None:
    assert parse_ual(section()).curriculum.stage_epochs(4) == [4, 4, 4]


def test_the_gap_comes_largest_first() -> None:
    gap, uncertainty, named = (
        parse_ual(section(by=by)).curriculum for by in ("gap", "uncertainty", "difficulty")
    )
    assert (gap.column, gap.descending) == (GAP, True)
    assert (uncertainty.column, uncertainty.descending) == (UNCERTAINTY, False)
    assert (named.column, named.descending) == ("difficulty", False)
    assert parse_ual(section()).curriculum.column == STAGE
    assert not parse_ual(section(by="gap", direction="ascending")).curriculum.descending


def test_what_was_resolved_can_be_read_again() -> None:
    """Axolotl validates a recipe, and gives the plugin every default spelled out."""
    for raw in ({}, section(epochs=[1, 0, 2], evaluate_at_boundary=True)):
        config = parse_ual(raw)
        assert parse_ual(config.model_dump()) == config


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (section(epochs=[1, 2]), "has 2 values for the 3 stages"),
        (section(epochs=[0, 0, 0]), "trains on nothing"),
        (section(epochs=1.5), "must be a whole number"),
        (section(epochs=[1, -1, 1]), "must be a whole number"),
        (section(learning_rate_scale=[1.0]), "has 1 values for the 3 stages"),
        (section(learning_rate_scale=0), "must be a number above 0"),
        (section(order=["easy", "easy"]), "names a stage twice"),
        (section(direction="descending"), "`direction` is for numbers"),
        (section(mod="x"), "did you mean `mode`?"),
        ({"curriculum": {"epochs": 2}}, "`epochs` has no effect with `mode: none`"),
        ({"preference": {"beta": [0.1, 0.2, 0.3]}}, "`curriculum.mode: none` has none"),
        ({**section(), "preference": {"beta": [0.1]}}, "has 1 values for the 3 stages"),
        ({**section(), "preference": {"beta": 0.1}}, "must be a list of numbers above 0"),
        ({**section(), "preference": {"beta": [0.1, 0, 1]}}, "must be a list of numbers above 0"),
    ],
)
def test_wrong_settings_are_named(raw: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_ual(raw)
    assert said in str(error.value)
