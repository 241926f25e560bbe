"""What asking would take: requests, tokens and price, told before anything is sent."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from ..calls.cache import Cache
from ..calls.outcomes import WITHOUT_SCORE
from ..calls.plan import Plan, RunOptions, TokenCounter, Work, joined
from ..data.sample import Sample
from .batch import DISCOUNT
from .uncertainty import Judge, Shown

_AT_A_TIME: Final = 1024
_ANSWER_TOKENS: Final = {"verbalized": 8, "expected": 1}


def plan_judges(
    judges: Sequence[Judge], samples: Sequence[Sample], cache: Cache, options: RunOptions
) -> Plan:
    """The plan of one judge or of a panel."""
    return joined(_plan_judge(judge, samples, cache, options) for judge in judges)


def _plan_judge(judge: Judge, samples: Sequence[Sample], cache: Cache, options: RunOptions) -> Plan:
    counter, shown, requests = TokenCounter(judge.config.model), Shown(), 0
    for sample in _left(judge, samples, cache, options):
        chat = judge.chat(sample, 0, shown)
        counter.add("".join(message["content"] for message in chat.messages))
        requests += 1
    price = judge.price
    if price is not None and judge.config.mode == "batch":
        price = price.times(DISCOUNT)
    work = Work(
        price=price,
        requests=requests,
        prompt=counter.tokens,
        answer=requests * _ANSWER_TOKENS[judge.score],
        most_prompt=counter.tokens,
        most_answer=requests * judge.config.max_tokens,
        how=counter.how,
    )
    wanted = len(samples) * judge.config.repeats
    known = wanted - requests
    rest = f"; {known:,} of {wanted:,} are in the cache or equal to another" if known else ""
    return work.plan(f"{judge.config.model} at {judge.server.url}: {requests:,} requests{rest}")


def _left(
    judge: Judge, samples: Sequence[Sample], cache: Cache, options: RunOptions
) -> Iterator[Sample]:
    """The sample of each request that would be sent."""
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
            yield sample
