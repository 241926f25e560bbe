"""What the user sees of a run on Ray: rows that are done, workers, cost."""

from __future__ import annotations

from ..models.server.prices import usd
from ..progress import Progress
from .blocks import Block
from .coordinator import News
from .said import Said


class Shown:
    """Shows the news of a run.

    Args:
        progress: of the command.
        rows: of all blocks.
        workers: that are wanted.
    """

    def __init__(self, progress: Progress, rows: int, workers: int) -> None:
        self._progress = progress
        self._rows = rows
        self._workers = workers
        self._said = Said(progress)
        # Rows done of each block that a worker has, by its first row.
        self._open: dict[int, int] = {}
        self._finished = self._told = 0

    def say(self, line: str) -> None:
        """Say a line; of its kind only the first."""
        self._said.say(line)

    def finished(self, block: Block) -> None:
        """All rows of a block are done."""
        self._open.pop(block.start, None)
        self._finished += block.rows
        self._advance()

    def dropped(self, block: Block) -> None:
        """A block is to be done again."""
        self._open.pop(block.start, None)

    def look(self, news: News, at_work: set[int], ready: int) -> None:
        """Show what workers have told.

        Args:
            news: since the last look.
            at_work: first rows of the blocks that workers have in hand.
            ready: workers that are.
        """
        for start, done in news.done.items():
            if start in at_work:
                self._open[start] = max(done, self._open.get(start, 0))
        self._advance()
        for line in news.lines:
            self._said.say(line)
        parts = [f"{ready} of {self._workers} workers"]
        if news.spent:
            expected = news.spent * self._rows / max(self._told, 1)
            parts.append(f"${usd(news.spent)} of about ${usd(expected)}")
        self._progress.status(", ".join(parts))

    def finish(self) -> None:
        """Say how often each kind of line came."""
        self._said.finish()

    def _advance(self) -> None:
        """Count rows that are done; those that are done again count once."""
        done = min(self._rows, self._finished + sum(self._open.values()))
        if done > self._told:
            self._progress.advance(done - self._told)
            self._told = done
