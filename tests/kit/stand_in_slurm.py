"""Slurm's commands, as far as job files use them, on one machine and without a queue.

`sbatch` runs the job file at once and ends when it has ended. `srun` runs its command. `scontrol
requeue` has `sbatch` run the file once more. With TIME_LIMIT in the environment the first run of
each job gets USR1 after so many seconds, as `#SBATCH --signal=B:USR1@...` asks for. The process
group of a running job is in `N.pid`.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

COMMANDS = ("sbatch", "srun", "scontrol")


def install(folder: Path) -> Path:
    """Write the commands into a folder, which is to be on the PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in COMMANDS:
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
        path.chmod(0o755)
    return folder


def sbatch(state: Path, arguments: list[str]) -> int:
    number = 1 + len(list(state.glob("*.status")))
    status = state / f"{number}.status"
    text = Path(arguments[-1]).read_text()
    waits = re.search(r"--dependency=afterok:(\d+)", " ".join(arguments))
    if waits and (state / f"{waits[1]}.status").read_text() != "0":
        status.write_text("never")
    else:
        log = re.findall(r"^#SBATCH --output=(.*)$", text, re.M)[0].replace("%j", str(number))
        code = _run(state, arguments[-1], number, Path(log))
        status.write_text(str(code))
    print(number)
    return 0


def _run(state: Path, script: str, number: int, log: Path) -> int:
    limit = float(os.environ.get("TIME_LIMIT", "0")) or None
    variables = {"SLURM_JOB_ID": str(number), "SLURM_JOB_NODELIST": "localhost"}
    while True:
        with log.open("a") as stream:
            process = subprocess.Popen(
                ["bash", script],
                env={**os.environ, **variables},
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            (state / f"{number}.pid").write_text(str(process.pid))
            try:
                code = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGUSR1)
                code = process.wait(timeout=60)
        again = state / f"{number}.requeued"
        if not again.exists():
            return code
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        again.unlink()
        limit = None


def main() -> int:
    name, *arguments = sys.argv[1:]
    state = Path(os.environ["STAND_IN_SLURM"])
    if name == "sbatch":
        return sbatch(state, arguments)
    if name == "srun":
        command = arguments[next(i for i, a in enumerate(arguments) if not a.startswith("-")) :]
        return subprocess.run(command, check=False).returncode
    if arguments[0] == "requeue":
        (state / f"{arguments[1]}.requeued").touch()
    else:
        print("localhost")
    return 0


if __name__ == "__main__":
    sys.exit(main())
