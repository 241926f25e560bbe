"""A reward for `rl: grpo` on questions that have one answer, such as mathematics.

Name another of your own in its place: `trl.reward_funcs` takes any `module.function` that can be
imported where `axolotl train` runs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")


def correct(
    prompts: Sequence[Any], completions: Sequence[Any], answer: Sequence[str], **columns: Any
) -> list[float]:
    r"""1 where a response ends at the answer of its row, and 0 elsewhere.

    The end is the last `\boxed{...}`, or the last number where there is none.

    Args:
        prompts: what was asked, which is not looked at.
        completions: the responses: texts, or dialogues of one message.
        answer: the column `answer` of the rows.
        columns: the others.
    """
    return [
        float(final(said if isinstance(said, str) else said[-1]["content"]) == final(right))
        for said, right in zip(completions, map(str, answer), strict=True)
    ]


def final(text: str) -> str | None:
    """What a text ends at: without spaces and thousands' commas; None where it has no number."""
    found = _BOXED.findall(text) or _NUMBER.findall(text)
    return re.sub(r"[\s,]", "", found[-1]) if found else None
