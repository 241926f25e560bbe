"""Rows of a dataset as samples, for tests of the readers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets

from axolotl_ual.preprocess.data.recipe import Entry, Recipe
from axolotl_ual.preprocess.data.rows import Samples, Turn, read_samples
from axolotl_ual.settings.ual import UALConfig

Rows = Sequence[Mapping[str, Any]]

CHAT = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Two plus two?"},
            {"role": "assistant", "content": "Four."},
            {"role": "user", "content": "And three?"},
            {"role": "assistant", "content": "Seven, of course."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Capital of Peru?"},
            {"role": "assistant", "content": "Lima."},
        ]
    },
]

SHAREGPT = [
    {
        "conversations": [
            {"from": "human", "value": "Name a colour."},
            {"from": "gpt", "value": "Blue."},
        ]
    }
]

# "Bad answer." is characters 0 to 10, " Good answer." 11 to 23: ends are inclusive.
DETAILED = [
    {
        "messages": [
            {"role": "user", "content": "Answer.", "detail": None},
            {
                "role": "assistant",
                "content": "Bad answer. Good answer.",
                "detail": [
                    {"begin_offset": 0, "end_offset": 10, "train": False},
                    {"begin_offset": 11, "end_offset": 23, "train": True},
                ],
            },
        ]
    }
]

CUSTOM = {
    "field_instruction": "q",
    "field_input": "context",
    "field_output": "a",
    "field_system": "sys",
    "system_prompt": "You answer.",
    "system_format": "<<{system}>>\n",
    "format": "[{instruction} | {input}] ",
    "no_input_format": "[{instruction}] ",
}


def entry_of(**raw: Any) -> Entry:
    raw.setdefault("path", "data.jsonl")
    return Entry(0, raw, raw["path"], raw.get("type"), "data.jsonl")


def samples_of(rows: Rows, *, recipe: Mapping[str, Any] | None = None, **raw: Any) -> Samples:
    entry = entry_of(**raw)
    table = datasets.Dataset.from_list([dict(row) for row in rows])
    settings = dict(recipe or {})
    return read_samples(
        table, entry, Recipe(Path("r.yaml"), settings, None, 42, UALConfig(), [entry])
    )


def turns_of(row: Mapping[str, Any], **raw: Any) -> tuple[Turn, ...]:
    recipe = raw.pop("recipe", None)
    return samples_of([row], recipe=recipe, **raw)[0].turns


def trained(samples: Samples) -> list[str]:
    return ["".join(turn.text for turn in sample.turns if turn.trained) for sample in samples]
