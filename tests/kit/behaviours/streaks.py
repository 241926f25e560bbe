"""What begins or ends in the middle of a run, and answers that come late."""

from __future__ import annotations

import time
from email.utils import formatdate

from .kit import DROP, HANG, Answer, Asked, bad, behaviour, good, raw


@behaviour(
    "a day's quota that ends half-way", fails=True, scored=0, rows=40, patience=2, says="429"
)
def quota_ends_in_between(asked: Asked) -> Answer:
    return good(asked) if asked.number < 10 else bad(429, "Rate limit reached for requests per day")


@behaviour(
    "credit that ends half-way", fails=True, scored=0, rows=40, requests=16, says="no credit"
)
def credit_ends_in_between(asked: Asked) -> Answer:
    return good(asked) if asked.number < 10 else bad(402, "Insufficient credits")


@behaviour(
    "credit that ends while others are answered",
    fails=True,
    scored=0,
    rows=12,
    requests=12,
    max_concurrency=8,
    says="no credit",
)
def credit_ends_with_others_in_flight(asked: Asked) -> Answer:
    if asked.number == 4:
        return bad(402, "Insufficient credits")
    status, body, _ = good(asked)
    return status, body, {"x-delay": "0.4"} if asked.number else {}


@behaviour("any: the server dies half-way", fails=True, scored=0, rows=40, patience=2, says="lost")
def dies_in_between(asked: Asked) -> Answer:
    return good(asked) if asked.number < 10 else DROP


@behaviour("any: the server hangs half-way", fails=True, scored=0, rows=40, patience=2, timeout=0.5)
def hangs_in_between(asked: Asked) -> Answer:
    return good(asked) if asked.number < 10 else HANG


@behaviour("every second request is one too many", rows=12, requests=40)
def every_second_429(asked: Asked) -> Answer:
    if asked.number % 2:
        return bad(429, "Rate limit reached", headers={"Retry-After": "0.05"})
    return good(asked)


@behaviour("any: a limit that is told by a date", requests=8, says="waiting")
def retry_after_as_a_date_to_come(asked: Asked) -> Answer:
    if asked.number != 1:
        return good(asked)
    return bad(429, "slow", headers={"Retry-After": formatdate(time.time() + 4, usegmt=True)})


@behaviour("any: restarts half-way", rows=12, requests=40, patience=10)
def restarts_in_between(asked: Asked) -> Answer:
    away = 4 <= asked.number < 8
    return raw(502, "bad gateway") if away else good(asked)


@behaviour("any: an answer that is worse from the tenth row on", rows=40, scored=10, requests=90)
def prose_in_between(asked: Asked) -> Answer:
    return good(asked) if asked.row < 10 else good(asked, "I'd say quite uncertain.")


@behaviour("a filter that takes every second row", rows=12, scored=6, requests=14, says="refused")
def every_second_filtered(asked: Asked) -> Answer:
    return good(asked, finish_reason="content_filter" if asked.row % 2 else "stop")


@behaviour("schemas that are refused from the third row on", requests=20, rows=8)
def schema_refused_in_between(asked: Asked) -> Answer:
    if asked.number >= 3 and "response_format" in asked.body:
        return bad(400, "response_format is not supported by the fallback model")
    return good(asked)


@behaviour(
    "any: seeds and users are logged, keys are quoted",
    fails=True,
    scored=0,
    requests=2,
    says=r"\*\*\*",
    environment={"OPENAI_API_KEY": "planted-key-789"},
)
def error_that_quotes_the_key(asked: Asked) -> Answer:
    return bad(401, "Incorrect API key provided: planted-key-789")
