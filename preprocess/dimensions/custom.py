"""A dimension of the user's own, by the name of a function that makes it.

The function is called with the `name` and the `options` of the recipe, its `ual.pairs` and the
session of the command (the cache, the budget, and askers for servers), by keyword, and returns a
`Dimension` of that name.
"""

from __future__ import annotations

from typing import Final

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.pairs import PairsConfig

from ..calls.ask import Session
from ..named import check_parts, find_function
from .base import Dimension

SECTION: Final = "ual.pairs.custom"
_PARTS: Final = ("check", "plan", "score")


def build(name: str, pairs: PairsConfig, session: Session) -> Dimension:
    """Make the dimension that a recipe names.

    Raises:
        ConfigError: there is no such function, or what it returns is no dimension of that name.
    """
    config, key = pairs.custom[name], f"{SECTION}.{name}.build"
    made: Dimension = find_function(config.build, key)(
        name=name, options=config.options, pairs=pairs, session=session
    )
    kind = "axolotl_ual.preprocess.dimensions.base.Dimension"
    check_parts(made, _PARTS, config.build, key, kind)
    called = getattr(made, "name", None)
    if called != name or not isinstance(getattr(made, "compares_evidence", None), bool):
        raise ConfigError(
            f"{key}: what {config.build} returned is called {called!r} and not {name!r}, or does "
            "not say whether it compares_evidence",
            f"give it the attributes `name` and `compares_evidence`, as {kind} says",
        )
    return made
