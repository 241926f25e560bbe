"""What is known of blocks of prompts, as what is known of all of them."""

from __future__ import annotations

from typing import Any

from axolotl_ual.preprocess.engines.pairing import joined_facts


def test_counts_add_up_and_lists_are_listed_once() -> None:
    parts: list[dict[str, Any]] = [
        {"model": "m", "prompts_cut": 1, "cut": {"context": 2, "response": 0}, "served": ["a"]},
        {"model": "m", "prompts_cut": 0, "served": ["b", "a"]},
        {"model": "m", "prompts_cut": 4, "cut": {"context": 1, "response": 3}, "logprobs": True},
    ]
    assert joined_facts(parts) == {
        "model": "m",
        "prompts_cut": 5,
        "cut": {"context": 3, "response": 3},
        "served": ["a", "b"],
        "logprobs": True,
    }


def test_what_differs_is_not_hidden() -> None:
    assert joined_facts([{"logprobs": True}, {"logprobs": False}]) == {"logprobs": [True, False]}
