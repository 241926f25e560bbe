"""Keeps the records of the most important rows within a number of bytes."""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt

from .sample import Priorities

_ROOM: Final = 1.25
"""Size of the buffer, as a multiple of the budget: how seldom it is tidied."""
_MOST: Final = 2**64 - 1


class Keeper:
    """The rows of least priority whose records fit into a budget.

    Records lie in one buffer and not each in an object of its own: rows that come and go would
    leave the process with many times the memory that is in use.

    Args:
        budget: bytes of all records together.
        most: rows at most; None for no limit.
    """

    def __init__(self, budget: int, most: int | None = None) -> None:
        self._budget = budget
        self._most = most
        self._heap: list[tuple[int, int]] = []
        self._places: dict[int, tuple[int, int]] = {}
        self._buffer = bytearray()
        self._bytes = 0
        self._limit = np.uint64(_MOST)

    def wanted(self, priority_B: Priorities) -> npt.NDArray[np.bool_]:
        """Which of B rows may still be kept, bool of shape (B,)."""
        found: npt.NDArray[np.bool_] = priority_B < self._limit
        return found

    def offer(self, row: int, priority: int, record: bytes) -> None:
        """Offer a row; rows of greater priority make room for it. One row is always kept."""
        if priority >= self._limit:
            return
        if len(self._buffer) + len(record) > _ROOM * self._budget:
            self._tidy()
        heapq.heappush(self._heap, (-priority, row))
        self._places[row] = (len(self._buffer), len(record))
        self._buffer += record
        self._bytes += len(record)
        while len(self._heap) > 1 and self._is_full():
            worst, dropped = heapq.heappop(self._heap)
            self._limit = np.uint64(-worst)
            self._bytes -= self._places.pop(dropped)[1]

    def _is_full(self) -> bool:
        too_many = self._most is not None and len(self._heap) > self._most
        return too_many or self._bytes > self._budget

    def _tidy(self) -> None:
        """Close the gaps of dropped records."""
        end = 0
        for row, (start, length) in sorted(self._places.items(), key=lambda item: item[1]):
            self._buffer[end : end + length] = self._buffer[start : start + length]
            self._places[row] = (end, length)
            end += length
        del self._buffer[end:]

    def records(self) -> Mapping[int, bytes]:
        """Row -> record, in the order of the rows."""
        return {
            row: bytes(self._buffer[start : start + length])
            for row, (start, length) in sorted(self._places.items())
        }
