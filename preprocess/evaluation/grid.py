"""The points of an ablation: the recipe as it is, with other values, and built-in controls.

    --over ual.smoothing.mean=0,0.1,0.2 --over ual.annotate.estimator=judge,perplexity

makes the six recipes of all combinations. Values are YAML, so a list is one value: `[1, 2, 1]`.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Final

import yaml

from axolotl_ual.columns import FACTUAL, PREFIX, SEMANTIC, VALUE
from axolotl_ual.errors import ConfigError

from ..data.recipe import Recipe

AS_IT_IS: Final = "ual"
"""The recipe without a change."""
PLAIN: Final = "sft"
DATA_CONTROLS: Final = (PLAIN, "constant", "shuffled", "decreasing", "length")
"""Controls that train on the same rows with other columns of ours."""
DIMENSIONS: Final = tuple(name.removeprefix(PREFIX) for name in (SEMANTIC, FACTUAL, VALUE))
CONTROLS: Final = (*DATA_CONTROLS, *(f"no-{name}" for name in DIMENSIONS))


@dataclass(frozen=True, slots=True)
class Point:
    """One way of training.

    Attributes:
        name: of the arm and of its folder.
        changes: dotted keys of the recipe and their values.
        control: the control that changes the data, or None.
    """

    name: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    control: str | None = None

    def recipe(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe with the changes.

        Raises:
            ConfigError: a key goes through a value that is no section.
        """
        changed = deepcopy(dict(raw))
        for key, value in self.changes.items():
            _put(changed, key, value)
        if self.control == PLAIN:
            changed.get("ual", {}).pop("curriculum", None)
        return changed


def _put(recipe: dict[str, Any], key: str, value: Any) -> None:
    section = recipe
    *parents, last = key.split(".")
    for depth, name in enumerate(parents):
        inner = section.get(name)
        if inner is None:
            inner = section[name] = {}
        if not isinstance(inner, dict):
            where = ".".join(parents[: depth + 1])
            raise ConfigError(f"--over {key}: `{where}` is {inner!r}, and no section")
        section = inner
    section[last] = deepcopy(value)


def make_points(over: Sequence[str], controls: Sequence[str], recipe: Recipe) -> list[Point]:
    """The grid, the recipe as it is where it is compared with controls, and the controls.

    Args:
        over: KEY=VALUE,VALUE, each.
        controls: names, each perhaps several with commas between.
        recipe: that is ablated.

    Raises:
        ConfigError: a key or a value cannot be read, or there is no such control.
    """
    names = [name.strip() for spec in controls for name in spec.split(",") if name.strip()]
    axes = [_axis(spec) for spec in over]
    points = [
        Point(_name(changes), dict(changes)) for changes in itertools.product(*axes) if changes
    ]
    if names or not points:
        points.append(Point(AS_IT_IS))
    points += [_control(name, recipe) for name in dict.fromkeys(names)]
    doubled = [p.name for n, p in enumerate(points) if p.name in {q.name for q in points[:n]}]
    if doubled:
        raise ConfigError(f"--over: {doubled[0]} is there twice", "name each value once")
    return points


def _axis(spec: str) -> list[tuple[str, Any]]:
    key, found, text = spec.partition("=")
    try:
        values = yaml.safe_load(f"[{text}]")
    except yaml.YAMLError:
        values = None
    if not key.strip() or not found or not values:
        raise ConfigError(
            f"--over {spec}: is no key with values",
            "write for example `--over ual.smoothing.mean=0,0.1,0.2`",
        )
    return [(key.strip(), value) for value in values]


def _name(changes: Sequence[tuple[str, Any]]) -> str:
    """The last parts of the keys with their values."""
    return ", ".join(f"{key.rsplit('.', 1)[-1]}={_shown(value)}" for key, value in changes)


def _shown(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).strip()
    return text.removesuffix("...").strip()


def _control(name: str, recipe: Recipe) -> Point:
    if name in DATA_CONTROLS:
        return Point(name, control=name)
    if name not in CONTROLS:
        nearest = difflib.get_close_matches(name, CONTROLS, n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"known: {', '.join(CONTROLS)}"
        raise ConfigError(f"--control {name}: there is no such control", hint)
    dimension = name.removeprefix("no-")
    if recipe.ual.pairs is None or not recipe.raw.get("rl"):
        raise ConfigError(
            f"--control {name}: the recipe makes no preference pairs, so it has no dimensions",
            "take this control out, or ablate a recipe with `rl: dpo` and `ual.pairs:`",
        )
    return Point(name, {f"ual.pairs.{dimension}.method": "none"})


def folder_name(point: Point) -> str:
    """The name of the point as one of a folder."""
    return "".join(c if c.isalnum() or c in "-_.=" else "_" for c in point.name.replace(", ", "+"))
