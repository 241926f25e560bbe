"""What judging would take: requests, tokens and price, told before anything is sent."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

from .cache import Cache
from .estimators.base import Plan, RunOptions
from .fence import BYTES_PER_TOKEN
from .judging import Judge, Shown
from .outcomes import WITHOUT_SCORE
from .turns import Sample

_AT_A_TIME: Final = 1024
_COUNTED: Final = 256
"""Requests that are tokenised; the rest is taken to have as many tokens for a byte."""
_ENCODING_SECONDS: Final = 10.0
"""tiktoken downloads its encodings, without a time limit of its own."""
_ANSWER_TOKENS: Final = {"verbalized": 8, "expected": 1}
_FRAME_TOKENS: Final = 10
"""Tokens that a chat request takes beside its text."""


@dataclass(slots=True)
class _Work:
    """What one judge has left to do."""

    requests: int = 0
    unknown_bytes: int = 0
    counted_bytes: int = 0
    counted_tokens: int = 0


def plan_judges(
    judges: Sequence[Judge], samples: Sequence[Sample], cache: Cache, options: RunOptions
) -> Plan:
    """The plan of one judge or of a panel."""
    lines: list[str] = []
    requests, cost, priced = 0, 0.0, True
    for judge in judges:
        encoding = _encoding(judge.config.model)
        work = _count(judge, samples, cache, options, encoding)
        requests += work.requests
        prompt = _prompt_tokens(work)
        answer = work.requests * _ANSWER_TOKENS[judge.score]
        lines.append(_requests_line(judge, samples, work))
        how = "by tiktoken" if encoding is not None else "estimated, 4 bytes a token"
        lines.append(f"  about {prompt:,} prompt and {answer:,} completion tokens ({how})")
        if judge.price is None:
            priced = False
            lines.append("  no price is known for this model at this server")
            continue
        likely = judge.price.cost(prompt, answer)
        most = judge.price.cost(prompt, work.requests * judge.config.max_tokens)
        cost += likely
        lines.append(f"  about {likely:.2f} USD; {most:.2f} USD if every answer fills max_tokens")
    return Plan(lines, requests=requests, cost_usd=cost if priced else None)


def _requests_line(judge: Judge, samples: Sequence[Sample], work: _Work) -> str:
    wanted = len(samples) * judge.config.repeats
    known = wanted - work.requests
    rest = f"; {known:,} of {wanted:,} are in the cache or equal to another" if known else ""
    return f"{judge.config.model} at {judge.server.url}: {work.requests:,} requests{rest}"


def _count(
    judge: Judge, samples: Sequence[Sample], cache: Cache, options: RunOptions, encoding: Any
) -> _Work:
    work, shown = _Work(), Shown()
    seen: set[int] = set()
    source = iter(samples)
    while chunk := list(islice(source, _AT_A_TIME)):
        questions = {
            judge.keys.key(sample, repeat): sample
            for sample in chunk
            for repeat in range(judge.config.repeats)
        }
        known = cache.find(questions)
        for key, sample in questions.items():
            kept = known.get(key)
            again = kept is not None and (
                judge.is_stale(kept) or (options.retry_failed and kept.outcome in WITHOUT_SCORE)
            )
            # Eight bytes tell a million questions apart and take a fraction of the memory.
            short = int.from_bytes(key[:8], "big")
            if (kept is not None and not again) or short in seen:
                continue
            seen.add(short)
            work.requests += 1
            chat = judge.chat(sample, 0, shown)
            text = "".join(message["content"] for message in chat.messages)
            size = len(text.encode("utf-8"))
            work.unknown_bytes += size
            if encoding is not None and work.requests <= _COUNTED:
                work.counted_bytes += size
                work.counted_tokens += _FRAME_TOKENS + len(encoding.encode_ordinary(text))
    return work


def _prompt_tokens(work: _Work) -> int:
    if not work.counted_bytes:
        return work.unknown_bytes // BYTES_PER_TOKEN
    return round(work.unknown_bytes * work.counted_tokens / work.counted_bytes)


def _encoding(model: str) -> Any:
    """Tiktoken's encoding of a model; None where it has none, or cannot download it."""
    found: list[Any] = []

    def load() -> None:
        import tiktoken

        try:
            found.append(tiktoken.encoding_for_model(model))
        except (KeyError, OSError):
            return

    thread = threading.Thread(target=load, daemon=True)
    thread.start()
    thread.join(_ENCODING_SECONDS)
    return found[0] if found else None
