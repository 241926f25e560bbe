"""One pass over the texts of all rows: their lengths, and the records of those that are shown.

A record is JSON. Of an annotated row:

    {"t": turns}

and of a pair:

    {"t": turns of the prompt, "c": chosen, "r": rejected, "p": prompt_id}

A turn is [role or null, text, characters left out, 1 where it is trained, 1 where it continues the
turn before]; a response is [text, characters left out].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from axolotl_ual.columns import PREFIX

from ..data.prompt import CHAT, MESSAGES
from ..data.responses import PROMPT_ID
from ..data.sample import Row, Turn
from ..progress import Progress
from .folder import Folder, Part
from .keeper import Keeper
from .sample import Priorities
from .texts import CHARACTERS, TOKENS, Measures, Turns, text_reader
from .values import BATCH, open_parquet

FloatArray = npt.NDArray[np.float32]
LONGEST: Final = 30_000
"""Characters of a turn that are shown."""


@dataclass(slots=True)
class Texts:
    """What the texts of N rows measure.

    Attributes:
        length_N: float32, length of the response, of the chosen one in a pair; NaN: not known.
        rejected_N: float32, length of the rejected response; None for annotated rows.
        turns_N: float32, number of messages; of the prompt in a pair.
        unit: of lengths.
    """

    length_N: FloatArray
    rejected_N: FloatArray | None
    turns_N: FloatArray
    unit: str


def read_texts(folder: Folder, priority_N: Priorities, kept: Keeper, progress: Progress) -> Texts:
    """Read all texts once, a batch at a time.

    Args:
        folder: with N rows.
        priority_N: the least is kept first.
        kept: takes the records.
        progress: advances by one for each row.
    """
    rows = folder.rows
    pairs = folder.kind == "pairs"
    nothing = np.full(rows, np.nan, dtype=np.float32)
    texts = Texts(nothing.copy(), nothing.copy() if pairs else None, nothing.copy(), CHARACTERS)
    units, start = set(), 0
    for part in folder.parts:
        reader = _pair_reader(part) if pairs else _sample_reader(part)
        units.add(reader.unit)
        with open_parquet(part.path) as file:
            for batch in file.iter_batches(batch_size=BATCH, columns=reader.columns):
                place = slice(start, start + batch.num_rows)
                start = place.stop
                measured, rejected = reader.measure(batch)
                texts.length_N[place] = measured.length_B
                texts.turns_N[place] = measured.turns_B
                if texts.rejected_N is not None and rejected is not None:
                    texts.rejected_N[place] = rejected
                _keep(batch, place, priority_N, reader.record, kept)
                progress.advance(batch.num_rows)
    texts.unit = TOKENS if units == {TOKENS} else CHARACTERS
    return texts


@dataclass(frozen=True, slots=True)
class _RowReader:
    columns: list[str]
    unit: str
    measure: Callable[[pa.RecordBatch], tuple[Measures, FloatArray | None]]
    record: Callable[[Row], bytes]


def _keep(
    batch: pa.RecordBatch,
    place: slice,
    priority_N: Priorities,
    record: Callable[[Row], bytes],
    kept: Keeper,
) -> None:
    places = np.flatnonzero(kept.wanted(priority_N[place]))
    if not places.size:
        return
    wanted = batch if places.size == batch.num_rows else batch.take(pa.array(places))
    for at, row in zip(places, wanted.to_pylist(), strict=True):
        number = place.start + int(at)
        kept.offer(number, int(priority_N[number]), record(row))


def _sample_reader(part: Part) -> _RowReader:
    reader = text_reader(part)

    def record(row: Row) -> bytes:
        return dump({"t": shown_turns(reader.turns(row))})

    return _RowReader(
        reader.columns, reader.unit, lambda batch: (reader.measure(batch), None), record
    )


def _pair_reader(part: Part) -> _RowReader:
    columns = [name for name in part.schema.names if not name.startswith(PREFIX)]

    def record(row: Row) -> bytes:
        # A dialogue with tools or reasoning is whole there alone.
        row = {**row, **(orjson.loads(row[CHAT]) if row.get(CHAT) else {})}
        turns = tuple(_as_turn(message) for message in row.get(MESSAGES) or [])
        if not turns and row.get("prompt") is not None:
            turns = (Turn("user", str(row["prompt"]), False),)
        return dump(
            {
                "t": shown_turns(turns),
                "c": shown(answer(row.get("chosen"))),
                "r": shown(answer(row.get("rejected"))),
                "p": row.get(PROMPT_ID),
            }
        )

    return _RowReader(columns, CHARACTERS, _measure_pairs, record)


def _measure_pairs(batch: pa.RecordBatch) -> tuple[Measures, FloatArray]:
    turns = np.full(batch.num_rows, np.nan, dtype=np.float32)
    if MESSAGES in batch.schema.names:
        counts = pc.list_value_length(batch.column(MESSAGES))
        turns = counts.cast(pa.float32()).to_numpy(zero_copy_only=False)
    chosen, rejected = (_answer_lengths(batch, name) for name in ("chosen", "rejected"))
    return Measures(chosen, turns), rejected


def _answer_lengths(batch: pa.RecordBatch, name: str) -> FloatArray:
    if name not in batch.schema.names:
        return np.full(batch.num_rows, np.nan, dtype=np.float32)
    column = batch.column(name)
    if pa.types.is_struct(column.type) and "content" in {field.name for field in column.type}:
        column = pc.struct_field(column, "content")
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        lengths = pc.utf8_length(column).cast(pa.float32())
        found: FloatArray = lengths.to_numpy(zero_copy_only=False)
        return found
    return np.array([len(answer(value)) for value in column.to_pylist()], dtype=np.float32)


def answer(value: Any) -> str:
    """The text of a response: a text, a message, or a dialogue that ends with it."""
    if isinstance(value, list):
        value = value[-1] if value else None
    if isinstance(value, Mapping):
        return _said(value)
    return "" if value is None else str(value)


def _as_turn(message: Mapping[str, Any]) -> Turn:
    return Turn(str(message.get("role")), _said(message), False)


def _said(message: Mapping[str, Any]) -> str:
    """Reasoning, text and calls of tools of a message, a part a line."""
    parts = [message.get("reasoning_content"), message.get("content")]
    calls = [call.get("function", call) for call in message.get("tool_calls") or ()]
    parts += [orjson.dumps(call).decode() for call in calls]
    return "\n".join(str(part) for part in parts if part)


def shown_turns(turns: Turns) -> list[list[Any]]:
    """Turns as a record has them."""
    return [
        [turn.role, *shown(turn.text), int(turn.trained), int(turn.continues)] for turn in turns
    ]


def shown(text: str, longest: int = LONGEST) -> tuple[str, int]:
    """The beginning of a text, and how many characters are left out."""
    return text[:longest], max(0, len(text) - longest)


def dump(record: Any) -> bytes:
    """A record as JSON; what UTF-8 cannot carry becomes a question mark."""
    try:
        return orjson.dumps(record)
    except TypeError:
        return orjson.dumps(_encodable(record))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, (list, tuple)):
        return [_encodable(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _encodable(item) for key, item in value.items()}
    return value
