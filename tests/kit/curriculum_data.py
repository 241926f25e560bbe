"""Rows and pairs with stages, for runs of `axolotl train`."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import tiny

NAMES = ("conservative", "moderate", "exploratory")
_WORDS = ("red", "blue", "green", "five", "cat")


def write_samples(path: Path, counts: tuple[int, int, int], seed: int = 0) -> Path:
    """Instruction rows, `counts` of each stage, in a mixed order."""
    draw = random.Random(seed)
    stages = [stage for stage, count in enumerate(counts) for _ in range(count)]
    draw.shuffle(stages)
    rows = []
    for number, stage in enumerate(stages):
        uncertainty = (stage + draw.random()) / 3
        rows.append(
            {
                "instruction": f"question {number}",
                "output": " ".join(draw.choices(_WORDS, k=draw.randint(2, 12))),
                "difficulty": 1.0 - uncertainty,
                "ual_uncertainty": uncertainty,
                "ual_smoothing": 0.2 * uncertainty,
                "ual_stage": NAMES[stage],
            }
        )
    return tiny.write_rows(path, rows)


def write_pairs(path: Path, counts: tuple[int, int, int], seed: int = 0) -> Path:
    """Preference pairs, `counts` of each stage, in a mixed order."""
    draw = random.Random(seed)
    stages = [stage for stage, count in enumerate(counts) for _ in range(count)]
    draw.shuffle(stages)
    rows = []
    for number, stage in enumerate(stages):
        gap = 1.0 - (stage + draw.random()) / 3

        def say(opening: str) -> dict[str, str]:
            words = " ".join(draw.choices(_WORDS, k=draw.randint(1, 10)))
            return {"role": "assistant", "content": f"{opening} {words}"}

        rows.append(
            {
                "messages": [{"role": "user", "content": f"question {number}"}],
                "chosen": say("good"),
                "rejected": say("bad"),
                "ual_gap": gap,
                "ual_smoothing": 0.3 * (1.0 - gap),
                "ual_stage": NAMES[stage],
            }
        )
    return tiny.write_rows(path, rows)


def pairs_entry(path: Path) -> dict[str, Any]:
    """The `datasets:` entry of preference pairs."""
    return {
        "path": str(path),
        "type": "chat_template.default",
        "field_messages": "messages",
        "field_chosen": "chosen",
        "field_rejected": "rejected",
        "split": "train",
    }
