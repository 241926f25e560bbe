"""Plugins of Axolotl that bring a trainer of their own.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from axolotl_ual.errors import UALError, UnsupportedError
from axolotl_ual.host import PLUGIN

_DIFFUSION: Final = (
    "axolotl.integrations.diffusion.DiffusionPlugin",
    "axolotl.integrations.diffusion.plugin.DiffusionPlugin",
)


def of_plugins(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    """An error for each that is known to have a loss which no smoothing of ours reaches.

    Args:
        recipe: the YAML as a mapping.
    """
    for name in recipe.get("plugins") or []:
        if str(name).replace(":", ".") in _DIFFUSION:
            yield UnsupportedError(
                f"plugins: `{name}` trains to fill masked tokens in, from both sides, by a trainer "
                "and a loss of its own, and a smoothing here is of the next token",
                f"take `{name}` or `{PLUGIN}` out of `plugins:`",
            )


def rivals(recipe: Mapping[str, Any], loaded: Mapping[str, Any]) -> Iterator[UALError]:
    """An error for each that has a trainer: the first one listed would win, silently.

    Args:
        recipe: the YAML as a mapping, as Axolotl hands it to its plugins.
        loaded: Axolotl's plugins by the name they were loaded under, ours among them.
    """
    for name, plugin in loaded.items():
        trainer = None if _is_ours(plugin) else plugin.get_trainer_cls(recipe)
        if trainer is not None:
            yield UnsupportedError(
                f"plugins: `{name}` and `{PLUGIN}` both bring a trainer "
                f"({trainer.__name__} and UALTrainer), and only one can train",
                f"take `{name}` or `{PLUGIN}` out of `plugins:`",
            )


def _is_ours(plugin: object) -> bool:
    return any(part.__module__ == "axolotl_ual.plugin" for part in type(plugin).__mro__)
