"""The processes of workers on Ray, to watch and to kill them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path


def descendants(root: int | None = None) -> dict[int, str]:
    """Command lines by process number of all that descend from a process; by default from this.

    Ray names a process by what it does.
    """
    names, parents = {}, {}
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # It may have ended meanwhile.
            number = int(entry.name)
            # The name stands in brackets, and may hold anything.
            parents[number] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            names[number] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    found, last = {}, {os.getpid() if root is None else root}
    while last:
        last = {number for number, parent in parents.items() if parent in last}
        found.update({number: names[number] for number in last if number in names})
    return found


def at_work(root: int | None = None) -> list[int]:
    """Workers among them that have rows in hand."""
    return [n for n, name in descendants(root).items() if name.startswith("ray::rows ")]


def memory(number: int) -> dict[str, int]:
    """KiB that a process holds: all (with pages that it shares), and its own."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{number}/status").read_text().splitlines()
        said = dict(line.split(":", 1) for line in lines if ":" in line)
        if "VmRSS" in said:
            return {
                "rss": int(said["VmRSS"].split()[0]),
                "own": int(said["RssAnon"].split()[0]),
            }
    return {}


def cpu_seconds(numbers: Iterable[int]) -> float:
    """Of processes, with those of their children that have ended."""
    ticks = 0
    for number in numbers:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
