"""Lines of many workers: those that differ in their numbers alone are said once, and counted."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from ..progress import Progress

_NUMBER: Final = re.compile(r"\d[\d,.]*")


class Said:
    """Passes lines on.

    Args:
        progress: where to.
    """

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._said: Counter[str] = Counter()
        self._last: dict[str, str] = {}

    def say(self, line: str) -> None:
        """Say a line, unless one of its kind was said."""
        kind = _NUMBER.sub("#", line)
        if kind not in self._said:
            self._progress.say(line)
        self._said[kind] += 1
        self._last[kind] = line

    def finish(self) -> None:
        """Tell how often each kind was said beyond the first."""
        for kind, times in self._said.items():
            if times > 1:
                self._progress.say(f"{self._last[kind]} (said {times:,} times, of several blocks)")
