"""One run of one or several judges over all samples: what is asked, counted, spent and shown."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import orjson

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.errors import DataError

from ..calls.budget import Meter
from ..calls.cache import Cache, Judgement
from ..calls.outcomes import NO_LOGPROBS, SCORED, WITHOUT_SCORE
from ..calls.plan import RunOptions
from ..calls.stream import Question, Stream
from ..data.sample import Sample
from ..models.server.client import ChatBackend, Counts
from ..progress import Progress
from .batch import BatchRun
from .parse import NoLogprobs
from .tally import Tally
from .uncertainty import Judge, Shown

_SHOWN_EVERY: Final = 0.5
_LONGEST_SHOWN: Final = 200


class JudgeRun:
    """Asks every judge about every sample.

    Args:
        judges: one, or the members of a panel.
        samples: lazy.
        cache: open.
        progress: advances by one when all judges are done with a row.
        options: of the command line.

    Attributes:
        judges: as they were used: a judge may have fallen back to another score.
        tallies: one for each judge.
        counts: likewise, of the requests.
        shown: what was changed in samples to show them.
        cached: answers that came from the cache.
        unscored: the beginning of the first answer that gave no score.
    """

    def __init__(
        self,
        judges: Sequence[Judge],
        samples: Sequence[Sample],
        cache: Cache,
        progress: Progress,
        options: RunOptions,
    ) -> None:
        self._samples = samples
        self._cache = cache
        self._progress = progress
        self._options = options
        self._purse = options.purse
        self._meter = Meter(self._purse, sum(len(samples) * j.config.repeats for j in judges))
        self._left = np.full(len(samples), len(judges), np.uint16)
        self._is_advanced = np.zeros(len(samples), np.bool_)
        self._unscored_file = _UnscoredFile(options.unscored)
        self._shown_at = 0.0
        self.judges = list(judges)
        self.tallies = [self._tally(judge) for judge in judges]
        self.counts = [Counts() for _ in judges]
        self.shown = Shown()
        self._batched = 0
        self._asked_again: list[set[bytes]] = [set() for _ in judges]
        self.cached = 0
        self.unscored = ""

    def run_batches(self) -> None:
        """Bring in the answers of judges in `mode: batch`; `run` asks for what is left.

        Raises:
            BackendError: a Batch API cannot be used.
            LimitError: as much as may be spent was spent.
        """
        for index, judge in enumerate(self.judges):
            if judge.config.mode == "batch":
                self._run_batch(index)

    def _run_batch(self, index: int) -> None:
        judge = self.judges[index]
        run = BatchRun(judge, self._samples, self._cache, self._progress, self._options)
        try:
            run.run()
        except NoLogprobs:
            self._fall_back(index)
            self._run_batch(index)
        finally:
            self._batched += run.usage.requests
            self._asked_again[index] |= run.asked_again
            self.counts[index].add(
                Counts(
                    requests=run.usage.requests,
                    prompt_tokens=run.usage.prompt_tokens,
                    completion_tokens=run.usage.completion_tokens,
                )
            )
            self.shown.shortened += run.shown.shortened
            self.shown.replaced += run.shown.replaced

    async def run(self) -> None:
        """Ask all.

        Raises:
            BackendError: a judge cannot be used.
            LimitError: as much as may be spent was spent.
        """
        tasks = [asyncio.create_task(self._run_judge(index)) for index in range(len(self.judges))]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._unscored_file.close()
        self._meter.tell_lost(self._progress)

    def usage(self) -> ManifestUsage:
        """Of all judges; the cost is None where a price is missing."""
        sent = sum(counts.requests for counts in self.counts)
        priced = all(judge.price is not None for judge in self.judges)
        return ManifestUsage(
            requests=sent,
            cached=max(0, self.cached - self._batched),
            prompt_tokens=sum(counts.prompt_tokens for counts in self.counts),
            completion_tokens=sum(counts.completion_tokens for counts in self.counts),
            cost_usd=self._meter.cost(priced, sent),
        )

    def _tally(self, judge: Judge) -> Tally:
        return Tally(len(self._samples), judge.config.repeats)

    async def _run_judge(self, index: int) -> None:
        try:
            await self._stream(index)
        except NoLogprobs:
            self._fall_back(index)
            await self._stream(index)

    def _fall_back(self, index: int) -> None:
        judge = self.judges[index]
        self._progress.say(
            f"{judge.server.url} gives no log-probabilities for {judge.config.model}: "
            "`score: expected` falls back to `score: verbalized` for all rows"
        )
        self._left[self.tallies[index].complete] += 1
        self.judges[index] = replace(judge, score="verbalized")
        self.tallies[index] = self._tally(judge)

    async def _stream(self, index: int) -> None:
        judge = self.judges[index]
        async with ChatBackend(judge.config, judge.server, self._progress.say) as backend:
            before = self.counts[index]
            self.counts[index] = backend.counts

            async def ask(question: Question) -> Judgement:
                return await judge.ask(backend, question, self.shown, self._purse)

            def settle(row: int, judgement: Judgement, cached: bool) -> None:
                self._settle(index, row, judgement, cached)

            stream = Stream(
                self._cache,
                self._cache.asker(judge.keys.description),
                ask,
                settle,
                is_stale=lambda judgement: self._is_stale(judge, judgement),
                workers=2 * judge.config.max_concurrency,
                asked_again=self._asked_again[index],
            )
            try:
                await stream.run(self._questions(judge))
            finally:
                backend.counts.add(before)

    def _questions(self, judge: Judge) -> Iterator[Question]:
        for row, sample in enumerate(self._samples):
            for repeat in range(judge.config.repeats):
                yield judge.question(sample, row, repeat)

    def _is_stale(self, judge: Judge, judgement: Judgement) -> bool:
        retry = self._options.retry_failed and judgement.outcome in WITHOUT_SCORE
        return retry or judge.is_stale(judgement)

    def _settle(self, index: int, row: int, judgement: Judgement, cached: bool) -> None:
        if judgement.outcome == NO_LOGPROBS and self.judges[index].score == "expected":
            raise NoLogprobs
        self.cached += cached
        self._meter.count()
        if judgement.outcome != SCORED:
            self.unscored = self.unscored or judgement.text[:_LONGEST_SHOWN]
            self._unscored_file.write(
                {
                    "row": row,
                    "model": self.judges[index].config.model,
                    "outcome": judgement.outcome,
                    "answer": judgement.text,
                }
            )
        if self.tallies[index].add(row, judgement):
            self._left[row] -= 1
            if not self._left[row] and not self._is_advanced[row]:
                self._is_advanced[row] = True
                self._progress.advance(1)
        now = time.monotonic()
        if now - self._shown_at > _SHOWN_EVERY:
            self._shown_at = now
            self._progress.status(self._status())

    def _status(self) -> str:
        """Spent and expected cost, failures and retries."""
        parts = [text] if (text := self._meter.status()) else []
        unscored = self._unscored_file.written
        if unscored:
            parts.append(f"{unscored:,} without a score")
        retries = sum(counts.retries for counts in self.counts)
        if retries:
            parts.append(f"{retries:,} retries")
        return ", ".join(parts)


class _UnscoredFile:
    """JSON Lines, made with the first line."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._stream: Any = None
        self.written = 0

    def write(self, line: dict[str, Any]) -> None:
        self.written += 1
        if self._path is None:
            return
        try:
            if self._stream is None:
                self._stream = self._path.open("ab")
            self._stream.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))
        except OSError as error:
            raise DataError(f"{self._path}: cannot be written: {error}") from None

    def close(self) -> None:
        if self._stream is not None:
            self._stream.close()
