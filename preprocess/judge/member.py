"""One judge: what it is asked, how often, and by whom; alone, or a member of a panel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.estimators import JudgeConfig

from ..calls.ask import Asker, Session
from ..calls.plan import Plan
from ..calls.task import Question, Questions
from ..data.sample import Sample
from ..progress import Progress
from .notices import Notices
from .rubric import load_rubric
from .uncertainty import Uncertainty


@dataclass(frozen=True)
class Judge:
    """One judge: what it is asked, how often, and by whom.

    Attributes:
        task: what it is asked.
        repeats: times that each sample is judged.
        asker: of its endpoint.
    """

    task: Uncertainty
    repeats: int
    asker: Asker

    def questions(self, samples: Sequence[Sample]) -> Questions:
        """Every question about N samples, by row."""

        def make() -> Iterator[Question]:
            for row, sample in enumerate(samples):
                for repeat in range(self.repeats):
                    yield Question(self.task, sample, repeat, [row])

        return Questions([self.task], make)

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell requests, tokens and price. Sends nothing."""
        work = self.asker.plan(self.questions(samples))
        wanted = len(samples) * self.repeats
        known = wanted - work.requests
        rest = f"; {known:,} of {wanted:,} are in the cache or equal to another" if known else ""
        plan = work.plan(f"{self.name}: {work.requests:,} requests{rest}")
        beside = self.asked_beside(samples)
        return replace(plan, lines=[*plan.lines, *([f"  {beside}"] if beside else [])])

    def settled(self) -> Judge:
        """This judge, or with stated numbers where its server gives no log-probabilities."""
        if not self.task.needs_logprobs or not self.asker.lacks_logprobs(self.task):
            return self
        return self.verbalized

    @property
    def verbalized(self) -> Judge:
        """This judge, asked for stated numbers."""
        return replace(self, task=replace(self.task, score="verbalized"))

    def asked_beside(self, samples: Sequence[Sample]) -> str:
        """What to say where stated numbers are kept and none by log-probabilities; or nothing.

        They may be of a server that gives none, or of a run that asked for nothing else.
        """
        task, asker = self.task, self.asker
        if (
            not task.needs_logprobs
            or asker.holds_scores(task)
            or not asker.holds_scores(self.verbalized.task)
        ):
            return ""
        wanted = len(samples) * self.repeats
        known = wanted - asker.plan(self.verbalized.questions(samples)).requests
        if not known:
            return ""
        return (
            f"{self.name}: the cache holds {known:,} of {wanted:,} answers as stated numbers, and "
            f"none by log-probabilities: `score: expected` asks {wanted:,} times for these, or, "
            "where the server gives none, a few times; `score: verbalized` uses what is there"
        )

    def notices(self) -> Notices:
        """A fresh look at its answers."""
        of_hundred = self.task.rubric.scale == {"uncertainty": (0, 100)}
        return Notices(self.name, of_hundred and not self.task.needs_logprobs)

    def warn(self, progress: Progress) -> None:
        """Say what is paid for without a use."""
        if self.repeats > 1 and self.task.config.temperature == 0:
            progress.say(
                f"{self.name}: `repeats: {self.repeats}` at `temperature: 0` pays for identical "
                "requests, which most servers answer alike; set a temperature above 0"
            )

    @property
    def name(self) -> str:
        """Model and server."""
        return f"{self.task.config.model} at {self.asker.endpoint.server.url}"


def make_judge(config: JudgeConfig, section: str, session: Session) -> Judge:
    """A judge from its section.

    Raises:
        ConfigError: the rubric or the price list cannot be read.
    """
    rubric = load_rubric(config.rubric, reason=bool(config.reason), key=section)
    if config.score == "expected" and rubric.brings_schema and not rubric.scale.is_digits:
        raise ConfigError(
            f"{section}.score: expected: the rubric {config.rubric} rates by numbers of several "
            "digits, whose log-probabilities are those of no one token",
            "set `score: verbalized`, or bounds from 0 to 9 in its schema",
        )
    task = Uncertainty(config, rubric, config.score)
    return Judge(task, config.repeats, session.asker(config, section))
