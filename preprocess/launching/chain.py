"""From a recipe and a file that says where it runs, to job files, to jobs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import skypilot, slurm
from .config import LaunchConfig
from .steps import Job

_RENDER = {"slurm": slurm.render, "skypilot": skypilot.render}
_SUBMIT = {"slurm": slurm.submit, "skypilot": skypilot.submit}
_SUFFIX = {"slurm": ".sbatch", "skypilot": ".yaml"}


@dataclass(frozen=True, slots=True)
class Chain:
    """Job files that are written.

    Attributes:
        provider: whose they are.
        paths: in the order in which they run.
    """

    provider: str
    paths: list[Path]

    def submit(self) -> list[str]:
        """Hand them over; gives the numbers of the jobs, or what the scheduler said."""
        return _SUBMIT[self.provider](self.paths)


def write_chain(config: LaunchConfig, job: Job) -> Chain:
    """Write the job files of a recipe into `folder`, over those of an earlier launch."""
    folder = Path(config.folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, text in _RENDER[config.provider](config, job).items():
        path = folder / f"{config.name}-{name}{_SUFFIX[config.provider]}"
        path.write_text(text, encoding="utf-8")
        paths.append(path)
    return Chain(config.provider, paths)


def maker_of(recipe: Mapping[str, Any]) -> str:
    """The command that makes what a recipe trains on."""
    pairs = (recipe.get("ual") or {}).get("pairs") is not None
    return "pairs" if recipe.get("rl") and pairs else "annotate"
