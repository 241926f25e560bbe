"""Answers for others: from the cache to a file and back, as hashes and scores.

A line of the file is a JSON object. The first names the format, lines with `description` introduce
an asker (model, rubric, parameters), all others are judgements of one. Texts stay at home: neither
samples nor answers are in the file, and entries whose worth is a text are not exported.
"""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any, Final, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from rich.console import Console

from axolotl_ual.errors import DataError

from ..calls.cache import FILE, KEY_BYTES, Answer, Cache, default_folder
from ..calls.outcomes import KEPT, Outcome

_FORMAT: Final = "axolotl-ual judgements"
_VERSION: Final = 1
_SHARED_KIND: Final = "judge"
_AT_A_TIME: Final = 10_000

_Entry = tuple[bytes, str, Answer, int]


class _Line(BaseModel):
    """One judgement."""

    model_config = ConfigDict(extra="forbid", strict=True)

    key: str = Field(pattern=rf"^[0-9a-f]{{{2 * KEY_BYTES}}}$")
    asker: int
    outcome: str
    score: float | None = Field(None, ge=0, le=1)
    mass: float | None = Field(None, ge=0, le=1)
    prompt_tokens: int = Field(ge=0)
    completion_tokens: int = Field(ge=0)
    created: int = Field(ge=0)

    @model_validator(mode="after")
    def _outcome_fits(self) -> _Line:
        if self.outcome not in {outcome.value for outcome in KEPT}:
            raise ValueError(f"{self.outcome!r} is not an outcome")
        if (self.outcome == Outcome.SCORED.value) != (self.score is not None):
            raise ValueError("a score goes with the outcome `scored`, and only with it")
        return self


def print_stats(folder: Path | None, console: Console) -> None:
    """Print what is in the cache.

    Raises:
        DataError: there is no cache in the folder.
    """
    with _open(folder) as cache:
        entries = 0
        for description, outcome, number, prompt, completion in cache.summary():
            asker = json.loads(description)
            name = " ".join(
                str(asker[key]) for key in ("kind", "model", "score") if asker.get(key) is not None
            )
            rubric = f", rubric {asker['rubric'][:8]}" if "rubric" in asker else ""
            console.print(
                f"{name}{rubric}: {number:,} {outcome}, {prompt:,} + {completion:,} tokens",
                highlight=False,
                markup=False,
            )
            entries += number
        size = sum(path.stat().st_size for path in cache.path.parent.glob(f"{FILE}*"))
        console.print(
            f"{cache.path}: {entries:,} entries, {size / 1e6:,.1f} MB",
            highlight=False,
            markup=False,
        )


def export_judgements(file: Path, folder: Path | None, console: Console) -> None:
    """Write the judgements of a cache to a file.

    Raises:
        DataError: there is no cache in the folder, or the file cannot be written.
    """
    numbers: dict[str, int] = {}
    written = skipped = 0
    partial = file.with_name(f".{file.name}.partial-{os.getpid()}")
    try:
        with _open(folder) as cache, _stream(partial, "wt", file.suffix) as stream:
            _write(stream, {"format": _FORMAT, "version": _VERSION})
            for key, description, answer, created in cache.entries():
                asker = json.loads(description)
                if asker.get("kind") != _SHARED_KIND:
                    skipped += 1
                    continue
                if description not in numbers:
                    numbers[description] = len(numbers)
                    _write(stream, {"asker": numbers[description], "description": asker})
                line = _Line(
                    key=key.hex(),
                    asker=numbers[description],
                    outcome=answer.outcome.value,
                    score=answer.score,
                    mass=answer.mass,
                    prompt_tokens=answer.prompt_tokens,
                    completion_tokens=answer.completion_tokens,
                    created=created,
                )
                _write(stream, line.model_dump(exclude_none=True))
                written += 1
        partial.replace(file)
    except OSError as error:
        raise DataError(f"{file}: cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)
    rest = f"; {skipped:,} entries are texts and stay here" if skipped else ""
    console.print(f"wrote {written:,} judgements to {file}{rest}", highlight=False, markup=False)


def import_judgements(file: Path, folder: Path | None, console: Console) -> None:
    """Add the judgements of a file to a cache.

    Raises:
        DataError: the file is not an export, naming the line; nothing of it was added.
    """
    total = sum(1 for _ in _read(file))
    added = 0
    with Cache(folder) as cache:
        source = _read(file)
        while chunk := list(islice(source, _AT_A_TIME)):
            added += cache.merge(chunk)
        console.print(
            f"added {added:,} of {total:,} judgements to {cache.path}; "
            f"{total - added:,} were there",
            highlight=False,
            markup=False,
        )


def _open(folder: Path | None) -> Cache:
    path = (folder or default_folder()) / FILE
    if not path.exists():
        raise DataError(
            f"{path}: there is no cache here",
            "name the recipe's ual.annotate.cache as --folder",
        )
    return Cache(folder)


def _stream(path: Path, mode: str, suffix: str) -> IO[str]:
    opener: Any = gzip.open if suffix == ".gz" else open
    return cast("IO[str]", opener(path, mode, encoding="utf-8"))


def _write(stream: IO[str], line: dict[str, Any]) -> None:
    stream.write(json.dumps(line) + "\n")


def _read(file: Path) -> Iterator[_Entry]:
    """The entries of a file, checked."""
    descriptions: dict[int, str] = {}
    number = 0
    try:
        with _stream(file, "rt", file.suffix) as stream:
            for number, text in enumerate(stream, 1):
                entry = _read_line(f"{file}:{number}", number, text, descriptions)
                if entry is not None:
                    yield entry
        if not number:
            raise DataError(f"{file}: is empty, not an export of `axolotl-ual cache export`")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read: {error}") from None


def _read_line(where: str, number: int, text: str, descriptions: dict[int, str]) -> _Entry | None:
    try:
        raw = json.loads(text)
    except ValueError:
        raise DataError(f"{where}: is not JSON") from None
    if number == 1:
        if raw != {"format": _FORMAT, "version": _VERSION}:
            raise DataError(f"{where}: is not an export of `axolotl-ual cache export`")
        return None
    if isinstance(raw, dict) and isinstance(raw.get("description"), dict):
        if raw["description"].get("kind") != _SHARED_KIND:
            raise DataError(f"{where}: describes something other than a judge")
        descriptions[int(raw.get("asker") or 0)] = json.dumps(
            raw["description"], sort_keys=True, ensure_ascii=True
        )
        return None
    try:
        line = _Line.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        raise DataError(f"{where}: {key}: {first['msg']}".replace(": : ", ": ")) from None
    if line.asker not in descriptions:
        raise DataError(f"{where}: asker {line.asker} has not been described")
    answer = Answer(
        Outcome(line.outcome), line.score, line.mass, "", line.prompt_tokens, line.completion_tokens
    )
    return bytes.fromhex(line.key), descriptions[line.asker], answer, line.created
