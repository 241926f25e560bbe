"""The last rates of a server, in order: their median costs no sorting at every answer."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque


class Rates:
    """A window over rates.

    Args:
        kept: so many of the last are remembered.
    """

    def __init__(self, kept: int) -> None:
        self._kept = kept
        self._last: deque[float] = deque()
        self._sorted: list[float] = []

    def __len__(self) -> int:
        return len(self._last)

    def add(self, rate: float) -> None:
        """Remember a rate, and forget the oldest where there are too many."""
        if len(self._last) == self._kept:
            del self._sorted[bisect_left(self._sorted, self._last.popleft())]
        self._last.append(rate)
        insort(self._sorted, rate)

    @property
    def median(self) -> float:
        """Of the rates that are remembered; there must be one."""
        upper = len(self._sorted) // 2
        return (self._sorted[upper] + self._sorted[~upper]) / 2

    def percentile(self, percent: int) -> float:
        """The least rate that so many in a hundred, rounded down, are below; there must be one."""
        return self._sorted[len(self._sorted) * percent // 100]
