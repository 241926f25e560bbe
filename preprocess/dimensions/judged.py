"""The judge of a recipe: what it is asked in each dimension, and what that would cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from axolotl_ual.settings.pairs import PairsConfig, PairsJudgeConfig

from ..calls.ask import Asker, Session
from ..calls.budget import Meter
from ..calls.plan import Plan, Work
from ..data.responses import ResponseSet
from ..models.server.prices import BYTES_PER_TOKEN
from ..progress import Progress
from ..sampling.base import Unsampled
from .claims import claims_task
from .principles import principle_tasks
from .review import Answers, Review, Reviewed, distinct_responses, review, review_questions

SECTION: Final = "ual.pairs.judge"
_FILLER: Final = "a response that is still to come "


@dataclass(frozen=True)
class Judged:
    """Asks the judge of a recipe about responses.

    Attributes:
        pairs: the recipe's `ual.pairs`.
        session: of the command.
    """

    pairs: PairsConfig
    session: Session

    def check(self) -> None:
        """Find what the judge is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        if self.pairs.judged:
            self._asker().check()

    def ask(
        self,
        name: str,
        responses: Sequence[Reviewed],
        scoring: int,
        progress: Progress,
        place: Callable[[int], dict[str, Any]],
    ) -> tuple[Answers, Meter]:
        """Ask all that a dimension asks.

        Args:
            name: of the dimension.
            responses: distinct ones.
            scoring: number of an intended repeat of all of it.
            progress: advances with each answer.
            place: what a response is called in `unscored.jsonl`.
        """
        self.check()
        meter = self.session.meter(progress, self.total(name, responses))
        repeats = self._repeats(name)
        numbers = range(scoring * repeats, (scoring + 1) * repeats)
        answers = review(self._asker(), self._tasks(name), responses, numbers, meter, place)
        meter.finish()
        return answers, meter

    def total(self, name: str, responses: Sequence[Reviewed]) -> int:
        """Number of answers of one scoring."""
        return len(self._tasks(name)) * len(responses) * self._repeats(name)

    def plan(self, data: ResponseSet, unsampled: Unsampled | None, scorings: int) -> list[Plan]:
        """What would be asked, by dimension.

        Args:
            data: responses that are there.
            unsampled: those that are not, or None.
            scorings: times that everything is scored.
        """
        usable = data.usable(self.pairs.sampling.truncated == "keep")
        distinct, _ = distinct_responses(data, np.flatnonzero(usable))
        return [
            self._plan(name, distinct, unsampled, scorings * self._repeats(name))
            for name in self.pairs.judged
        ]

    def _plan(
        self, name: str, distinct: Sequence[Reviewed], unsampled: Unsampled | None, repeats: int
    ) -> Plan:
        asker, tasks = self._asker(), self._tasks(name)
        work = asker.plan(review_questions(tasks, distinct, range(repeats)))
        bound = ""
        if unsampled is not None and unsampled.prompts:
            work += _unsampled_work(asker, tasks, unsampled).times(unsampled.n * repeats)
            bound = " at most: equal responses are rated once, empty and truncated ones not at all"
        if name == "factual":
            how = f"{work.how}; claims taken to be twice as long as responses"
            work = replace(work, how=how)
        endpoint = asker.endpoint
        return work.plan(
            f"{name}: {work.requests:,} requests to {endpoint.config.model} at "
            f"{endpoint.server.url}{bound}"
        )

    def _tasks(self, name: str) -> Sequence[Review]:
        if name == "factual":
            return [claims_task(self._config())]
        return principle_tasks(self._config(), self.pairs.value.principles)

    def _repeats(self, name: str) -> int:
        """Times that a dimension asks in one scoring."""
        return self.pairs.value.repeats if name == "value" else 1

    def _config(self) -> PairsJudgeConfig:
        if self.pairs.judge is None:
            raise ValueError("no judge is configured")
        return self.pairs.judge

    def _asker(self) -> Asker:
        return self.session.asker(self._config(), SECTION)


def _unsampled_work(asker: Asker, tasks: Sequence[Review], unsampled: Unsampled) -> Work:
    """What one response to each prompt takes, of a likely length and of the greatest."""

    def work(tokens: float) -> Work:
        length = round(tokens * BYTES_PER_TOKEN)
        text = (_FILLER * (length // len(_FILLER) + 1))[:length]
        responses = [Reviewed(prompt, text) for prompt in unsampled.prompts]
        return asker.plan(review_questions(tasks, responses, range(1)))

    likely, most = work(unsampled.likely), work(unsampled.most)
    return replace(likely, most_prompt=most.prompt, most_answer=most.most_answer)
