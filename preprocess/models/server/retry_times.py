"""When a server says that it may be asked again: in headers, in fields of an error, in words."""

from __future__ import annotations

import email.utils
import math
import re
import time
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, Final

_PART: Final = (
    r"(\d+(?:\.\d+)?)\s*"
    r"(ms|milliseconds?|seconds?|secs?|s|minutes?|mins?|m|hours?|hrs?|h|days?|d)(?![a-z])"
)
_SAID: Final = re.compile(
    rf"(?:try again|retry|available again|reset[s]?|wait)\s*(?:in|after|for|at least)?\s*:?\s*"
    rf"(?:about |approximately |~)?((?:{_PART}\s*,?\s*)+)",
    re.IGNORECASE,
)
_CLOCK: Final = re.compile(r"\b(?:in|after)\s+(\d{1,3}):(\d\d):(\d\d)\b", re.IGNORECASE)
"""Hours, minutes and seconds, as Azure writes them."""
_DURATION: Final = re.compile(_PART, re.IGNORECASE)
_EPOCH: Final = 1e9
"""A number beyond this is a point in time: seconds, or milliseconds where it is beyond 1e12."""


def named_retry_time(
    headers: Mapping[str, str], error: Mapping[str, Any], said: str
) -> float | None:
    """Seconds until a server may be asked again; None where it names no time.

    Args:
        headers: of the reply, by lower-case name.
        error: the object that says what is wrong, as decoded from JSON.
        said: its message in words.
    """
    for seconds in (*_from_headers(headers), *_from_fields(error)):
        if seconds is not None:
            return seconds
    if clock := _CLOCK.search(said):
        hours, minutes, seconds = map(int, clock.groups())
        return 3600.0 * hours + 60.0 * minutes + seconds
    found = _SAID.search(said)
    return duration(found.group(1)) if found else None


def duration(text: str) -> float | None:
    """Seconds of "7m12.5s", "350ms", "20 seconds", "35"; None for anything else."""
    parts = _DURATION.findall(text)
    if parts:
        return math.fsum(float(number) * _unit(unit) for number, unit, *_ in parts)
    try:
        seconds = float(text)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def _unit(name: str) -> float:
    if name.lower().startswith(("ms", "milli")):
        return 1e-3
    return {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}[name[0].lower()]


def _from_headers(headers: Mapping[str, str]) -> Iterator[float | None]:
    if milliseconds := headers.get("retry-after-ms"):
        seconds = duration(milliseconds)
        yield None if seconds is None else seconds / 1000
    yield _retry_after(headers.get("retry-after"))
    for what in ("requests", "tokens"):
        if headers.get(f"x-ratelimit-remaining-{what}") == "0":
            yield duration(headers.get(f"x-ratelimit-reset-{what}", ""))
    for prefix in ("x-ratelimit", "ratelimit"):
        if headers.get(f"{prefix}-remaining") == "0":
            yield _until(headers.get(f"{prefix}-reset"))


def _retry_after(value: str | None) -> float | None:
    """Retry-After: a number of seconds or an HTTP date."""
    if not value:
        return None
    seconds = duration(value)
    if seconds is not None and value[:1].isdigit():
        return seconds
    try:
        date = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=timezone.utc)
    return max(0.0, (date - datetime.now(timezone.utc)).total_seconds())


def _from_fields(error: Mapping[str, Any]) -> Iterator[float | None]:
    """RetryInfo of Google, retry_after of Mistral, the headers that OpenRouter quotes."""
    for name in ("retryDelay", "retry_after", "retryAfter", "retry_after_seconds"):
        value = error.get(name)
        if isinstance(value, (str, int, float)) and not isinstance(value, bool):
            yield duration(str(value))
    for inner in (error.get("details"), error.get("metadata"), error.get("headers")):
        for part in inner if isinstance(inner, list) else [inner]:
            if isinstance(part, Mapping):
                yield from _from_fields(part)
                yield _until(part.get("X-RateLimit-Reset"))


def _until(value: object) -> float | None:
    """Seconds until a point in time that is given in seconds or milliseconds of the epoch."""
    seconds = duration(str(value)) if value is not None else None
    if seconds is None or seconds < _EPOCH:
        return seconds
    at = seconds / 1000 if seconds > 1000 * _EPOCH else seconds
    return max(0.0, at - time.time())
