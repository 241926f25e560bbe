"""A function of the user's own, by the name that a recipe gives: `module:function`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from axolotl_ual.errors import ConfigError


def find_function(name: str, key: str) -> Any:
    """Import a function.

    Args:
        name: `module:function`.
        key: of the recipe, for the message.

    Raises:
        ConfigError: there is no such module or function.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{key}: cannot find {name} ({error})",
            "install the module, or name its folder in the environment variable PYTHONPATH",
        ) from None


def check_parts(made: object, methods: Sequence[str], name: str, key: str, kind: str) -> None:
    """Refuse what has not all methods of a protocol.

    Args:
        made: what the function returned.
        methods: that it must have.
        name: of the function.
        key: of the recipe, for the message.
        kind: module and name of the protocol.

    Raises:
        ConfigError: a method is missing.
    """
    missing = [part for part in methods if not callable(getattr(made, part, None))]
    if missing:
        raise ConfigError(
            f"{key}: {name} returned {type(made).__name__}, which has no "
            f"{', '.join(f'{part}()' for part in missing)}",
            f"return an object with the methods of {kind}",
        )
