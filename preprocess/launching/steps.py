"""What each job of the chain runs, as lines of bash; the same for every scheduler."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Final

from .config import AnnotateStep, EvaluateStep, LaunchConfig, TrainStep

AXOLOTL_OUTPUT: Final = "model-out"
"""Where Axolotl trains into when a recipe has no `output_dir`."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be run.

    Attributes:
        recipe: path of the recipe, from the folder that jobs run in.
        maker: `annotate` or `pairs`: the command that makes what the recipe trains on.
        overrides: further arguments of `axolotl train`.
        launcher_arguments: further arguments of torchrun.
        output: folder of the checkpoints.
        again: what a person does after a step has failed.
    """

    recipe: str
    maker: str = "annotate"
    overrides: tuple[str, ...] = ()
    launcher_arguments: tuple[str, ...] = field(default=())
    output: str = AXOLOTL_OUTPUT
    again: str = "launch the chain again; what is done is not done twice"


def environment(config: LaunchConfig) -> list[str]:
    """The variables and the set-up of every step."""
    named = [f"export {n}={shlex.quote(v)}" for n, v in config.environment.items()]
    return [*named, *config.setup]


def annotate(step: AnnotateStep, job: Job) -> list[str]:
    """Annotate; with a judge on the node, which is waited for and stopped."""
    command = f"axolotl-ual {job.maker} {shlex.quote(job.recipe)}"
    if step.serve is None:
        return [command]
    url = shlex.quote(step.ready)
    return [
        f"{step.serve} &",
        "judge=$!",
        "trap 'kill \"$judge\" 2>/dev/null || true' EXIT",
        f"for ((second = 0; second < {step.patience}; second++)); do",
        f"  curl --fail --silent --output /dev/null {url} && break",
        '  kill -0 "$judge" 2>/dev/null || '
        '{ echo "the judge has ended before it answered" >&2; exit 1; }',
        "  sleep 1",
        "done",
        f"((second < {step.patience})) || "
        f'{{ echo "the judge did not answer within {step.patience} s" >&2; exit 1; }}',
        command,
    ]


def train(step: TrainStep, job: Job, head: str, rendezvous: str) -> str:
    """Train on every machine; a checkpoint that is there is gone on from.

    Args:
        step: how many machines and processes.
        job: what is trained.
        head: shell word for the address of the first machine.
        rendezvous: shell word that is the same on all machines of a run, and of no other.
    """
    words = [
        "axolotl train",
        shlex.quote(job.recipe),
        "--launcher torchrun",
        "--auto-resume-from-checkpoints",
        *map(shlex.quote, job.overrides),
        "--",
        f"--nnodes={step.nodes}",
        f"--nproc-per-node={step.processes}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={head}:{step.port}",
        f"--rdzv-id={rendezvous}",
        *map(shlex.quote, job.launcher_arguments),
    ]
    return " ".join(words)


def evaluate(step: EvaluateStep, job: Job) -> str:
    """Measure the runs and compare them."""
    runs = shlex.quote(",".join(step.runs))
    return f"axolotl-ual evaluate {shlex.quote(job.recipe)} --runs {runs}"
