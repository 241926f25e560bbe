"""The processes of workers on Ray, to kill them."""

from __future__ import annotations

import contextlib
from pathlib import Path


def workers_at_work() -> list[int]:
    """Process numbers of the workers on this machine that have rows in hand.

    Ray names a process by what it does.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It may have ended meanwhile.
            if (entry / "cmdline").read_bytes().startswith(b"ray::rows "):
                found.append(int(entry.name))
    return found


def peak_mib(processes: list[int]) -> float:
    """The most resident memory that one of these processes has had."""
    most = 0
    for number in processes:
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{number}/status").read_text().splitlines():
                if line.startswith("VmHWM"):
                    most = max(most, int(line.split()[1]))
    return most / 1024
