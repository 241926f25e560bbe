"""The steps of the demo: their times, and the commands that run in processes of their own."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from axolotl_ual.errors import UALError

ANNOTATE = ("axolotl_ual.preprocess.cli", "annotate")
PAIRS = ("axolotl_ual.preprocess.cli", "pairs")
TRAIN = ("axolotl.cli.main", "train", "--launcher", "python")
ABLATE = ("axolotl_ual.preprocess.cli", "ablate")
EVALUATE = ("axolotl_ual.preprocess.cli", "evaluate")
"""`axolotl-ual annotate`, ..., and `axolotl train`, as `python -m` takes them."""

LAUNCHER = shlex.join([sys.executable, "-m", *TRAIN, "{recipe}"])
"""How `ablate` trains a recipe."""

_TAIL_LINES = 20


@dataclass
class Steps:
    """Says what is being done and keeps how long it took.

    Attributes:
        console: where to.
        total: number of steps.
        seconds: wall time by step, in order.
    """

    console: Console
    total: int
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def step(self, name: str, what: str) -> Iterator[None]:
        """Announce a step and time it."""
        number = len(self.seconds) + 1
        self.console.print(f"[{number}/{self.total}] {what}", highlight=False, markup=False)
        start = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start, 1)
        self.console.print(f"      {self.seconds[name]:.1f} s", highlight=False)


@dataclass(frozen=True, slots=True)
class Command:
    """A Python module to run.

    Attributes:
        name: of the log file.
        arguments: the module and what it is called with.
        jobs: processes of it that compute at the same time.
    """

    name: str
    arguments: Sequence[str]
    jobs: int = 1


def run_side_by_side(commands: Sequence[Command], folder: Path) -> None:
    """Run commands at the same time, the cores shared out between them.

    Args:
        commands: at least one.
        folder: working folder; logs go to its `logs/`.

    Raises:
        UALError: one of them failed; names its log and shows the end of it. The others are ended.
    """
    logs = folder / "logs"
    logs.mkdir(exist_ok=True)
    threads = max(1, num_cores() // sum(command.jobs for command in commands))
    with ExitStack() as stack:
        running = []
        for command in commands:
            log = logs / f"{command.name}.log"
            stream = stack.enter_context(log.open("w", encoding="utf-8"))
            process = subprocess.Popen(
                [sys.executable, "-m", *command.arguments],
                cwd=folder,
                env={**os.environ, **_environment(threads)},
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                # A group of its own, so that its workers end with it.
                start_new_session=True,
            )
            stack.callback(_end, process)
            running.append((command, process, log))
        while any(process.poll() is None for _, process, _ in running):
            if any(process.poll() for _, process, _ in running):
                break
            time.sleep(0.1)
        for command, process, log in running:
            if process.poll():
                raise UALError(_failure(command, process.returncode, log))


def _environment(threads: int) -> Mapping[str, str]:
    """Offline, and the same arithmetic on a machine with a GPU as on one without."""
    return {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "CUDA_VISIBLE_DEVICES": "",
        "OMP_NUM_THREADS": str(threads),
        "PYTHONUNBUFFERED": "1",
    }


def num_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def _failure(command: Command, status: int, log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL_LINES:]
    called = " ".join(["python", "-m", *command.arguments])
    tail = "\n".join(f"  | {line}" for line in lines)
    return f"`{called}` ended with status {status}; the end of {log.absolute()}:\n{tail}"
