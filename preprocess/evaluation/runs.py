"""What `--runs` names: the base model, and folders of trained adapters or models.

base              the recipe's base_model
sft               the folder `sft`, here or beside the recipe, or what `sft.yaml` there trains
ual=out/ual       a folder under a name of its own
ual=out/seed-1,ual=out/seed-2      two seeds of one arm
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from axolotl_ual.errors import ConfigError
from axolotl_ual.evaluation.comparison import Arm
from axolotl_ual.evaluation.resampling import Sums

from ..data.recipe import Recipe, read_yaml
from ..sampling.local import identity

BASE: Final = "base"
Kind = Literal["base", "adapter", "model"]
_ADAPTER: Final = "adapter_config.json"
_MODEL: Final = "config.json"
_RECIPES: Final = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Run:
    """One trained model, or the base model.

    Attributes:
        arm: what its results are called; runs of one arm differ in their seed.
        seed: tells it from the other runs of its arm.
        path: folder or Hub name.
        kind: the base model, an adapter on it, or a model of its own.
        digest: of its weights; equal for equal weights.
    """

    arm: str
    seed: str
    path: str
    kind: Kind
    digest: str

    @property
    def label(self) -> str:
        """For messages."""
        return self.arm if self.kind == BASE else f"{self.arm} ({self.path})"

    def model(self, base: str) -> str:
        """The model to load, without an adapter."""
        return self.path if self.kind == "model" else base

    @property
    def adapter(self) -> str | None:
        """The adapter to load on the base model."""
        return self.path if self.kind == "adapter" else None


def find_runs(specs: Sequence[str], recipe: Recipe) -> list[Run]:
    """The runs that the command line names.

    Args:
        specs: NAME, NAME=PATH or PATH, each perhaps several with commas between.
        recipe: names the base model.

    Raises:
        ConfigError: nothing is named, a folder holds no model, or the base model is unknown.
    """
    parts = [part.strip() for spec in specs for part in spec.split(",") if part.strip()]
    if not parts:
        raise ConfigError(
            "--runs: no run is named", "name some, for example `--runs base,sft=out/sft`"
        )
    runs: list[Run] = []
    for part in parts:
        name, found, path = part.partition("=")
        runs.append(_find(name.strip(), path.strip() if found else None, recipe, runs))
    return runs


def make_arms(runs: Sequence[Run], sums: Sequence[Sums]) -> list[Arm]:
    """Runs of one name together, in the order of the names.

    Args:
        runs: in order.
        sums: of each run, over the same rows.
    """
    found: dict[str, list[int]] = {}
    for index, run in enumerate(runs):
        found.setdefault(run.arm, []).append(index)
    return [
        Arm(
            name,
            tuple(runs[index].seed for index in members),
            tuple(sums[index] for index in members),
            runs[members[0]].kind != BASE,
        )
        for name, members in found.items()
    ]


def _find(name: str, path: str | None, recipe: Recipe, before: Sequence[Run]) -> Run:
    if not recipe.base_model:
        raise ConfigError(
            f"{recipe.path}: base_model: this key is needed to evaluate",
            "name the model that the runs were trained from",
        )
    if name == BASE and path is None:
        return Run(BASE, "", recipe.base_model, "base", identity(recipe.base_model))
    folder = _folder(name, path, recipe)
    arm = name if path is not None or "/" not in name else Path(name).name
    kind: Kind = "adapter" if (folder / _ADAPTER).is_file() else "model"
    seed = str(1 + sum(run.arm == arm for run in before))
    return Run(arm, seed, str(folder), kind, identity(str(folder)))


def _folder(name: str, path: str | None, recipe: Recipe) -> Path:
    """The folder of a run, which holds an adapter or a model."""
    given = Path(path or name).expanduser()
    candidates = [given] if path is not None else [given, recipe.path.parent / given]
    if path is None:
        candidates += [recipe.path.parent / f"{name}{suffix}" for suffix in _RECIPES]
    for candidate in candidates:
        if candidate.suffix in _RECIPES and candidate.is_file():
            return _trained(_output_of(candidate), name)
        if candidate.is_dir():
            return _trained(candidate, name)
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise ConfigError(
        f"--runs: {name}: there is no such run (looked for {looked})",
        f"name its folder, `{name}=path/to/output_dir`, or `base` for the base model",
    )


def _output_of(recipe: Path) -> Path:
    output = read_yaml(recipe).get("output_dir")
    if not isinstance(output, str):
        raise ConfigError(
            f"--runs: {recipe}: names no output_dir", "name the folder of the trained model"
        )
    return Path(output)


def _trained(folder: Path, name: str) -> Path:
    if (folder / _ADAPTER).is_file() or (folder / _MODEL).is_file():
        return folder
    inside = sorted(path.name for path in folder.glob("checkpoint-*")) if folder.is_dir() else []
    fix = (
        f"the training has not ended; `{name}={folder / inside[-1]}` names its last checkpoint"
        if inside
        else "name the output_dir of a finished `axolotl train`"
    )
    raise ConfigError(f"--runs: {name}: {folder} holds neither {_ADAPTER} nor {_MODEL}", fix)
