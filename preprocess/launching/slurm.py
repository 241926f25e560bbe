"""The chain as Slurm jobs, each depending on the one before.

A job that is preempted, or that comes to its time limit, goes back into the queue and on from where
it was: answers of a judge are in the cache, training has its checkpoints, and what `evaluate` has
measured is kept.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from axolotl_ual.errors import ConfigError, UALError

from . import steps
from .config import LaunchConfig, Options
from .steps import Job

_SECONDS_BEFORE_THE_END: Final = 120
_REQUEUE: Final = """\
again() {
  echo "going back into the queue" >&2
  requeued=yes
  scontrol requeue "$SLURM_JOB_ID"
}
trap again USR1
"""
"""Bash runs a trap only while it waits, so what takes long runs in the background."""
_WAIT: Final = 'wait "$!" || ended "$?"'


def render(config: LaunchConfig, job: Job) -> dict[str, str]:
    """The job files, name -> text, in the order of the chain."""
    files = {}
    if config.annotate is not None:
        lines = steps.annotate(config.annotate, job)
        lines[-1] = f"srun --nodes=1 --ntasks=1 {lines[-1]} &"
        files["annotate"] = _script(
            config, job, "annotate", config.annotate.options, [*lines, _WAIT]
        )
    nodes = {"nodes": config.train.nodes, "ntasks-per-node": 1}
    command = steps.train(config.train, job, '"$head"', '"$SLURM_JOB_ID"')
    lines = [
        'head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        f"srun --kill-on-bad-exit=1 {command} &",
        _WAIT,
    ]
    files["train"] = _script(config, job, "train", {**nodes, **config.train.options}, lines)
    if config.evaluate is not None:
        lines = [f"srun --nodes=1 --ntasks=1 {steps.evaluate(config.evaluate, job)} &", _WAIT]
        files["evaluate"] = _script(config, job, "evaluate", config.evaluate.options, lines)
    return files


def _script(config: LaunchConfig, job: Job, step: str, options: Options, lines: list[str]) -> str:
    head = {
        "job-name": f"{config.name}-{step}",
        "output": f"{config.folder}/{config.name}-{step}.%j.log",
        "open-mode": "append",
        "requeue": True,
        "signal": f"B:USR1@{_SECONDS_BEFORE_THE_END}",
        **options,
    }
    return "\n".join(
        [
            "#!/bin/bash",
            *_directives(head),
            "set -euo pipefail",
            *steps.environment(config),
            _REQUEUE.rstrip("\n"),
            *_ended(f"{config.name}-{step}", job, step == "train"),
            *lines,
            "",
        ]
    )


def _ended(name: str, job: Job, trains: bool) -> list[str]:
    """What a job says when its step has failed, and what to do then."""
    told = f"{name} has ended with status $1"
    lines = ["ended() {", '  [[ -z ${requeued:-} ]] || exit "$1"']
    if trains:
        checkpoints = f"{shlex.quote(job.output)} -maxdepth 1 -name 'checkpoint-*'"
        lines.append(f"  last=$(find {checkpoints} 2>/dev/null | sort -V | tail -n 1) || true")
        told = f"{told}; the last checkpoint: ${{last:-none}}"
    return [
        *lines,
        f'  echo "{told}" >&2',
        f"  printf 'to go on from there: %s\\n' {shlex.quote(job.again)} >&2",
        '  exit "$1"',
        "}",
    ]


def _directives(options: Options) -> Iterator[str]:
    for name, value in options.items():
        if value is True:
            yield f"#SBATCH --{name}"
        elif value is not False:
            yield f"#SBATCH --{name}={value}"


def submit(paths: list[Path]) -> list[str]:
    """Hand the job files to sbatch, each to begin when the one before has ended well.

    Returns:
        The numbers of the jobs.

    Raises:
        ConfigError: there is no sbatch here.
        UALError: sbatch refuses a job; those before it are named.
    """
    if shutil.which("sbatch") is None:
        raise ConfigError(
            "there is no sbatch on this machine",
            "launch on a login node of the cluster, or write the job files with --dry-run",
        )
    numbers: list[str] = []
    for path in paths:
        command = ["sbatch", "--parsable"]
        if numbers:
            command += [f"--dependency=afterok:{numbers[-1]}", "--kill-on-invalid-dep=yes"]
        run = subprocess.run([*command, str(path)], capture_output=True, text=True, check=False)
        found = re.match(r"\d+", run.stdout.strip())
        if run.returncode != 0 or found is None:
            waiting = f"; waiting in the queue: {', '.join(numbers)}" if numbers else ""
            said = " ".join((run.stderr or run.stdout).split())
            raise UALError(
                f"{shlex.join(command)} {path}: {said or 'said nothing'}{waiting}",
                "mend the options of that step" + (", and scancel what waits" if numbers else ""),
            )
        numbers.append(found.group())
    return numbers
