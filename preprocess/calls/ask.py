"""Who asks: one asker an endpoint, live or by batches, for as long as a command lasts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol, TypeVar

import orjson

from axolotl_ual.errors import DataError, UALError
from axolotl_ual.settings.server import ServerConfig

from ..data.sample import Sample
from ..models.server.endpoint import Endpoint, find_endpoint
from ..models.server.limiter import Limiter, limiter_of
from ..models.server.track_record import TrackRecord
from ..progress import Progress
from .batch import DISCOUNT, BatchRun
from .breaker import Breaker
from .budget import Budget, Meter
from .cache import Answer, AnswerCache, Cache, Values, description
from .exchange import Exchange
from .outcomes import Outcome
from .pending import OnKnown, Pending
from .plan import Work, count_work
from .stream import Stream
from .task import NoLogprobs, Question, Questions, Task

Result = TypeVar("Result")
OnAnswer = Callable[[int, Answer], None]
"""Takes the place that waited for an answer, and the answer."""
Place = Callable[[int], dict[str, Any]]
"""What a place is called in `unscored.jsonl`."""

_NOBODY: Final = Sample(())
"""What is remembered of a server is about no sample."""
_WORKERS: Final = 2
"""Questions worked on for each that may be in flight."""


def row_of(place: int) -> dict[str, Any]:
    """A place that is a row of the data."""
    return {"row": place}


class Session:
    """What a command lends to all that ask in it. Use as a context manager.

    Args:
        open_cache: opens the cache, when it is first needed.
        budget: what may be spent, by all together.
        retry_failed: ask again where an earlier answer was kept that gave no score.
        unscored: JSON Lines file for the answers that give no score, or what else takes them;
            None takes none.
        make_limiter: makes the gate that all requests to an endpoint pass.
        make_record: makes the record of whether an endpoint has answered, from its name.
        breaker: counts answers of no use; None: one of this session's own.
    """

    def __init__(
        self,
        open_cache: Callable[[], AnswerCache],
        budget: Budget,
        *,
        retry_failed: bool,
        unscored: Path | Unscored | None,
        make_limiter: Callable[[ServerConfig, str], Limiter] = limiter_of,
        make_record: Callable[[str], TrackRecord] = lambda endpoint: TrackRecord(),
        breaker: Breaker | None = None,
    ) -> None:
        self._open_cache = open_cache
        self._cache: AnswerCache | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._askers: dict[tuple[str, str], Asker] = {}
        self.budget = budget
        self.retry_failed = retry_failed
        if unscored is None or isinstance(unscored, Path):
            unscored = UnscoredFile(unscored)
        self.unscored: Unscored = unscored
        self.make_limiter = make_limiter
        self.make_record = make_record
        self.breaker = breaker or Breaker()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.unscored.close()
        if self._cache is not None:
            self._cache.close()
        if self._loop is not None:
            self._loop.close()

    @property
    def cache(self) -> AnswerCache:
        """The cache, open."""
        if self._cache is None:
            self._cache = self._open_cache()
        return self._cache

    def asker(self, config: ServerConfig, section: str) -> Asker:
        """The asker of a section of the recipe: the same one each time.

        Raises:
            ConfigError: its price list cannot be read.
        """
        key = (section, config.model_dump_json())
        if key not in self._askers:
            self._askers[key] = Asker(find_endpoint(config, section), self)
        return self._askers[key]

    def meter(self, progress: Progress, total: int) -> Meter:
        """The meter of a stretch of work with so many answers."""
        return Meter(self.budget, progress, total)

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run to the end, on the loop that all askers share: limits and pacing live on it."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
        try:
            return self._loop.run_until_complete(work)
        finally:
            left = asyncio.all_tasks(self._loop)
            for task in left:
                task.cancel()
            if left:
                self._loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))


def open_session(
    folder: str | Path | None, budget: Budget, *, retry_failed: bool, unscored: Path | None
) -> Session:
    """A session with the durable cache of a folder; None is the user's cache directory."""
    return Session(lambda: Cache(folder), budget, retry_failed=retry_failed, unscored=unscored)


class Unscored(Protocol):
    """What takes the answers that gave no score."""

    def write(self, line: dict[str, Any]) -> None:
        """Take one."""
        ...

    def close(self) -> None:
        """Finish."""
        ...


class UnscoredFile:
    """Answers that gave no score, as JSON Lines; made with the first line.

    Args:
        path: where to, or None to write nothing.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stream: Any = None

    def write(self, line: dict[str, Any]) -> None:
        """Write a line.

        Raises:
            DataError: the file cannot be written.
        """
        if self._path is None:
            return
        try:
            if self._stream is None:
                self._stream = self._path.open("ab")
            self._stream.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error}") from None

    def close(self) -> None:
        """Finish the file."""
        if self._stream is not None:
            self._stream.close()


class Asker:
    """Asks one endpoint, and keeps what it learns of it.

    Args:
        endpoint: who is asked.
        session: of the command.

    Attributes:
        endpoint: likewise.
        session: likewise.
    """

    def __init__(self, endpoint: Endpoint, session: Session) -> None:
        self.endpoint = endpoint
        self.session = session
        self._progress: Progress | None = None

    @cached_property
    def pending(self) -> Pending:
        """What is to be asked; asking, batches and plans read it."""
        return Pending(self.session.cache, self.session.retry_failed)

    @cached_property
    def _exchange(self) -> Exchange:
        config, section = self.endpoint.config, self.endpoint.server.section
        limiter = self.session.make_limiter(config, section)
        session = self.session
        record = session.make_record(f"{self.endpoint.server.url} {config.model}")
        return Exchange(self.endpoint, session.budget, self._say, limiter, session.breaker, record)

    @property
    def facts(self) -> dict[str, list[str]]:
        """What was sent otherwise than asked for and who answered, for the manifest."""
        return self._exchange.backend.facts

    def lacks_logprobs(self, task: Task[Any]) -> bool:
        """Whether this server is known to give no log-probabilities for this model.

        Earlier versions remembered nothing of servers, and kept the answers that came without.

        Args:
            task: that needs them.
        """
        if self.session.retry_failed:
            return False
        if self._manners.find([_NOBODY])[0] == {"logprobs": False}:
            return True
        kept, about = self.session.cache.holds, description(task.identity)
        return kept(about, Outcome.NO_LOGPROBS) and not kept(about, Outcome.SCORED)

    def holds_scores(self, task: Task[Any]) -> bool:
        """Whether the cache has an answer to this task, to any question, that gave a score."""
        return self.session.cache.holds(description(task.identity), Outcome.SCORED)

    @property
    def _manners(self) -> Values:
        config, server = self.endpoint.config, self.endpoint.server
        about = {"kind": "server", "base_url": server.url, "model": config.model}
        return self.session.cache.values({**about, **config.answer_shaping})

    @property
    def gives_logprobs(self) -> bool:
        """Whether the server has not refused to give log-probabilities."""
        return self._exchange.backend.gives_logprobs

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        self.endpoint.check(self.session.budget.limit)

    def plan(self, questions: Questions, on_known: OnKnown = lambda question, answer: None) -> Work:
        """Count what `run` would ask. Sends nothing.

        Args:
            questions: all of them.
            on_known: called for those that the cache answers.
        """
        config, price = self.endpoint.config, self.endpoint.price
        if price is not None and config.mode == "batch":
            price = price.times(DISCOUNT)
        return count_work(self.pending, questions, config.model, price, on_known)

    def run(
        self, questions: Questions, on_answer: OnAnswer, meter: Meter, place: Place = row_of
    ) -> None:
        """Answer all questions, from the cache or by asking.

        Args:
            questions: all of them.
            on_answer: called for each place of each question.
            meter: of this stretch of work.
            place: what a place is called in `unscored.jsonl`.

        Raises:
            BackendError: the endpoint cannot be used.
            LimitError: as much as may be spent was spent.
            NoLogprobs: the server does not give what a task needs.
        """
        self.session.run(self.ask(questions, on_answer, meter, place))

    async def ask(
        self, questions: Questions, on_answer: OnAnswer, meter: Meter, place: Place = row_of
    ) -> None:
        """`run`, beside other askers of the session."""

        def settle(question: Question, answer: Answer, cached: bool) -> None:
            if answer.outcome is Outcome.NO_LOGPROBS:
                self._manners.put([(_NOBODY, {"logprobs": False})])
                raise NoLogprobs
            for row in question.rows:
                meter.cached += cached
                if answer.outcome is not Outcome.SCORED:
                    meter.unscored(answer.text)
                    self.session.unscored.write(
                        {
                            **place(row),
                            "model": self.endpoint.config.model,
                            "outcome": answer.outcome.value,
                            "answer": answer.text,
                        }
                    )
                on_answer(row, answer)

        await self.bring_batches(questions, meter)
        exchange = self._connect(meter)
        async with exchange.backend:
            stream = Stream(
                self.session.cache,
                self.pending,
                lambda question: exchange.ask(question, meter),
                settle,
                _WORKERS * self.endpoint.config.max_concurrency,
                exchange.backend.end,
            )
            await stream.run(questions)

    async def end(self, error: UALError) -> None:
        """Send nothing more, and wait a while for what is in flight.

        Args:
            error: what every further question ends with.
        """
        await self._exchange.backend.end(error)

    async def bring_batches(self, questions: Questions, meter: Meter) -> None:
        """In `mode: batch`, bring most answers into the cache, for `run` to find them there.

        Raises:
            BackendError: the Batch API cannot be used.
            LimitError: as much as may be spent was spent.
            NoLogprobs: the server does not give what a task needs.
        """
        if self.endpoint.config.mode == "batch":
            exchange = self._connect(meter)
            async with exchange.backend:
                batches = BatchRun(exchange, self.pending, self.session.cache, meter)
                try:
                    await batches.run(questions)
                except NoLogprobs:
                    self._manners.put([(_NOBODY, {"logprobs": False})])
                    raise

    def _connect(self, meter: Meter) -> Exchange:
        self._progress = meter.progress
        self._exchange.backend.counts = meter.counts
        return self._exchange

    def _say(self, line: str) -> None:
        if self._progress is not None:
            self._progress.say(line)
