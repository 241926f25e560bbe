"""Local JSON and JSON Lines files, row by row, with the number of the line.

`datasets` reads these files by itself, and says little where one is broken. So they are walked
here first: a line that is no JSON, a row that is no object, and a key that holds a text in one row
and an object in another are named with file, row and line.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import orjson

from axolotl_ual.errors import DataError

from .sample import kind_of, shorten

_BOM = b"\xef\xbb\xbf"
_CONTAINERS = ("an object", "a list")
_ONE_OBJECT_PER_LINE = "write one JSON object per line"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row lies; the line is None where rows are not lines."""

    path: Path
    row: int
    line: int | None

    def __str__(self) -> str:
        line = "" if self.line is None else f" (line {self.line})"
        return f"{self.path}: row {self.row}{line}"


def check_json(paths: Iterable[Path]) -> None:
    """Walk the files of one dataset.

    Raises:
        DataError: a row is broken, is no object, or differs in kind from a row before it.
    """
    seen: dict[str, tuple[str, Place]] = {}
    for path in paths:
        rows = 0
        for place, row in read_rows(path):
            rows += 1
            if not isinstance(row, dict):
                raise DataError(
                    f"{place}: is {kind_of(row)} and not an object: {shorten(row)}",
                    _ONE_OBJECT_PER_LINE,
                )
            _check_kinds(row, place, seen)
        if not rows:
            raise DataError(f"{path}: holds no rows", "name another file")


def read_rows(path: Path) -> Iterator[tuple[Place, Any]]:
    """The rows of a JSON Lines file, or of a file that is one JSON list or object.

    Raises:
        DataError: a line is not JSON.
    """
    with _open(path) as stream:
        row = 0
        for number, line in enumerate(stream, start=1):
            line = line.removeprefix(_BOM if number == 1 else b"").strip()
            if not line:
                continue
            try:
                value = _parse(line)
            except orjson.JSONDecodeError as error:
                if row:
                    raise _broken(Place(path, row, number), error, line) from None
                yield from _one_value(path, Place(path, row, number), error, line)
                return
            if row == 0 and isinstance(value, list) and not _has_text(stream):
                yield from _elements(path, value)
                return
            yield Place(path, row, number), value
            row += 1


def is_readable(path: Path) -> bool:
    """Whether the file is plain, or compressed in a way that the standard library opens."""
    with path.open("rb") as stream:
        return not stream.read(4).startswith((b"PK\x03\x04", b"(\xb5/\xfd", b"\x04\x22\x4d\x18"))


def _open(path: Path) -> IO[bytes]:
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x1f\x8b"):
        return cast("IO[bytes]", gzip.open(path))
    if magic.startswith(b"BZh"):
        return cast("IO[bytes]", bz2.open(path))
    if magic.startswith(b"\xfd7zXZ\x00"):
        return cast("IO[bytes]", lzma.open(path))
    return path.open("rb")


def _parse(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        if b"NaN" in text or b"Infinity" in text:  # which `datasets` reads and orjson does not
            try:
                return json.loads(text)
            except ValueError:
                pass
        raise


def _has_text(stream: IO[bytes]) -> bool:
    """Whether anything but white space is left; reads on only where it is not."""
    return any(line.strip() for line in stream)


def _one_value(
    path: Path, place: Place, error: orjson.JSONDecodeError, line: bytes
) -> Iterator[tuple[Place, Any]]:
    """The rows of a file whose first line is not a value: the file may be one value."""
    with _open(path) as stream:
        text = stream.read().removeprefix(_BOM)
    try:
        value = _parse(text)
    except orjson.JSONDecodeError as whole:
        raise _broken(place, whole if text.lstrip()[:1] == b"[" else error, line) from None
    if isinstance(value, list):
        yield from _elements(path, value)
    else:
        yield Place(path, 0, None), value


def _elements(path: Path, values: list[Any]) -> Iterator[tuple[Place, Any]]:
    """The rows of a file that is one list; texts are rows with a `text`, as `datasets` reads it."""
    texts = all(isinstance(value, str) for value in values)
    for row, value in enumerate(values):
        yield Place(path, row, None), {"text": value} if texts else value


def _broken(place: Place, error: orjson.JSONDecodeError, line: bytes) -> DataError:
    return DataError(f"{place}: is not JSON: {error.msg}, at column {error.colno}", _mend(line))


def _mend(line: bytes) -> str:
    """How to mend a line, by what is often wrong with one."""
    if line.startswith((_BOM, b"\xff\xfe", b"\xfe\xff")):
        return "save the file as UTF-8, without a byte order mark"
    try:
        line.decode()
    except UnicodeDecodeError:
        return "the file is not UTF-8: convert it, for example by `iconv -f latin1 -t utf-8`"
    if line.endswith(b"},"):
        return "take the comma at the end of each line out, or put the lines between [ and ]"
    if line in (b"{", b"["):
        return "write one JSON object per line, for example by `jq -c .` on the file"
    return _ONE_OBJECT_PER_LINE


def _check_kinds(row: dict[str, Any], place: Place, seen: dict[str, tuple[str, Place]]) -> None:
    for key, value in row.items():
        if value is None:
            continue
        kind = kind_of(value)
        before, first = seen.setdefault(key, (kind, place))
        if kind != before and (kind in _CONTAINERS or before in _CONTAINERS):
            raise DataError(
                f"{place}: `{key}` is {kind}, and in {first} it is {before}",
                "give the key one kind of value in all rows",
            )
