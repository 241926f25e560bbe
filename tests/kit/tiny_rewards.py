"""A dataset type and a reward for `rl: grpo`, which writes down what was really answered.

Each process appends a line to `ANSWERED.RANK` beside the recipe for each time that responses are
sampled: the prompts of its responses, in order.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin

ANSWERED = "answered"


def transform(cfg: Any, **options: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """What Axolotl's loader makes of `type: tiny_rewards.transform`."""

    def prompt(row: dict[str, Any], tokenizer: Any = None) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": row["question"]}]}

    return prompt, {"remove_columns": ["question"]}


def few_letters(
    prompts: Sequence[Any], completions: Sequence[Any], pass_rate: Sequence[float], **columns: Any
) -> list[float]:
    """Rewards that differ between responses; the rows' own columns are at hand."""
    asked = [prompt[-1]["content"] for prompt in prompts]
    assert len(pass_rate) == len(asked) == len(columns["ual_stage"])
    path = Path(f"{ANSWERED}.{os.environ.get('RANK', '0')}")
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(asked) + "\n")
    return [-float(len(set(completion[-1]["content"]))) for completion in completions]


def with_truth(cfg: Any, **options: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    """The same with the response that `rl: ebft` compares with."""
    prompt, removed = transform(cfg, **options)

    def with_response(row: dict[str, Any], tokenizer: Any = None) -> dict[str, Any]:
        return {**prompt(row), "ground_truth": f"answer to {row['question']}"}

    return with_response, removed


class WritesAnswered(BasePlugin):
    """Puts the reward that writes down what was answered beside the trainer's own."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        (own,) = trainer.reward_funcs

        def both(prompts: Any, completions: Any, **columns: Any) -> Any:
            few_letters(prompts, completions, **columns)
            return own(prompts=prompts, completions=completions, **columns)

        trainer.reward_funcs[0] = both


def answered(folder: Path, processes: int = 1) -> list[list[str]]:
    """The prompts of each time that responses were sampled, over all processes."""
    lines = [
        (folder / f"{ANSWERED}.{rank}").read_text(encoding="utf-8").splitlines()
        for rank in range(processes)
    ]
    return [
        [prompt for part in turn for prompt in json.loads(part)]
        for turn in zip(*lines, strict=True)
    ]
