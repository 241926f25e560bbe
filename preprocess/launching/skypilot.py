"""The chain as a SkyPilot managed job: a pipeline of tasks, one YAML document each.

SkyPilot starts a task again where a machine was taken away. Each task has machines of its own, so
what one leaves to the next, and what is to be gone on from, must lie in a bucket of `mounts:`.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from axolotl_ual.errors import ConfigError, UALError

from . import steps
from .config import LaunchConfig, Options
from .steps import Job

_HEAD: Final = 'head=$(echo "$SKYPILOT_NODE_IPS" | head -n 1)'


def render(config: LaunchConfig, job: Job) -> dict[str, str]:
    """The one file of the pipeline, name -> text."""
    tasks = []
    if config.annotate is not None:
        lines = steps.annotate(config.annotate, job)
        tasks.append(_task(config, "annotate", config.annotate.options, 1, lines))
    command = steps.train(config.train, job, '"$head"', '"$SKYPILOT_TASK_ID"')
    tasks.append(_task(config, "train", config.train.options, config.train.nodes, [_HEAD, command]))
    if config.evaluate is not None:
        lines = [steps.evaluate(config.evaluate, job)]
        tasks.append(_task(config, "evaluate", config.evaluate.options, 1, lines))
    documents: list[dict[str, Any]] = [{"name": config.name}, *tasks]
    return {"pipeline": yaml.dump_all(documents, Dumper=_Blocks, sort_keys=False, width=1000)}


def _task(
    config: LaunchConfig, step: str, options: Options, nodes: int, lines: list[str]
) -> dict[str, Any]:
    run = ["set -euo pipefail", *steps.environment(config), *lines]
    return {
        "name": f"{config.name}-{step}",
        "resources": options,
        "num_nodes": nodes,
        "workdir": ".",
        **({"file_mounts": config.mounts} if config.mounts else {}),
        "run": "\n".join(run) + "\n",
    }


class _Blocks(yaml.SafeDumper):
    """Writes texts of several lines as blocks, as people do."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Blocks.add_representer(str, _text)


def submit(paths: list[Path]) -> list[str]:
    """Start the pipeline.

    Returns:
        What SkyPilot said at the end.

    Raises:
        ConfigError: there is no sky here.
        UALError: it refuses the pipeline.
    """
    if shutil.which("sky") is None:
        raise ConfigError(
            "there is no sky on this machine",
            "pip install skypilot, or write the pipeline with --dry-run",
        )
    command = ["sky", "jobs", "launch", "--yes", "--detach-run", str(paths[0])]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    if run.returncode != 0:
        raise UALError(
            f"{' '.join(command)}: {' '.join((run.stderr or run.stdout).split())[-600:]}"
        )
    return run.stdout.strip().splitlines()[-1:]
