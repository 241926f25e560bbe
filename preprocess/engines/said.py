"""Lines of many workers: each kind is said once, and counted; counts of blocks are added up."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from ..progress import Progress

_CHANGING: Final = re.compile(r"\b[0-9a-f]{16,}\b|\d[\d,.]*")
"""What differs between lines of a kind: numbers, and the names that Ray gives."""
_COUNT: Final = re.compile(r"\d[\d,]*(?= )")


def is_count(line: str) -> bool:
    """Whether a line counts rows of a block: it begins with a number."""
    return _COUNT.match(line) is not None


class Said:
    """Passes lines on. What begins with a number counts rows of a block, and is said at the end.

    Args:
        progress: where to.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._said: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def say(self, line: str) -> None:
        """Say a line, unless one of its kind was said."""
        kind = _CHANGING.sub("#", line)
        count = _COUNT.match(line)
        if count is not None:
            self._sums[kind] += int(count[0].replace(",", ""))
        elif kind not in self._said:
            self._progress.say(line)
        self._said[kind] += 1
        self._last[kind] = line

    def finish(self) -> None:
        """Say the sums, and how often other lines came beyond the first time."""
        for kind, times in self._said.items():
            line = self._last[kind]
            if kind in self._sums:
                self._progress.say(_COUNT.sub(f"{self._sums[kind]:,}", line, count=1))
            elif times > 1:
                self._progress.say(f"{line} (said {times:,} times, of several blocks)")
