"""Prompts, their sampled responses, and `responses.parquet`, which holds all of them.

One row of the file is one response: the prompt's messages, the text as it was sampled (without
outer white space), what the backend said of it, and every score. `read_responses` takes the same
file back, or one that was sampled elsewhere and has only the prompt and the text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_ual.errors import DataError

from .json_files import read_rows
from .prompt import CHAT, MESSAGES, Prompt
from .prompts import prompt_reader
from .sample import BadRow, Reader, kind_of, shorten, text_of

PROMPT_ID: Final = "prompt_id"
RESPONSE_ID: Final = "response_id"
RESPONSE: Final = "response"
STATUS: Final = "status"
RESPONSE_CHAT: Final = "response_chat"
"""Column of the responses that call tools, as the JSON of a message; null for all others."""

USABLE: Final = "usable"
EMPTY: Final = "empty"
TRUNCATED: Final = "truncated"
FAILED: Final = "failed"


_SHAPE: Final = (
    "a row needs `messages` (role and content) or `prompt`, and `response`: a text, or `failure`"
)
_OPTIONAL: Final[dict[str, type]] = {
    "finish_reason": str,
    "seed": int,
    "tokens": int,
    "logprob_sum": float,
    "logprob_mean": float,
    RESPONSE_CHAT: str,
}


@dataclass(slots=True)
class Response:
    """One response, or the reason why there is none.

    Attributes:
        text: without outer white space.
        finish_reason: stop, length, content_filter, ... as the backend says; None: not known.
        seed: of the request, or of the generation.
        logprob_sum: log-probability of all tokens under the model, temperature 1.
        logprob_mean: per token.
        tokens: number of tokens generated.
        failure: why there is no response; None where there is one.
        chat: a response that calls tools as the JSON of a message; None for all others.
    """

    text: str
    finish_reason: str | None = None
    seed: int | None = None
    logprob_sum: float | None = None
    logprob_mean: float | None = None
    tokens: int | None = None
    failure: str | None = None
    chat: str | None = None

    @classmethod
    def failed(cls, reason: str) -> Response:
        """A response that could not be had."""
        return cls("", failure=reason)

    @property
    def status(self) -> str:
        """One of usable, empty, truncated, failed."""
        if self.failure is not None:
            return FAILED
        if not self.text:
            return EMPTY
        return TRUNCATED if self.finish_reason == "length" else USABLE


@dataclass(slots=True)
class ResponseSet:
    """P prompts and their responses, N in all.

    Attributes:
        prompts: in the order of the data.
        responses: one list for each prompt.
    """

    prompts: list[Prompt]
    responses: list[list[Response]]

    def flat(self) -> list[Response]:
        """All N responses, prompt by prompt."""
        return [response for group in self.responses for response in group]

    def prompt_of(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Place of each response's prompt, int64 of shape (N,)."""
        counts = [len(group) for group in self.responses]
        return np.repeat(np.arange(len(counts), dtype=np.int64), counts)

    def numbers(self) -> list[int]:
        """Number of each response among those to its prompt."""
        return [number for group in self.responses for number in range(len(group))]

    def usable(self, keep_truncated: bool) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Which responses are scored, bool of shape (N,)."""
        kept = {USABLE, TRUNCATED} if keep_truncated else {USABLE}
        return np.array([response.status in kept for response in self.flat()], dtype=np.bool_)

    def duplicate_of(self) -> list[int | None]:
        """For each response the number of an earlier one of its prompt with the same text."""
        found: list[int | None] = []
        for group in self.responses:
            first: dict[str, int] = {}
            for number, response in enumerate(group):
                known = first.setdefault(response.text, number)
                found.append(known if response.text and known < number else None)
        return found

    def counts(self) -> dict[str, int]:
        """Prompts, responses, responses by status, and repeats of an earlier text."""
        statuses = [response.status for response in self.flat()]
        return {
            "prompts": len(self.prompts),
            "responses": len(statuses),
            **{name: statuses.count(name) for name in (USABLE, EMPTY, TRUNCATED, FAILED)},
            "duplicates": sum(place is not None for place in self.duplicate_of()),
        }


def read_responses(path: Path) -> ResponseSet:
    """Read responses from a Parquet or JSONL file.

    A row has a prompt in one of the shapes of a dataset of prompts (`messages`, `prompt`, ...), and
    `response` (a text); `finish_reason`, `seed`, `tokens`, `logprob_sum`, `logprob_mean` and
    `failure` are read where they are there. Rows of one prompt belong together by `prompt_id`, or
    else by the content of the prompt.

    Raises:
        DataError: the file cannot be read, or a row is not as described, by its number and line.
    """
    prompts: dict[Any, int] = {}
    data = ResponseSet([], [])
    reader = prompt_reader({}, str(path))
    for where, row in _rows(path):
        try:
            prompt, response = _prompt(row, reader), _response(row)
        except BadRow as problem:
            raise DataError(f"{where}: `{problem.key}` {problem.problem}", _SHAPE) from None
        key = row.get(PROMPT_ID)
        key = (prompt.messages, prompt.chat) if key is None else ("id", key)
        place = prompts.setdefault(key, len(prompts))
        if place == len(data.prompts):
            data.prompts.append(prompt)
            data.responses.append([])
        elif data.prompts[place] != prompt:
            raise DataError(
                f"{where}: prompt_id {row[PROMPT_ID]!r} stands for two different prompts",
                "give each prompt its own prompt_id, or leave the column out",
            )
        data.responses[place].append(response)
    if not data.prompts:
        raise DataError(f"{path}: there are no rows", "name a file with responses in it")
    return data


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The rows, each with the name of its place."""
    try:
        if path.suffix == ".parquet":
            batches = pq.ParquetFile(path).iter_batches(batch_size=4096)
            rows = (row for batch in batches for row in batch.to_pylist())
            yield from ((f"{path}: row {number}", row) for number, row in enumerate(rows))
            return
        for place, row in read_rows(path):
            if not isinstance(row, dict):
                raise DataError(f"{place}: is {kind_of(row)} and not an object")
            yield str(place), row
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(
            f"{path}: cannot be read: {error}", "give a .parquet file, or .jsonl with a row a line"
        ) from None


def _prompt(row: Mapping[str, Any], reader: Reader[Prompt]) -> Prompt:
    chat = row.get(CHAT)
    if chat:
        said = tuple((turn["role"], turn["content"]) for turn in row[MESSAGES])
        return Prompt(said, str(chat))
    return reader.read(row)


def _response(row: Mapping[str, Any]) -> Response:
    failure = row.get("failure")
    if failure is not None:
        return Response.failed(str(failure))
    values: dict[str, Any] = {}
    for name, kind in _OPTIONAL.items():
        value = row.get(name)
        if value is None:
            continue
        try:
            values[name] = kind(value)
        except (TypeError, ValueError):
            raise BadRow(name, f"is {shorten(value)}") from None
    chat = values.pop(RESPONSE_CHAT, None)
    return Response(text_of(row.get(RESPONSE), RESPONSE).strip(), chat=chat, **values)
