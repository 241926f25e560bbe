"""What an error means: wait, try again, leave this request, or end the run.

Servers that call themselves OpenAI-compatible differ most in how they say no. What decides is, in
this order: a code or type that says it plainly, the status, a time to retry, and only then the
words. A limit that names a time to retry is a limit, whatever it says of quotas and billing; a
bill is what says so by code (`insufficient_quota`), by status 402, or plainly in words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from .retry_times import named_retry_time
from .transport import shown
from .verdicts import Kind, Verdict

_LONGEST_MESSAGE: Final = 300
_DEEPEST: Final = 8
"""Errors quoted within errors."""

_TOO_LONG_CODES: Final = {
    "context_length_exceeded", "string_above_max_length", "tokens_limit_reached",
    "exceed_context_size_error", "prompt_too_long", "request_too_large", "1261",
}  # fmt: skip
_TOO_LONG: Final = re.compile(
    r"context[_ ](?:length|window|size|limit)|context_length|max_model_len|tokens_limit_reached|"
    r"maximum (?:context|model|input|prompt|sequence) length|string_above_max_length|"
    r"(?:prompt|input|request|message|text)s?\b[^.]{0,40}\btoo (?:long|large)|too many tokens|"
    r"longer than the (?:maximum|model)|must have less than \d+ tokens|"
    r"`?inputs`? tokens \+ `?max_new_tokens|`?inputs`? must have|"
    r"input token(?: count|s)?[^.]{0,40}exceed|exceeds? the (?:maximum|max)[^.]{0,30} tokens|"
    r"range of input length|(?:number of|total) (?:input |prompt )?tokens[^.]{0,60}exceed|"
    r"reduce (?:the |your )?(?:length|size|message|prompt|input)|request body too large|"
    r"tokens to keep from the initial prompt|keep the first \d+ tokens|prompt[^.]{0,20}超长|"
    r"context the overflows|too large for model with \d+",
    re.IGNORECASE,
)
_ANSWER_LIMIT: Final = re.compile(
    r"max(?:_completion|_output|_new)?_tokens[^.]{0,80}?(?:too large|at most|maximum allowed|"
    r"less than or equal|valid range|should be|minimum|>= ?\d)|range of max_tokens|"
    r"supports at most \d+ completion tokens",
    re.IGNORECASE,
)
"""Says that max_tokens is wrong, which is no fault of the row."""
_NEVER_FITS: Final = re.compile(
    r"max_(?:completion_)?tokens[^:]*too large: (\d+)\D+maximum context length is (\d+)"
)
_FILTERED: Final = re.compile(
    r"content[_ -]?filter|content management policy|responsible ?ai|moderation|flagged|"
    r"content[_ ]policy|safety (?:system|filter)|usage policies|data_?inspection_?failed|"
    r"inappropriate content|prohibited content",
    re.IGNORECASE,
)
_BILL_CODES: Final = {
    "insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "account_deactivated",
    "insufficient_balance", "insufficient_credits", "insufficient_funds", "payment_required",
    "exceeded_current_quota_error", "arrearage", "1113", "access_terminated_error",
    "credit_balance_too_low", "billing_error", "out_of_credits", "budget_exceeded",
    "accountoverdueerror", "30001",
}  # fmt: skip
_BILL: Final = re.compile(
    r"insufficient (?:credit|balance|fund)|balance is (?:too low|insufficient)|overdue balance|"
    r"account is in arrears|budget has been exceeded|spending limit|\bkey limit exceeded|"
    r"used all available credits|"
    r"(?:out of|not enough|no) credits?\b|requires more credits|please recharge|overdue[- ]payment|"
    r"account[^.]{0,30}(?:suspended|deactivated)|access denied[^.]{0,30}good standing",
    re.IGNORECASE,
)
_LIMIT_CODES: Final = {
    "rate_limit_exceeded", "rate_limit_error", "rate_limit_reached", "resource_exhausted",
    "throttling", "throttlingexception", "too_many_requests", "1302", "1303", "1305",
    "throttling.ratequota", "limit_requests", "engine_overloaded_error", "rate_limited",
    "limit_burst_rate", "ratelimitexceeded", "userratelimitexceeded", "quotaexceeded",
}  # fmt: skip
_QUOTA: Final = re.compile(r"\b(?:quota|rate|limit|throttl)", re.IGNORECASE)
_ASKED: Final = re.compile(r"limit:? ?(\d[\d,]*)[^.]{0,40}?requested:? ?(\d[\d,]*)", re.IGNORECASE)
"""A rate limit in tokens that one request alone goes beyond."""
_REQUEST_TOO_LARGE: Final = re.compile(r"request too large", re.IGNORECASE)
_KEY: Final = re.compile(
    r"api[ _-]?key|unauthori[sz]ed|authenticat|credential|invalid token|permission|forbidden|"
    r"access token|not authori[sz]ed|incorrect key|token (?:is )?(?:expired|invalid)",
    re.IGNORECASE,
)
_MISSING_FEATURE: Final = re.compile(
    r"not (?:yet )?(?:supported|implemented|available|allowed)|unsupported|unavailable|"
    r"unrecogni[sz]ed|requested parameters|cannot both|failed to (?:parse|compile)[^.]{0,20}"
    r"(?:grammar|schema)|(?:schema|grammar)[^.]{0,30}(?:fail|invalid|error)",
    re.IGNORECASE,
)
"""An error of the server's own that may be about a parameter."""


def read_error(status: int, body: object, headers: Mapping[str, str], raw: bytes = b"") -> Verdict:
    """Tell what an error means.

    Args:
        status: of HTTP, or the one that an error inside a successful reply names.
        body: as decoded from JSON; None where it is not JSON.
        headers: by lower-case name.
        raw: the body as it came.
    """
    errors = list(_errors(body))
    said = "; ".join(dict.fromkeys(text for error in errors for text in _texts(error)))
    if not said and raw:
        said = _plain_text(raw)
    if 300 <= status < 400:
        said = f"to {shown(headers['location'])}" if headers.get("location") else said
    message = f"HTTP {status}: {' '.join(said.split())[:_LONGEST_MESSAGE]}".rstrip(": ")
    codes = {code.lower() for error in errors for code in _codes(error)}
    wait = next(
        (s for e in errors or [{}] if (s := named_retry_time(headers, e, said)) is not None), None
    )
    kind = _kind(status, codes, said, wait)
    unpaid = kind is Kind.FATAL and (status == 402 or _is_bill(status, codes, said, wait))
    param = next((str(error["param"]) for error in errors if error.get("param")), "")
    return Verdict(kind, message, status, retry_after=wait, param=param, unpaid=unpaid)


def _kind(status: int, codes: set[str], said: str, wait: float | None) -> Kind:
    everything = " ".join((*sorted(codes), said))
    if status in (400, 403, 422, 451) and _FILTERED.search(everything):
        return Kind.REFUSED
    if _is_too_long(status, codes, said):
        return Kind.TOO_LONG
    if status == 402 or _is_bill(status, codes, said, wait):
        return Kind.FATAL
    if status == 429 or (status in (400, 403, 500, 503) and codes & _LIMIT_CODES):
        return Kind.RATE_LIMITED
    if status == 403 and wait is not None and _QUOTA.search(said):
        return Kind.RATE_LIMITED
    if status == 403 and not _KEY.search(said) and _MISSING_FEATURE.search(everything):
        return Kind.BAD_REQUEST
    if status == 403 and "invalid_request_error" in codes and not _KEY.search(said):
        return Kind.BAD_REQUEST
    if status == 400 and re.search(r"api[ _]key (?:not valid|expired|invalid)", said, re.I):
        return Kind.FATAL  # Gemini says so with 400.
    if status == 404 and "requested parameters" in said:
        return Kind.BAD_REQUEST  # OpenRouter: no provider takes them.
    if status in (401, 403, 404, 405, 407) or 300 <= status < 400:
        return Kind.FATAL
    if status in (500, 501) and _MISSING_FEATURE.search(said):
        return Kind.BAD_REQUEST
    if status in (408, 409, 424, 425, 499) or status >= 500:
        return Kind.RETRY
    return Kind.BAD_REQUEST


def _is_too_long(status: int, codes: set[str], said: str) -> bool:
    if status == 413 or codes & _TOO_LONG_CODES:
        return True
    if status == 429:
        asked = _ASKED.search(said)
        beyond = asked is not None and _number(asked.group(2)) > _number(asked.group(1))
        return beyond or _REQUEST_TOO_LARGE.search(said) is not None
    if status not in (400, 422, 500) or _is_about_max_tokens(said):
        return False
    return _TOO_LONG.search(said) is not None


def _is_about_max_tokens(said: str) -> bool:
    """Whether max_tokens alone is too large, for any row."""
    never = _NEVER_FITS.search(said)
    if never is not None:
        return int(never.group(1)) >= int(never.group(2))
    return _ANSWER_LIMIT.search(said) is not None and "input" not in said


def _is_bill(status: int, codes: set[str], said: str, wait: float | None) -> bool:
    if status not in (400, 401, 403, 412, 429, 500, 503) or (status == 429 and wait is not None):
        return False
    return bool(codes & _BILL_CODES) or _BILL.search(said) is not None


def _number(text: str) -> int:
    return int(text.replace(",", ""))


def _errors(body: object, depth: int = 0) -> Iterator[Mapping[str, Any]]:
    """The objects of a body that say what is wrong, the outer ones first.

    {"error": {...}} of OpenAI, a list of them (Gemini), {"error": "..."} (Ollama, TGI), {"detail":
    ...} (FastAPI), {"errors": [...]} (Cloudflare), {"base_resp": {...}} (MiniMax), {"message":
    {...}} (Mistral), and what a router quotes of the provider behind it as `metadata.raw`
    (OpenRouter) or inside a message.
    """
    if depth > _DEEPEST:
        return
    if isinstance(body, str):
        inner = _decoded(body)
        yield from _errors(inner, depth + 1) if inner is not None else [{"message": body}]
    elif isinstance(body, list):
        for part in body[:5]:
            yield from _errors(part, depth + 1)
    elif isinstance(body, Mapping):
        yield body
        for name in ("error", "errors", "detail", "details", "base_resp", "innererror", "metadata"):
            yield from _errors(body.get(name), depth + 1)
        for name in ("raw", "message"):
            inner = body.get(name)
            if isinstance(inner, Mapping) or _decoded(inner) is not None:
                yield from _errors(inner, depth + 1)


def _decoded(text: object) -> Any:
    """JSON inside a text; None where it is no object or list."""
    if not isinstance(text, str) or not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _texts(error: Mapping[str, Any]) -> Iterator[str]:
    place = error.get("loc")
    if isinstance(place, list) and "msg" in error:
        yield f"{'.'.join(map(str, place))}: {error['msg']}"
        return
    for name in ("message", "msg", "error_description", "status_msg", "reason", "raw"):
        text = error.get(name)
        if isinstance(text, str) and text.strip() and _decoded(text) is None:
            yield text.strip()


def _codes(error: Mapping[str, Any]) -> Iterator[str]:
    for name in ("code", "type", "status", "error_type", "status_code", "reason", "__type"):
        code = error.get(name)
        if isinstance(code, (str, int)) and not isinstance(code, bool):
            yield str(code).rpartition("#")[2]


def status_of(body: object) -> int | None:
    """The status that an error inside a successful reply names, as a number or by its code."""
    for error in _errors(body):
        for name in ("code", "status", "status_code"):
            code = error.get(name)
            if isinstance(code, str) and code.isdigit():
                code = int(code)
            if isinstance(code, int) and 400 <= code < 600:
                return code
        if set(_codes(error)) & {"authentication_error", "invalid_api_key"}:
            return 401
        if set(_codes(error)) & {"invalid_request_error", "BadRequestError", "validation"}:
            return 400
        if {code.lower() for code in _codes(error)} & _LIMIT_CODES:
            return 429
    return None


def _plain_text(raw: bytes) -> str:
    """What a body that is not JSON says: the title of a web page, else its beginning."""
    text = raw[:20_000].decode("utf-8", errors="replace")
    title = re.search(r"<title[^>]*>(.*?)</title>", text, re.IGNORECASE | re.DOTALL)
    return f"a web page, {title.group(1).strip()!r}" if title else text[:_LONGEST_MESSAGE]
