"""The entries of Axolotl's group `axolotl.cloud_providers`: `axolotl train RECIPE --cloud FILE`.

Axolotl hands over the recipe as text, so it is written beside the job files.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from axolotl.cli.cloud.base import Cloud

from axolotl_ual.errors import ConfigError

from .chain import maker_of, write_chain
from .config import LaunchConfig, parse_launch
from .steps import AXOLOTL_OUTPUT, Job


class ChainLauncher(Cloud):
    """Runs a recipe as a chain of jobs: annotate, train, evaluate."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config: LaunchConfig = parse_launch(config, "--cloud")

    @classmethod
    def from_config(cls, config: dict[str, Any], *, config_dir: Path | None = None) -> Any:
        """Make one; nothing in the file is relative to its folder."""
        return cls(config)

    def preprocess(self, config_yaml: str, *given: Any, **options: Any) -> None:
        """Say that a chain has no such step.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "axolotl preprocess --cloud: a chain of jobs annotates, trains and evaluates",
            "run `axolotl preprocess` in a job of your own, or `axolotl train --cloud`",
        )

    def train(
        self,
        config_yaml: str,
        launcher: str | None = "accelerate",
        launcher_args: list[str] | None = None,
        local_dirs: dict[str, str] | None = None,
        **overrides: Any,
    ) -> None:
        """Write the recipe and the job files, and hand the jobs over.

        Args:
            config_yaml: the recipe's text.
            launcher: Axolotl's; jobs use torchrun, which knows several machines.
            launcher_args: further arguments of torchrun.
            local_dirs: of no use: jobs run in the folder that they are launched from.
            overrides: keys of the recipe that the command line sets.
        """
        if launcher == "python":
            raise ConfigError(
                "--launcher python: a job runs several processes", "leave `--launcher` out"
            )
        path = Path(self.config.folder) / f"{self.config.name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(config_yaml, encoding="utf-8")
        given = tuple(_argument(key, value) for key, value in overrides.items())
        recipe = yaml.safe_load(config_yaml)
        output = overrides.get("output_dir") or recipe.get("output_dir") or AXOLOTL_OUTPUT
        job = Job(
            str(path), maker_of(recipe), given, tuple(launcher_args or ()), output=str(output)
        )
        chain = write_chain(self.config, job)
        for file in chain.paths:
            print(f"wrote {file}")
        for number in chain.submit():
            print(f"submitted {number}")


def _argument(key: str, value: Any) -> str:
    name = key.replace("_", "-")
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    return f"--{name}={value}"
