"""How long a server is waited for, and that the user hears of it.

Patience is time on the wall: from the last answer, or from the first request, to the moment at
which there is still no other. Where a server gives nothing but errors or asks to wait, the run
goes on until patience is over, and ends then with what the server said; what was answered is kept.
Where it asks to wait for longer than patience lasts, it ends at once.

After many errors in a row nobody knocks for a while: one request is let through after a pause, and
pauses double until the first answer. A wait of more than a few seconds is told in a line, and so is
silence. A request that is alone in not being answered ends alone, and not the run.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from axolotl_ual.errors import BackendError

from .track_record import TrackRecord

_FIRST_PAUSE: Final = 2.0
_LONGEST_PAUSE: Final = 60.0
_TOLD_FROM: Final = 3.0
"""Seconds of a wait that is worth a line."""
_SILENCE: Final = 60.0
"""Seconds without an answer that are worth a line; less where patience is short."""
_SURE: Final = 3
"""So many in a row ask for a longer wait than patience, where others were answered before."""


class AloneUnanswered(Exception):
    """Patience is over for the only request that is left."""


class Patience:
    """Follows what a server answers.

    Args:
        seconds: of patience.
        threshold: errors in a row after which there is a pause.
        where: what the server is called in messages.
        say: prints a line for the user.
        abort: ends the waits that others hold.
        record: whether the server has worked.
    """

    def __init__(
        self,
        seconds: float,
        threshold: int,
        where: str,
        say: Callable[[str], None],
        abort: Callable[[Exception], None],
        record: TrackRecord,
    ) -> None:
        self._patience = seconds
        self._threshold = threshold
        self._where = where
        self._say = say
        self._abort = abort
        self._since = self._told_at = self._told_until = time.monotonic()
        self._unanswered = self._in_flight = self._in_a_row = self._long_waits = 0
        self._reason = ""
        self._pause = _FIRST_PAUSE
        self._open_until: float | None = None
        self._probing = False
        self._over: Exception | None = None
        self._changed = asyncio.Event()
        self._record = record

    def began(self) -> None:
        """A request wants an answer."""
        if not self._unanswered:
            self._since = self._told_at = time.monotonic()
            self._over = None
        self._unanswered += 1

    def ended(self) -> None:
        """It has one, or is given up."""
        self._unanswered -= 1

    @property
    def in_flight(self) -> int:
        """Requests that were sent and not answered; 0 where patience is over, for they hang."""
        return 0 if self._over is not None else self._in_flight

    def sent(self) -> None:
        """A request is in flight."""
        self._in_flight += 1

    def came_back(self) -> None:
        """It is no longer."""
        self._in_flight -= 1

    def succeeded(self) -> None:
        """The server answered."""
        self._record.worked()
        self._in_a_row = self._long_waits = 0
        self._since = self._told_at = time.monotonic()
        if self._open_until is not None:
            self._tell(f"{self._where} answers again")
            self._open_until = None
            self._pause = _FIRST_PAUSE
            self._wake()

    def failed(self, reason: str, retry_after: float | None = None) -> None:
        """The server gave an error, or nothing.

        Args:
            reason: what it said.
            retry_after: seconds that it asks to wait.

        Raises:
            BackendError: it has done nothing else for too long, or asks for too long a wait.
        """
        now = time.monotonic()
        self._in_a_row += 1
        self._reason = reason
        if retry_after is not None and retry_after > self._patience - (now - self._since):
            self._long_waits += 1
            if not self._record.has_worked or self._long_waits >= _SURE:
                raise self._too_long_a_wait(retry_after)
        many = self._in_a_row >= self._threshold
        if now - self._since >= self._patience and (many or not self._in_flight):
            self._end()
            if self._over is not None:
                raise self._over
        if many and (self._open_until is None or self._probing):
            self._open(now, reason)

    async def wait(self) -> None:
        """Return when a request may be sent; at once while the server works."""
        while self._open_until is not None:
            remaining = self._open_until - time.monotonic()
            if remaining > 0 or self._probing:
                await self._rest(max(0.05, remaining))
            else:
                self._probing = True
                return

    async def sleep(self, seconds: float, reason: str) -> None:
        """Wait before another try.

        Raises:
            BackendError: patience is over.
            AloneUnanswered: it is over for this request, which is the last.
        """
        self.tell_wait(seconds, reason)
        until = time.monotonic() + seconds
        while (remaining := until - time.monotonic()) > 0:
            await self._rest(remaining)

    def tell_wait(self, seconds: float, reason: str) -> None:
        """Say that nothing will happen for a while, unless a longer wait was told."""
        until = time.monotonic() + seconds
        if seconds >= _TOLD_FROM and until > self._told_until + _TOLD_FROM:
            self._told_until = until
            self._tell(f"waiting {seconds:.0f} s for {self._where} ({reason})")

    async def watch(self) -> None:
        """Tell of silence and end the run when patience is over, until cancelled."""
        silence = min(_SILENCE, self._patience / 2)
        while True:
            await asyncio.sleep(min(1.0, silence / 4))
            now = time.monotonic()
            if not self._unanswered or self._over is not None:
                continue
            silent = now - self._since
            if silent >= self._patience and self._in_a_row and not self._in_flight:
                self._end()
            elif now - self._told_at >= silence and silent >= silence:
                rest = f": {self._reason}" if self._in_a_row else ""
                self._tell(
                    f"{self._where} has answered nothing for {silent:.0f} s, "
                    f"{self._in_flight:,} requests in flight{rest}"
                )

    def _tell(self, line: str) -> None:
        self._told_at = time.monotonic()
        self._say(line)

    def _open(self, now: float, reason: str) -> None:
        pause = min(self._pause, max(0.1, self._patience - (now - self._since)))
        self._tell(
            f"{self._where} answers nothing but errors ({reason}); pausing for {pause:.0f} s"
        )
        self._open_until = now + pause
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)
        self._probing = False

    async def _rest(self, seconds: float) -> None:
        if self._over is None:
            try:
                await asyncio.wait_for(self._changed.wait(), seconds)
            except asyncio.TimeoutError:
                return
        if self._over is not None:
            raise self._over

    def _end(self) -> None:
        """Patience is over: for the run, or for its last request alone."""
        if self._unanswered == 1:
            self._over = AloneUnanswered(self._reason)
        else:
            self._over = BackendError(
                f"{self._where} has answered nothing but errors for "
                f"{time.monotonic() - self._since:.0f} s; the last: {self._reason}",
                "run the same command again when it works: what was answered is in the cache and "
                "is not asked again (`patience` is how long to wait)",
            )
        self._wake()
        self._abort(self._over)

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _too_long_a_wait(self, seconds: float) -> BackendError:
        return BackendError(
            f"{self._where} asks to wait {_span(seconds)}, which is longer than `patience: "
            f"{self._patience:g}` lasts ({self._reason})",
            "run the same command again then: what was answered is in the cache and is not asked "
            "again; or raise `patience`",
        )


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
