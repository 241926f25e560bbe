"""The judge of a recipe: what a dimension asks it, and what that would cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.settings.pairs import PairsJudgeConfig

from ..calls.ask import Asker, Session
from ..calls.plan import Plan, Work
from ..data.responses import ResponseSet
from ..models.server.prices import BYTES_PER_TOKEN
from ..sampling.base import Unsampled
from .base import Show, Usable
from .review import Answers, Review, Reviewed, distinct_responses, review, review_questions

SECTION: Final = "ual.pairs.judge"
_FILLER: Final = "a response that is still to come "


@dataclass(frozen=True)
class Ratings:
    """What a judge said of the usable responses.

    Attributes:
        answers: about the distinct responses.
        place: of each usable response among the distinct ones.
        usage: requests, tokens and cost.
        shown: samples that were shortened, and the like, where there were any.
    """

    answers: Answers
    place: list[int]
    usage: ManifestUsage
    shown: dict[str, int]


@dataclass(frozen=True)
class Judge:
    """Asks the judge of a recipe what one dimension asks.

    Attributes:
        config: the recipe's `ual.pairs.judge`.
        session: of the command.
        name: of the dimension.
        tasks: what is asked about each response.
        keep_truncated: whether responses that were cut off are rated.
        repeats: times that everything is asked in one scoring.
        note: further words about how its cost was estimated.
    """

    config: PairsJudgeConfig
    session: Session
    name: str
    tasks: Sequence[Review]
    keep_truncated: bool
    repeats: int = 1
    note: str = ""

    @property
    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {"method": "judge", "model": self.config.model}

    def check(self) -> None:
        """Find what the judge is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        self._asker().check()

    def ask(self, usable: Usable, repeat: int, show: Show) -> Ratings:
        """Ask all that the dimension asks, about each distinct response once."""
        self.check()
        responses, of = distinct_responses(usable.data, usable.rows)
        named = _names(usable, of)
        total = len(self.tasks) * len(responses) * self.repeats
        numbers = range(repeat * self.repeats, (repeat + 1) * self.repeats)
        with show(f"{self.name} (judge)", total) as progress:
            meter = self.session.meter(progress, total)
            answers = review(self._asker(), self.tasks, responses, numbers, meter, named)
            meter.finish()
        shown = {key: count for key, count in meter.shown.items() if count}
        return Ratings(answers, of, meter.usage(), shown)

    def plan(self, data: ResponseSet, unsampled: Unsampled | None, scorings: int) -> Plan:
        """What would be asked and what that would cost."""
        usable = Usable(data, self.keep_truncated)
        distinct, _ = distinct_responses(data, usable.rows)
        repeats = scorings * self.repeats
        asker = self._asker()
        work = asker.plan(review_questions(self.tasks, distinct, range(repeats)))
        bound = ""
        if unsampled is not None and unsampled.prompts:
            work += _unsampled_work(asker, self.tasks, unsampled).times(unsampled.n * repeats)
            bound = " at most: equal responses are rated once, empty and truncated ones not at all"
        if self.note:
            work = replace(work, how=f"{work.how}; {self.note}")
        endpoint = asker.endpoint
        return work.plan(
            f"{self.name}: {work.requests:,} requests to {endpoint.config.model} at "
            f"{endpoint.server.url}{bound}"
        )

    def _asker(self) -> Asker:
        return self.session.asker(self.config, SECTION)


def _names(usable: Usable, of: list[int]) -> Callable[[int], dict[str, Any]]:
    """What a distinct response is called in `unscored.jsonl`: by the first row that has it."""
    shown = dict(zip(reversed(of), reversed(usable.rows.tolist()), strict=True))
    prompt_of, numbers = usable.data.prompt_of(), usable.data.numbers()

    def name(response: int) -> dict[str, Any]:
        row = shown[response]
        return {"prompt_id": int(prompt_of[row]), "response_id": numbers[row]}

    return name


def _unsampled_work(asker: Asker, tasks: Sequence[Review], unsampled: Unsampled) -> Work:
    """What one response to each prompt takes, of a likely length and of the greatest."""

    def work(tokens: float) -> Work:
        length = round(tokens * BYTES_PER_TOKEN)
        text = (_FILLER * (length // len(_FILLER) + 1))[:length]
        responses = [Reviewed(prompt, text) for prompt in unsampled.prompts]
        return asker.plan(review_questions(tasks, responses, range(1)))

    likely, most = work(unsampled.likely), work(unsampled.most)
    return replace(likely, most_prompt=most.prompt, most_answer=most.most_answer)
