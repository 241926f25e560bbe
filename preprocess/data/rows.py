"""The rows of a loaded dataset as samples, and the types that are read without Axolotl."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import PREFIX
from axolotl_ual.errors import ConfigError, DataError

from .chat import chat_reader
from .chat_fields import ChatFields
from .images import COLUMNS, undecoded
from .load import in_pieces
from .places import locate_rows
from .recipe import Entry, Recipe
from .sample import BadRow, Reader, Sample, Turn
from .single_turn import (
    AlpacaFields,
    alpaca_reader,
    completion_reader,
    custom_reader,
    input_output_reader,
)

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["NATIVE", "Rows", "Sample", "Samples", "Turn", "read_samples"]

_BATCH = 1000
_CSV = (
    "in CSV files empty cells, `NA`, `null` and `None` are read as missing and numbers as numbers: "
    "write JSON Lines where they are texts"
)

_CHAT = ("chat_template", "chat_template.load")

_ALPACA = AlpacaFields()
_OPEN_ORCA = AlpacaFields("question", None, "response", "system_prompt")
_STYLED = {
    "alpaca": _ALPACA,
    "gpteacher": AlpacaFields(output="response"),
    "oasst": AlpacaFields("INSTRUCTION", None, "RESPONSE"),
}
ALPACA_TYPES = {
    **{
        f"{name}{style}": fields
        for name, fields in _STYLED.items()
        for style in ("", ":instruct", ":chat", ":chatml", ":phi")
    },
    "alpaca_chat": _ALPACA,
    "alpaca_chat.load": _ALPACA,
    "alpaca_chat.load_concise": _ALPACA,
    "alpaca_chat.load_no_prompt": _ALPACA,
    "alpaca_chat.load_qa": AlpacaFields("question", None, "answer"),
    "alpaca_chat.load_camel_ai": AlpacaFields("message_1", None, "message_2"),
    "alpaca_instruct": _ALPACA,
    "alpaca_instruct.load": _ALPACA,
    "alpaca_instruct.load_no_prompt": _ALPACA,
    "alpaca_w_system": AlpacaFields(system="system"),
    "alpaca_w_system.load": AlpacaFields(system="system"),
    "alpaca_w_system.load_chat": AlpacaFields(system="system"),
    "alpaca_w_system.load_instruct": AlpacaFields(system="system"),
    "alpaca_w_system.load_open_orca": _OPEN_ORCA,
    "alpaca_w_system.load_open_orca_chatml": _OPEN_ORCA,
}
"""The columns of the types that are alpaca's."""

MakeReader = Callable[[Mapping[str, Any], bool, str], Reader[Sample]]
"""From an entry's keys, `train_on_inputs`, and what error messages call the entry."""


def _alpaca(fields: AlpacaFields) -> MakeReader:
    return lambda _entry, _train_on_inputs, _where: alpaca_reader(fields)


def _chat(entry: Mapping[str, Any], train_on_inputs: bool, where: str) -> Reader[Sample]:
    return chat_reader(ChatFields.of(entry, train_on_inputs, where))


def _input_output(_entry: Mapping[str, Any], train_on_inputs: bool, _where: str) -> Reader[Sample]:
    return input_output_reader(train_on_inputs)


def _completion(entry: Mapping[str, Any], _train_on_inputs: bool, _where: str) -> Reader[Sample]:
    return completion_reader(entry.get("field") or "text")


NATIVE: dict[str, MakeReader] = {
    **{name: _alpaca(fields) for name, fields in ALPACA_TYPES.items()},
    "chat_template": _chat,
    "chat_template.load": _chat,
    "input_output": _input_output,
    "input_output.load": _input_output,
    "completion": _completion,
    "completion.load": _completion,
}
"""Types that are read without Axolotl; a mapping (a custom type) is as well, any other is not."""


T_co = TypeVar("T_co", covariant=True)


class Rows(Sequence[T_co]):
    """Rows of a dataset, each read and converted when it is asked for.

    Args:
        table: the rows, on disk as far as `datasets` keeps them there.
        entry: where they come from.
        reader: how a row becomes what is wanted of it: a sample, or a prompt.
        numbers: the rows to take, ascending; None takes all.
        changed: what takes the place of rows, by their number.
    """

    def __init__(
        self,
        table: Dataset,
        entry: Entry,
        reader: Reader[T_co],
        numbers: npt.NDArray[np.int64] | None = None,
        changed: Mapping[int, T_co] | None = None,
    ) -> None:
        self._table = table
        self._entry = entry
        self.reader = reader
        self._columns = list(table.column_names)
        read = {*reader.needed, *reader.optional}
        present = [name for name in self._columns if name in read]
        self._rows = undecoded(table.select_columns(present) if present else table)
        self._numbers = np.arange(len(table)) if numbers is None else numbers
        self._changed = changed or {}

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[T_co]:
        for number, row in self._iterate():
            yield self._read(number, row)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        number = int(self._numbers[index])
        return self._read(number, self._rows[number])

    def only(
        self, numbers: npt.NDArray[np.int64], changed: Mapping[int, T_co] | None = None
    ) -> Rows[T_co]:
        """Some of the rows.

        Args:
            numbers: of the rows in the table, ascending.
            changed: what takes the place of rows, by their number.
        """
        merged = {**self._changed, **(changed or {})}
        return Rows(self._table, self._entry, self.reader, numbers, merged)

    def unreadable(self) -> dict[int, BadRow]:
        """Read every row once, so that bad rows are known before anything is paid for.

        Returns:
            What is wrong with each row that cannot be read, by its number.

        Raises:
            DataError: a needed column is missing, or there are no rows.
        """
        self._check_columns()
        if not len(self):
            raise DataError(f"{self._entry.label}: the dataset has no rows", "name another dataset")
        bad = {}
        for number, row in self._iterate():
            try:
                self.reader.read(row)
            except BadRow as problem:
                bad[number] = problem
        return bad

    def check(self, limit: int = 10) -> None:
        """Read every row once and refuse bad ones.

        Args:
            limit: bad rows that the error names.

        Raises:
            DataError: see `unreadable`; or there are bad rows: the first of them by file, row and
                line, with key and value, and how many there are.
        """
        bad = self.unreadable()
        if bad:
            raise unreadable_rows(self._entry, bad, len(self), limit)

    def _check_columns(self) -> None:
        missing = [name for name in self.reader.needed if name not in self._columns]
        if missing:
            kind = self._entry.type if isinstance(self._entry.type, str) else "this custom type"
            raise DataError(
                f"{self._entry.label}: no row has the key {_names(missing)} that `type: {kind}` "
                f"reads; there are {_names(self._columns)}",
                self.reader.hint,
            )

    def _iterate(self) -> Iterator[tuple[int, Mapping[str, Any]]]:
        wanted = np.zeros(len(self._rows), dtype=np.bool_)
        wanted[self._numbers] = True
        number = 0
        for piece in in_pieces(self._rows):
            for batch in piece.iter(batch_size=_BATCH):
                names = list(batch)
                for values in zip(*batch.values(), strict=True):
                    if wanted[number]:
                        yield number, dict(zip(names, values, strict=True))
                    number += 1

    def _read(self, number: int, row: Mapping[str, Any]) -> T_co:
        if number in self._changed:
            return self._changed[number]
        try:
            return self.reader.read(row)
        except BadRow as problem:
            raise unreadable_rows(self._entry, {number: problem}, len(self)) from None


class Concatenated(Sequence[T_co]):
    """Several sequences as one lazy sequence."""

    def __init__(self, parts: Sequence[Sequence[T_co]]) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[T_co]:
        return itertools.chain.from_iterable(self._parts)

    @overload
    def __getitem__(self, index: int) -> T_co: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[T_co]: ...
    def __getitem__(self, index: int | slice) -> T_co | Sequence[T_co]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part] - len(self._parts[part]))]


Samples = Rows[Sample]
"""The rows of a dataset as samples."""


def read_samples(table: Dataset, entry: Entry, recipe: Recipe) -> Samples:
    """The rows of a dataset as samples.

    Args:
        table: what `datasets_io.load_entry` gave for the entry, or the first rows of it.
        entry: the dataset's entry in the recipe.
        recipe: the recipe.

    Raises:
        ConfigError: the type is unknown, or an option of the entry is wrong.
        DataError: the data are annotated already.
        UALError: the type is read through Axolotl, and Axolotl cannot be used.
    """
    _refuse_annotated(table, entry)
    return Rows(table, entry, _reader(table, entry, recipe))


def _refuse_annotated(table: Dataset, entry: Entry) -> None:
    ours = [name for name in table.column_names if name.startswith(PREFIX)]
    if ours:
        raise DataError(
            f"{entry.label}: has the column {_names(ours)} already, so these data are annotated",
            "take `annotate:` out of `ual:` and train on them as they are, or drop the columns "
            "that begin with ual_ to annotate anew",
        )


def _reader(table: Dataset, entry: Entry, recipe: Recipe) -> Reader[Sample]:
    where = f"{recipe.path}: {entry.label}"
    train_on_inputs = recipe.raw.get("train_on_inputs") is True
    if {"input_ids", "attention_mask", "labels"} <= set(table.column_names):
        from .tokenised import tokenised_reader

        return tokenised_reader(recipe)
    if entry.type is None and {"input_ids", "labels"} <= set(table.column_names):
        raise DataError(
            f"{entry.label}: has `input_ids` and `labels` and no `attention_mask`, and Axolotl "
            "takes rows as tokenised already only where they have all three",
            "add the column `attention_mask`: as many ones as there are input_ids",
        )
    if entry.type is None:
        raise ConfigError(
            f"{where}: type: this key is needed, unless the data are tokenised already",
            "name how the rows are read, for example `type: alpaca` or `type: chat_template`",
        )
    if not isinstance(entry.type, str):
        return custom_reader(entry.type, f"{where}: type")
    if entry.type in _CHAT:
        return chat_reader(_with_images(ChatFields.of(entry.raw, train_on_inputs, where), recipe))
    if entry.type in NATIVE:
        return NATIVE[entry.type](entry.raw, train_on_inputs, where)
    from .tokenised import masked_reader

    return masked_reader(table, entry, recipe, known=list(NATIVE))


def _with_images(fields: ChatFields, recipe: Recipe) -> ChatFields:
    """Only a processor reads columns of images."""
    annotate = recipe.ual.annotate
    return replace(
        fields,
        images="error" if annotate is None else annotate.images,
        image_detail="auto" if annotate is None else annotate.image_detail,
        image_columns=COLUMNS if recipe.raw.get("processor_type") else (),
    )


def unreadable_rows(
    entry: Entry, bad: Mapping[int, BadRow], rows: int, limit: int = 10, instead: str = ""
) -> DataError:
    """The error that names rows that cannot be read.

    Args:
        entry: of the dataset.
        bad: what is wrong, by the number of the row.
        rows: of the dataset.
        limit: rows that are named.
        instead: what else can be done than to mend them.
    """
    first = dict(itertools.islice(bad.items(), limit))
    places = locate_rows(entry, list(first))
    lines = [
        f"{places[number]}: `{problem.key}` {problem.problem}" for number, problem in first.items()
    ]
    if len(bad) > len(first):
        lines.append(f"... and {len(bad) - len(first):,} more")
    head = f"{entry.label}: {len(bad):,} of {rows:,} rows cannot be read"
    fixes = list(dict.fromkeys(problem.fix for problem in bad.values() if problem.fix))
    fix = fixes[0] if fixes else "mend these rows, or take them out of the data"
    if not fixes and entry.path.endswith(".csv"):
        fix = f"{fix}; {_CSV}"
    return DataError("\n    ".join([head, *lines]), f"{fix}; {instead}" if instead else fix)


def _names(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
