"""The file that says where a recipe runs: `axolotl-ual launch RECIPE --on FILE`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from axolotl_ual.errors import ConfigError, words_of
from axolotl_ual.settings.server import Section

Options = dict[str, str | int | float | bool | dict[str, Any]]


class Step(Section):
    """One job of the chain."""

    options: Options = Field(
        default_factory=dict,
        description="Slurm: of sbatch, without the dashes. SkyPilot: of the task's `resources:`.",
    )


class AnnotateStep(Step):
    """The job that annotates the data, or makes the pairs."""

    serve: str | None = Field(
        None, description="Command that serves a judge on the node; stopped when all is judged."
    )
    ready: str = Field(
        "http://localhost:8000/v1/models", description="What answers once the judge is there."
    )
    patience: int = Field(1800, ge=1, description="Seconds that the judge may take to start.")


class TrainStep(Step):
    """The job that trains."""

    nodes: int = Field(1, ge=1, description="Machines.")
    processes: int = Field(1, ge=1, description="Processes on each: its number of GPUs.")
    port: int = Field(29500, ge=1, le=65535, description="Where the machines meet, on the first.")


class EvaluateStep(Step):
    """The job that measures what came out."""

    runs: list[str] = Field(
        min_length=1,
        description="As `axolotl-ual evaluate --runs` takes them: base, ual=out.",
    )


class LaunchConfig(Section):
    """The whole file."""

    provider: Literal["slurm", "skypilot"]
    name: str = Field("ual", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", description="Of the jobs.")
    folder: str = Field("jobs", min_length=1, description="Where job files and logs are written.")
    setup: list[str] = Field(
        default_factory=list, description="Shell lines before each step: modules, an environment."
    )
    environment: dict[str, str] = Field(
        default_factory=dict, description="Variables of each step; no place for keys."
    )
    mounts: dict[str, Any] = Field(
        default_factory=dict, description="SkyPilot: `file_mounts:` of each task."
    )
    annotate: AnnotateStep | None = Field(
        default_factory=AnnotateStep, description="null: the data are annotated already."
    )
    train: TrainStep = Field(default_factory=TrainStep)
    evaluate: EvaluateStep | None = None

    @field_validator("environment")
    @classmethod
    def _no_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if not name.isidentifier():
                raise ValueError(f"{name!r} is no name of a variable")
            if name.endswith(("_KEY", "_TOKEN", "_SECRET", "_PASSWORD")):
                raise ValueError(
                    f"{name} would be written into job files; export it where you launch, and the "
                    "scheduler passes it on"
                )
        return environment

    @model_validator(mode="after")
    def _mounts_are_used(self) -> LaunchConfig:
        if self.mounts and self.provider != "skypilot":
            raise ValueError(
                f"`mounts` is for SkyPilot; jobs of {self.provider} run in the working folder"
            )
        return self


def parse_launch(raw: Mapping[str, Any], where: str) -> LaunchConfig:
    """Validate such a file.

    Args:
        raw: what it holds.
        where: its name, for messages.

    Raises:
        ConfigError: naming the keys that are wrong.
    """
    try:
        return LaunchConfig.model_validate(dict(raw))
    except ValidationError as error:
        raise ConfigError(
            f"{where}: {words_of(error)}",
            f"known keys: {', '.join(LaunchConfig.model_fields)}",
        ) from None
