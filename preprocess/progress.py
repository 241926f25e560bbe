"""Progress of long work: a bar with rate and ETA on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.text import Text

PLAIN_LINE_SECONDS = 10.0
"""How often a line is printed where there is no terminal."""


class Progress(Protocol):
    """What long work reports to."""

    def advance(self, done: int = 1) -> None:
        """Count items that are finished since the last call."""
        ...

    def status(self, text: str) -> None:
        """Show a short text beside the count: cost so far, failures, ..."""
        ...

    def say(self, line: str) -> None:
        """Print a line that stays."""
        ...


class SilentProgress:
    """Keeps the count and shows nothing."""

    def __init__(self) -> None:
        self.done = 0
        self.lines: list[str] = []

    def advance(self, done: int = 1) -> None:
        """Count items."""
        self.done += done

    def status(self, text: str) -> None:
        """Keep nothing: a status is only worth showing."""

    def say(self, line: str) -> None:
        """Keep the line."""
        self.lines.append(line)


def make_console() -> Console:
    """A console that prints what it is given: paths and model names may hold brackets."""
    return Console(soft_wrap=True, markup=False, emoji=False, highlight=False)


class Uncounted:
    """Passes lines and status on; the items are counted elsewhere."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def advance(self, done: int = 1) -> None:
        """Count nothing."""

    def status(self, text: str) -> None:
        """Show it beside the other's count."""
        self._progress.status(text)

    def say(self, line: str) -> None:
        """Let the other say it."""
        self._progress.say(line)


@contextmanager
def show_progress(console: Console, label: str, total: int) -> Iterator[Progress]:
    """Show the progress of `total` items until the block ends.

    Args:
        console: where to; a console that is no terminal gets plain lines.
        label: what is being done, in a word or two.
        total: number of items.
    """
    if not console.is_terminal:
        plain = _PlainProgress(console, label, total)
        yield plain
        plain.finish()
        return
    bar = Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
        console=console,
    )
    with bar:
        yield _BarProgress(bar, label, total)


class _BarProgress:
    def __init__(self, bar: Bar, label: str, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task(label, total=total, rate="", status="")

    def advance(self, done: int = 1) -> None:
        task = self._bar.tasks[self._task]
        self._bar.update(self._task, advance=done, rate=_rate(task.completed, task.elapsed or 0.0))

    def status(self, text: str) -> None:
        self._bar.update(self._task, status=text)

    def say(self, line: str) -> None:
        self._bar.console.print(Text(line))


class _PlainProgress:
    def __init__(self, console: Console, label: str, total: int) -> None:
        self._console = console
        self._label = label
        self._total = total
        self._done = 0
        self._status = ""
        self._start = self._last = time.monotonic()

    def advance(self, done: int = 1) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._last >= PLAIN_LINE_SECONDS and self._done < self._total:
            self._last = now
            self._print()

    def status(self, text: str) -> None:
        self._status = text

    def say(self, line: str) -> None:
        self._console.print(Text(line))

    def finish(self) -> None:
        self._print()

    def _print(self) -> None:
        elapsed = time.monotonic() - self._start
        parts = [f"{self._label}: {self._done:,} of {self._total:,}", _rate(self._done, elapsed)]
        if 0 < self._done < self._total:
            parts.append(f"{elapsed / self._done * (self._total - self._done):.0f} s left")
        parts.append(self._status)
        self._console.print(Text(", ".join(part for part in parts if part)))


def _rate(done: float, seconds: float) -> str:
    return f"{done / seconds:,.1f} a second" if done and seconds > 0 else ""
