"""What servers do: one small function a behaviour, its source named, in one table.

`behaviour_server` serves each at `/NAME/v1`. To add one, write a function that answers a request
and decorate it with what a run against it must come to. Rows are numbered; the score that a judge
states for a row is a function of its number (`Asked.score`, `Asked.digit`): a misread shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

HANG = "hang"
DROP = "drop"
Answer = tuple[int, Any, dict[str, str]] | str
"""Status, body (bytes go out as they are) and headers; or what is done instead."""


@dataclass
class Asked:
    """A request, as a server sees it.

    Attributes:
        body: as sent.
        headers: by lower-case name.
        path: with its query.
        number: of the request among those of this behaviour, from 0.
        tries: of this row before, from 0.
        seconds: since the first request.
    """

    body: dict[str, Any]
    headers: dict[str, str]
    path: str
    number: int
    tries: int
    seconds: float

    @property
    def text(self) -> str:
        return "\n".join(str(m["content"]) for m in self.body["messages"])

    @property
    def row(self) -> int:
        return row_of(self.text)

    @property
    def score(self) -> int:
        """From 2 to 98: 100 u."""
        return score_of(self.row)

    @property
    def digit(self) -> int:
        """From 0 to 9: 9 u."""
        return self.row % 10

    @property
    def wants_digit(self) -> bool:
        return "one digit" in self.body["messages"][0]["content"]

    @property
    def stated(self) -> str:
        """What a good judge says."""
        return str(self.digit) if self.wants_digit else f'{{"uncertainty": {self.score}}}'


@dataclass(frozen=True)
class Behaviour:
    """One row of the table.

    Attributes:
        answer: to a request.
        source: where it was seen.
        scored: rows that get their score; None for all.
        says: a pattern that the output or the error must hold.
        fails: whether the run ends with an error.
        requests: the most that may be sent.
        rows: of the data.
        size: characters of a sample, about; of row after row, where there are several.
        filler: what samples are filled with.
        context: of the list of models.
        others: what is at other paths of the server, such as `/props`.
        judge: settings of the judge's section.
        environment: variables that are set.
    """

    answer: Callable[[Asked], Answer]
    source: str
    scored: int | None = None
    says: str = ""
    fails: bool = False
    requests: int | None = None
    rows: int = 4
    size: int | tuple[int, ...] = 0
    filler: tuple[str, ...] = (" word{}",)
    context: int | None = 8192
    others: dict[str, Any] = field(default_factory=dict)
    judge: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)


BEHAVIOURS: dict[str, Behaviour] = {}


def behaviour(
    source: str, **expected: Any
) -> Callable[[Callable[[Asked], Answer]], Callable[[Asked], Answer]]:
    """Add a function to the table; what is not a field of `Behaviour` is a setting of the judge."""
    fields = {k: v for k, v in expected.items() if k in Behaviour.__dataclass_fields__}
    judge = {k: v for k, v in expected.items() if k not in fields}

    def add(answer: Callable[[Asked], Answer]) -> Callable[[Asked], Answer]:
        assert answer.__name__ not in BEHAVIOURS
        BEHAVIOURS[answer.__name__] = Behaviour(answer, source, judge=judge, **fields)
        return answer

    return add


def text_of(tried: Behaviour, row: int) -> str:
    """What the sample of a row is filled with."""
    sizes = (tried.size,) if isinstance(tried.size, int) else tried.size
    filler, size = tried.filler[row % len(tried.filler)], sizes[row % len(sizes)]
    return "".join(filler.format(i) for i in range(size // len(filler.format(10))))


def tokens_of(text: str) -> int:
    """What a tokenizer counts: six letters, a digit, a sign or a character beyond ASCII each."""
    return len(re.findall(r"[A-Za-z]{1,6}|\d|[^\sA-Za-z\d]", text))


def row_of(text: str) -> int:
    found = re.search(r"Row (\d+):", text)
    return int(found.group(1)) if found else -1


def score_of(row: int) -> int:
    return 2 + (13 * row + 5) % 97


def good(asked: Asked, content: Any = None, **changes: Any) -> Answer:
    """A completion; keywords change the choice, `message`, `usage` and `top` other parts."""
    text = asked.stated if content is None else content
    message = {"role": "assistant", "content": text, **changes.pop("message", {})}
    usage = {"prompt_tokens": len(asked.text) // 4, "completion_tokens": 8}
    usage.update(changes.pop("usage", {}))
    usage.setdefault("total_tokens", usage["prompt_tokens"] + usage["completion_tokens"])
    top = changes.pop("top", {})
    logprobs = digit_logprobs(asked.digit) if asked.body.get("logprobs") else None
    choice = {"index": 0, "finish_reason": "stop", "logprobs": logprobs, "message": message}
    choice.update(changes)
    body = {"id": "x", "object": "chat.completion", "model": asked.body["model"], "usage": usage}
    return 200, {**body, "choices": [choice], **top}, {}


def digit_logprobs(digit: int, spell: str = "{}", before: tuple[str, ...] = ()) -> dict[str, Any]:
    """Nine tenths on a digit and the rest on a word, so that the expectation is the digit."""
    top = [(spell.format(digit), 0.9), ("the", 0.1)]
    likely = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in top]
    first = [{"token": token, "logprob": 0.0, "top_logprobs": []} for token in before]
    return {"content": [*first, {**likely[0], "top_logprobs": likely}]}


def bad(
    status: int,
    message: str,
    code: Any = None,
    kind: str = "invalid_request_error",
    param: str | None = None,
    headers: dict[str, str] | None = None,
    **more: Any,
) -> Answer:
    """An error in OpenAI's form."""
    error = {"message": message, "type": kind, "param": param, "code": code, **more}
    return status, {"error": error}, headers or {}


def raw(status: int, body: Any, **headers: str) -> Answer:
    """An answer in any other form."""
    data = body.encode() if isinstance(body, str) else body
    return status, data, {name.replace("_", "-"): value for name, value in headers.items()}
