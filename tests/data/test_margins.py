"""Target margins of training pairs, fixed on all of them."""

from __future__ import annotations

from typing import Any

import pytest
from datasets import Dataset

from axolotl_ual.data.preference import with_margins
from axolotl_ual.errors import UALError
from axolotl_ual.losses.target_margin import target_margins
from axolotl_ual.settings.preference import MarginConfig

CONFIG = MarginConfig(mean=0.5, tau=0.1)


def test_each_pair_has_the_margin_of_its_gap() -> None:
    gaps = [0.8, 0.1, 0.4]
    found = with_margins(Dataset.from_dict({"ual_gap": gaps, "chosen": ["a", "b", "c"]}), CONFIG)
    assert found["ual_margin"][:] == pytest.approx(target_margins(gaps, 0.5, 0.1).tolist())
    assert found["ual_margin"][0] > found["ual_margin"][2] > found["ual_margin"][1]
    assert found["chosen"][:] == ["a", "b", "c"]
    # By another column, the values of which go the other way.
    by = CONFIG.model_copy(update={"by": "score"})
    again = with_margins(found.add_column("score", [1.0, 3.0, 2.0]), by)
    assert again["ual_margin"][0] < again["ual_margin"][2] < again["ual_margin"][1]


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"gap": [0.1]}, "the training pairs have no column `ual_gap`"),
        ({"ual_gap": [0.1, None]}, "pair 1 has nan, and a target margin needs a finite number"),
        ({"ual_gap": ["wide", "narrow"]}, "a value is not a number"),
        ({"ual_gap": [0.3, 0.3]}, "every pair has 0.3, so that all target margins are equal"),
    ],
)
def test_gaps_that_give_no_margins_are_refused(columns: dict[str, Any], said: str) -> None:
    with pytest.raises(UALError) as caught:
        with_margins(Dataset.from_dict(columns), CONFIG)
    assert caught.value.problem.startswith(f"ual.preference.margin.by: gap: {said}")
