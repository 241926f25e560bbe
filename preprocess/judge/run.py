"""Judges asked side by side about every sample.

Where one ends before all are answered, the others send nothing more, and what they have in flight
is waited for: it is paid for, and kept.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import numpy as np

from axolotl_ual.errors import UALError

from ..calls.cache import Answer
from ..calls.task import NoLogprobs
from ..data.sample import Sample
from ..progress import Progress
from .member import Judge
from .tally import Tally

_TO_KEEP: Final = 1.0
"""Seconds for judges to keep their last answers."""


class JudgeRun:
    """Asks every judge about every sample.

    Args:
        judges: one, or the members of a panel.
        samples: lazy.
        progress: advances by one when all judges are done with a row.

    Attributes:
        judges: as they were used: a judge may have fallen back to another score.
        tallies: one for each judge.
        meter: of the run.
        notices: what the answers of each judge look like taken together.
    """

    def __init__(
        self, judges: Sequence[Judge], samples: Sequence[Sample], progress: Progress
    ) -> None:
        self._samples = samples
        self._progress = progress
        self._session = judges[0].asker.session
        self._left = np.full(len(samples), len(judges), np.uint16)
        self._is_advanced = np.zeros(len(samples), np.bool_)
        self.judges = list(judges)
        self.tallies = [Tally(len(samples), judge.repeats) for judge in judges]
        self.notices = [judge.notices() for judge in judges]
        total = sum(len(samples) * judge.repeats for judge in judges)
        self.meter = self._session.meter(progress, total)

    def run(self) -> None:
        """Ask all.

        Raises:
            BackendError: a judge cannot be used.
            LimitError: as much as may be spent was spent.
        """
        for judge in self.judges:
            judge.warn(self._progress)
        self._session.run(self._ask_all())
        self.meter.finish()
        for notices in self.notices:
            for line in notices.lines():
                self._progress.say(line)

    def seen(self, index: int) -> dict[str, list[str]]:
        """How a server took requests, and what is worth a look in its answers."""
        seen = dict(self.judges[index].asker.facts)
        if lines := self.notices[index].lines():
            seen["notices"] = lines
        return seen

    async def _ask_all(self) -> None:
        tasks = [asyncio.create_task(self._ask(index)) for index in range(len(self.judges))]
        try:
            done, running = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                if running and isinstance(error := task.exception(), UALError):
                    await asyncio.gather(*(judge.asker.end(error) for judge in self.judges))
                    await asyncio.wait(running, timeout=_TO_KEEP)
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _ask(self, index: int) -> None:
        def on_answer(row: int, answer: Answer) -> None:
            self._settle(index, row, answer)

        if self.judges[index].settled() is not self.judges[index]:
            self._fall_back(index, ", as the cache knows; --retry-failed asks it again")
        elif beside := self.judges[index].asked_beside(self._samples):
            self._progress.say(beside)
        while True:
            judge = self.judges[index]
            try:
                await judge.asker.ask(judge.questions(self._samples), on_answer, self.meter)
            except NoLogprobs:
                self._fall_back(index)
            else:
                return

    def _fall_back(self, index: int, how: str = "") -> None:
        """Go on with stated numbers: this server gives no log-probabilities."""
        judge = self.judges[index]
        self._progress.say(
            f"{judge.asker.endpoint.server.url} gives no log-probabilities for "
            f"{judge.task.config.model}: `score: expected` falls back to `score: verbalized` for "
            f"all rows{how}"
        )
        self._left[self.tallies[index].complete] += 1
        self.judges[index] = judge.verbalized
        self.tallies[index] = Tally(len(self._samples), judge.repeats)
        self.notices[index] = self.judges[index].notices()

    def _settle(self, index: int, row: int, answer: Answer) -> None:
        self.meter.count()
        self.notices[index].add(answer)
        if self.tallies[index].add(row, answer):
            self._left[row] -= 1
            if not self._left[row] and not self._is_advanced[row]:
                self._is_advanced[row] = True
                self._progress.advance(1)
