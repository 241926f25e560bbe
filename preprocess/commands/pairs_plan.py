"""What `pairs` and `consistency` would ask and pay for, told before anything is sent.

Where responses are sampled already, the questions about them are counted one by one. Where they are
not, each prompt is taken to get n distinct responses, which is the most that can be rated.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from axolotl_ual.settings.pairs import PairsConfig

from ..calls.cache import Cache
from ..calls.plan import Plan, TokenCounter, Work, joined
from ..data.prompt import Prompt
from ..dimensions.aspects import Aspect, claims_aspect, frame, principle_aspects
from ..dimensions.base import distinct_responses
from ..dimensions.rating import Rater, Reviewed
from ..judge.frame import fence
from ..sampling.base import Outlook, Sampler
from ..sampling.responses import ResponseSet


@dataclass(frozen=True, slots=True)
class Unsampled:
    """Responses that are not there yet.

    Attributes:
        prompts: distinct ones.
        n: responses to each.
        likely: tokens of a response.
        most: the most that it can have.
    """

    prompts: Sequence[Prompt]
    n: int
    likely: float
    most: float


def plan_pairs(
    settings: PairsConfig,
    prompts: Sequence[Prompt],
    responses: ResponseSet | None,
    sampler: Sampler | None,
    rater: Rater | None,
    cache: Cache,
) -> Plan:
    """The plan of `pairs`.

    Args:
        settings: the recipe's `ual.pairs`.
        prompts: of all sources.
        responses: those that were given, or None.
        sampler: None where responses were given.
        rater: the judge, or None.
        cache: open.
    """
    plans, unsampled, data = [], None, responses
    if sampler is not None:
        outlook = sampler.plan(prompts, cache)
        plans.append(plan_sampling(outlook))
        data = ResponseSet(list(outlook.known), list(outlook.known.values()))
        left = [prompt for prompt in dict.fromkeys(prompts) if prompt not in outlook.known]
        sampling = settings.sampling
        unsampled = Unsampled(left, sampling.n, outlook.answer, sampling.max_tokens)
    if rater is not None and data is not None:
        plans += plan_ratings(settings, rater, data, unsampled, 1, cache)
    local = [name for name in settings.dimensions if name not in settings.judged]
    lines = [f"{name}: {getattr(settings, name).method}, on this machine" for name in local]
    return joined([*plans, Plan(lines)])


def plan_sampling(outlook: Outlook, before: str = "") -> Plan:
    """The plan of one sampler; `before` goes in front of its line."""
    line = f"{before}{outlook.line}"
    if outlook.work is None:
        return Plan([line])
    return outlook.work.plan(line)


def plan_ratings(
    settings: PairsConfig,
    rater: Rater,
    data: ResponseSet,
    unsampled: Unsampled | None,
    scorings: int,
    cache: Cache,
) -> list[Plan]:
    """The plans of the dimensions that a judge rates, for a number of scorings."""
    usable = data.usable(settings.sampling.truncated == "keep")
    distinct, _ = distinct_responses(data, np.flatnonzero(usable))
    plans = []
    for name in settings.judged:
        aspects: Sequence[Aspect]
        if name == "factual":
            aspects, repeats = [claims_aspect()], scorings
        else:
            aspects = principle_aspects(settings.value.principles)
            repeats = scorings * settings.value.repeats
        work = _Ratings(rater, aspects, range(repeats))
        work.add_known(distinct, cache)
        if unsampled is not None and unsampled.prompts:
            work.add_unsampled(unsampled)
        plans.append(work.plan(name))
    return plans


class _Ratings:
    """Counts what a judge has left to rate."""

    def __init__(self, rater: Rater, aspects: Sequence[Aspect], repeats: range) -> None:
        self._rater = rater
        self._aspects = aspects
        self._repeats = repeats
        self._likely = TokenCounter(rater.config.model)
        self._most = TokenCounter(rater.config.model)
        self._requests = 0
        self._answer = self._most_answer = 0.0
        self._has_unsampled = False

    def add_known(self, responses: Iterable[Reviewed], cache: Cache) -> None:
        """Count the questions about distinct responses that the cache does not answer."""
        makers = [self._rater.keys(aspect) for aspect in self._aspects]
        samples = [(response, response.sample()) for response in responses]
        keys = {
            maker.key(sample, repeat): (number, place)
            for place, (_, sample) in enumerate(samples)
            for number, maker in enumerate(makers)
            for repeat in self._repeats
        }
        kept = cache.find(keys)
        for key, (number, place) in keys.items():
            if key not in kept or self._rater.is_stale(kept[key]):
                response, sample = samples[place]
                text = frame(fence(sample, self._rater.config.max_sample_tokens))
                length = TokenCounter.estimate(response.text)
                self._add(self._aspects[number], text, 1, length)

    def add_unsampled(self, unsampled: Unsampled) -> None:
        """Count the questions about responses that are still to come."""
        self._has_unsampled = True
        times = unsampled.n * len(self._repeats)
        cap = self._rater.config.max_sample_tokens
        likely, most = min(unsampled.likely, cap), min(unsampled.most, cap)
        for prompt in unsampled.prompts:
            text = frame(fence(Reviewed(prompt, "").sample(), cap))
            for aspect in self._aspects:
                self._add(aspect, text, times, likely, (likely, most))

    def _add(
        self,
        aspect: Aspect,
        text: str,
        times: int,
        length: float,
        more: tuple[float, float] = (0.0, 0.0),
    ) -> None:
        config = self._rater.config
        whole = aspect.instructions + text
        self._likely.add(whole, times, more[0])
        self._most.add(whole, times, more[1])
        self._requests += times
        self._answer += times * aspect.likely_tokens(length, config)
        self._most_answer += times * aspect.limits(config)["max_tokens"]

    def plan(self, name: str) -> Plan:
        """All of it."""
        rater = self._rater
        guess = "; claims taken to be twice as long as responses" if name == "factual" else ""
        work = Work(
            price=rater.price,
            requests=self._requests,
            prompt=self._likely.tokens,
            answer=round(self._answer),
            most_prompt=self._most.tokens,
            most_answer=round(self._most_answer),
            how=f"{self._likely.how}{guess}",
        )
        bound = ""
        if self._has_unsampled:
            bound = " at most: equal responses are rated once, empty and truncated ones not at all"
        return work.plan(
            f"{name}: {self._requests:,} requests to {rater.config.model} at "
            f"{rater.server.url}{bound}"
        )
