"""The rows of a command in blocks, and what becomes of those that kill.

A block over which workers die is halved, and its halves are tried apart, until the row is alone
that does it. That row gets no result, and all others have theirs: so the cost of a bad row is some
workers, whatever the size of a block.

A worker that dies may take what it had just finished with it, so of two blocks the first could be
blamed for what the second did. A block over which a worker died is therefore given out alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

_HALVED_AT: Final = 2
"""Deaths over a block of several rows: one may be an accident of the worker's own. Of its halves,
each is suspect."""
_GIVEN_UP_AT: Final = 3
"""Deaths over a row that is alone."""


@dataclass(slots=True, eq=False)
class Block:
    """Rows that a worker takes at a time.

    Attributes:
        start: its first row.
        rows: how many.
        reference: of the rows in Ray's store.
        deaths: of workers that had it in hand.
    """

    start: int
    rows: int
    reference: Any
    deaths: int = 0

    @property
    def name(self) -> str:
        """For Ray's dashboard and for people."""
        return f"rows {self.start}-{self.start + self.rows - 1}"


@dataclass(frozen=True, slots=True)
class Lost:
    """A row that no worker survives.

    Attributes:
        row: its number.
        asked: what was to be done.
        words: of the last death.
    """

    row: int
    asked: Any
    words: str


class Blocks:
    """Blocks that are to be done.

    Args:
        ray: the library.
        rows: lazy.
        size: rows of a block.
    """

    def __init__(self, ray: Any, rows: Sequence[Any], size: int) -> None:
        self._ray = ray
        self._fresh = self._cut(rows, size)
        self._again: deque[Block] = deque()

    def __bool__(self) -> bool:
        """Whether one is to be done, beside those that workers have."""
        if not self._again and (block := next(self._fresh, None)) is not None:
            self._again.append(block)
        return bool(self._again)

    def next(self, *, beside: bool) -> Block | None:
        """One that is to be done, or None.

        Args:
            beside: whether the worker has another; then only one over which no worker died.
        """
        for place, block in enumerate(self._again):
            if not (beside and block.deaths):
                del self._again[place]
                return block
        return next(self._fresh, None)

    def put_back(self, block: Block) -> None:
        """Its worker is gone, for a reason that has nothing to do with it."""
        self._again.append(block)

    def blame(self, block: Block, words: str) -> Lost | None:
        """A worker died over a block: it is to be done again, in halves where it is suspect.

        Args:
            block: likewise.
            words: what is known of the death.

        Returns:
            Its only row, where that is given up.
        """
        block.deaths += 1
        if block.rows == 1 and block.deaths >= _GIVEN_UP_AT:
            return Lost(block.start, self._ray.get(block.reference)[0], words)
        if block.rows > 1 and block.deaths >= _HALVED_AT:
            rows, half = self._ray.get(block.reference), block.rows // 2
            for start, part in ((0, rows[:half]), (half, rows[half:])):
                stored = self._ray.put(part)
                self._again.append(Block(block.start + start, len(part), stored, _HALVED_AT - 1))
        else:
            self._again.append(block)
        return None

    def _cut(self, rows: Sequence[Any], size: int) -> Iterator[Block]:
        source, start = iter(rows), 0
        while part := list(islice(source, size)):
            yield Block(start, len(part), self._ray.put(part))
            start += len(part)
