"""The Axolotl that this installation trains with, and what it does by itself.

Everything that differs from one Axolotl to the next is read here, once. Other modules ask for what
the host does, never for its version. Imports neither torch nor axolotl.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any, Final

OLDEST: Final = (0, 19)
NEWEST: Final = (0, 21)
"""The first and the last minor version that the tests run on."""

PLUGIN: Final = "axolotl_ual.UALPlugin"
"""What a recipe lists under `plugins:`."""

_SETTINGS = {"balance_labels": (0, 21), "eval_on_start": (0, 21), "full_determinism": (0, 21)}
"""The first minor version that has a setting; older ones drop it without a word."""

_NAMES = (PLUGIN, "axolotl_ual.plugin.UALPlugin")
_PLUGINS = "axolotl.plugins"


@dataclass(frozen=True, slots=True)
class Host:
    """What an Axolotl does by itself.

    Attributes:
        version: as the installed package says; None where there is no Axolotl, and then the rest is
            what the newest tested one does.
        averages_tokens: under gradient accumulation its own loss is one mean over the tokens of a
            step; before, it is a mean of the means of micro-batches.
        fsdp_generation: of FSDP where a recipe names none.
        lacks: settings that newer ones have, and that it drops without a word.
        loads_installed_plugins: a plugin that is installed runs without a line in the recipe.
        seeds_model: it seeds before it makes the model and the adapter.
        cuts_layers: it trains every parameter of a model whose layers are cut over processes, and
            sends tokens to experts on other processes without a kernel for GPUs alone.
    """

    version: str | None
    averages_tokens: bool
    fsdp_generation: int
    lacks: frozenset[str]
    loads_installed_plugins: bool
    seeds_model: bool
    cuts_layers: bool

    @property
    def untested(self) -> str | None:
        """What to warn of where Axolotl is newer than what the tests run on, or None."""
        if self.version is None or _minor(self.version) <= NEWEST:
            return None
        newest = ".".join(map(str, NEWEST))
        return (
            f"Axolotl {self.version} is newer than {newest}, the newest that axolotl-ual is tested "
            "with. Not tested there: how data are loaded, the order of samples, the loss under "
            "gradient accumulation, and settings that it has and older ones have not"
        )


def describe(installed: str | None) -> Host:
    """What the Axolotl of a version does.

    Args:
        installed: a version, or None where Axolotl is not installed.
    """
    minor = NEWEST if installed is None else _minor(installed)
    return Host(
        version=installed,
        averages_tokens=minor >= (0, 20),
        fsdp_generation=2 if minor >= (0, 20) else 1,
        lacks=frozenset(name for name, since in _SETTINGS.items() if minor < since),
        loads_installed_plugins=minor >= (0, 21),
        seeds_model=minor >= (0, 21),
        cuts_layers=minor >= (0, 20),
    )


@functools.cache
def host() -> Host:
    """The Axolotl of this environment."""
    try:
        return describe(version("axolotl"))
    except PackageNotFoundError:
        return describe(None)


def installed(package: str) -> str:
    """A package with its version, for messages."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (not installed)"


def names_plugin(recipe: Mapping[str, Any]) -> bool:
    """Whether `plugins:` of a recipe lists the plugin, with a dot or a colon before the class."""
    return any(str(name).replace(":", ".") in _NAMES for name in recipe.get("plugins") or [])


def asks_for_plugin(recipe: Mapping[str, Any]) -> bool:
    """Whether a recipe is to be trained with the plugin: it lists it, or has a `ual:` block.

    An installed plugin that Axolotl loads by itself must leave every other recipe alone.
    """
    return names_plugin(recipe) or "ual" in recipe


def runs_without_a_line() -> bool:
    """Whether Axolotl loads the plugin although `plugins:` does not list it."""
    return host().loads_installed_plugins and any(
        point.value.replace(":", ".") in _NAMES for point in entry_points(group=_PLUGINS)
    )


def _minor(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:2])
