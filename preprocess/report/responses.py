"""All sampled responses of a folder of pairs: their numbers, and the texts beside shown pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from axolotl_ual.columns import PREFIX, UNCERTAINTY

from ..data.responses import PROMPT_ID, RESPONSE, RESPONSE_CHAT, RESPONSE_ID, STATUS
from .rows import LONGEST, answer, shown
from .values import BATCH, FloatArray, is_number, open_parquet, read_numbers

ENTROPY: Final = "semantic_entropy"
CLUSTER: Final = "cluster"
SPREADS: Final = ("value_spread_principles", "value_spread_repeats")
_NUMBERS: Final = frozenset({*SPREADS, ENTROPY, CLUSTER})
"""Read beside uncertainty and all dimensions."""
_LONGEST_OTHER: Final = 4_000
"""Characters that are shown of a response that is neither chosen nor rejected."""


@dataclass(frozen=True, slots=True)
class Responses:
    """R responses of all prompts.

    Attributes:
        prompt_R: int64, `prompt_id`; responses of a prompt stand together.
        numbers: name of a column -> float32 of shape (R,), NaN where there is none.
        statuses: number of responses by status.
    """

    prompt_R: npt.NDArray[np.int64]
    numbers: dict[str, FloatArray]
    statuses: dict[str, int] = field(default_factory=dict)

    @property
    def dimensions(self) -> list[str]:
        """Columns of the dimensions, in the order of the file."""
        return [n for n in self.numbers if n.startswith(PREFIX) and n != UNCERTAINTY]

    def known(self, names: Iterable[str]) -> dict[str, FloatArray]:
        """Those of some columns that have a value somewhere."""
        there = {name: self.numbers[name] for name in names if name in self.numbers}
        return {name: array for name, array in there.items() if np.isfinite(array).any()}


def read_responses(path: Path) -> Responses:
    """Read the scores of every response.

    Raises:
        DataError: the file cannot be read.
    """
    with open_parquet(path) as file:
        schema, rows = file.schema_arrow, file.metadata.num_rows
        names = [
            column.name
            for column in schema
            if is_number(column.type)
            and (column.name.startswith(PREFIX) or column.name in _NUMBERS)
        ]
        prompt_R = np.empty(rows, dtype=np.int64)
        statuses: Counter[str] = Counter()
        start = 0
        wanted = [name for name in (PROMPT_ID, STATUS) if name in schema.names]
        for batch in file.iter_batches(batch_size=BATCH, columns=wanted):
            place = slice(start, start + batch.num_rows)
            start = place.stop
            prompt_R[place] = batch.column(PROMPT_ID).to_numpy(zero_copy_only=False)
            if STATUS in wanted:
                statuses.update(batch.column(STATUS).to_pylist())
    return Responses(prompt_R, dict(read_numbers(path, names, rows)), dict(statuses))


def first_of_prompts(prompt_R: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Place of the first response of each prompt."""
    _, first = np.unique(prompt_R, return_index=True)
    return first.astype(np.int64)


def clusters_of_prompts(prompt_R: npt.NDArray[np.int64], cluster_R: FloatArray) -> FloatArray:
    """Number of different clusters of each prompt, NaN where no response has one."""
    _, prompt = np.unique(prompt_R, return_inverse=True)
    known = np.isfinite(cluster_R)
    both = np.unique(np.stack([prompt[known], cluster_R[known].astype(np.int64)]), axis=1)
    counts = np.bincount(both[0], minlength=int(prompt.max()) + 1 if prompt.size else 0)
    return np.where(counts > 0, counts, np.nan).astype(np.float32)


def read_beside(
    path: Path, prompts: Iterable[int], scores: Sequence[str]
) -> dict[int, list[list[Any]]]:
    """Every response to some prompts, for the page.

    Args:
        path: the file.
        prompts: `prompt_id` of those that are shown.
        scores: columns of numbers.

    Returns:
        prompt_id -> responses in their order, each as [number, used as "chosen", "rejected" or
        null, status, cluster or null, text, characters left out, a number or null for each score].
    """
    wanted = pa.array(sorted(prompts), type=pa.int64())
    found: dict[int, list[list[Any]]] = {}
    with open_parquet(path) as file:
        there = set(file.schema_arrow.names)
        columns = [
            name
            for name in (
                PROMPT_ID,
                RESPONSE_ID,
                RESPONSE,
                STATUS,
                RESPONSE_CHAT,
                "used_as",
                CLUSTER,
                *scores,
            )
            if name in there
        ]
        for batch in file.iter_batches(batch_size=BATCH, columns=columns):
            mask = pc.is_in(batch.column(PROMPT_ID).cast(pa.int64()), value_set=wanted)
            for row in batch.filter(mask).to_pylist():
                group = found.setdefault(row[PROMPT_ID], [])
                group.append(_beside(row, len(group), scores))
    return found


def _beside(row: dict[str, Any], place: int, scores: Sequence[str]) -> list[Any]:
    used, chat = row.get("used_as"), row.get(RESPONSE_CHAT)
    longest = LONGEST if used else _LONGEST_OTHER
    return [
        row.get(RESPONSE_ID, place),
        used,
        row.get(STATUS),
        row.get(CLUSTER),
        *shown(answer(orjson.loads(chat)) if chat else row.get(RESPONSE) or "", longest),
        *(row.get(name) for name in scores),
    ]
