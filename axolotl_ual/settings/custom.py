"""A function of the user's own that takes the place of one of ours."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from axolotl_ual.settings.server import Section


class CustomConfig(Section):
    """An estimator or a dimension of the user's own, from a Python module."""

    build: str = Field(
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="`module:function`; called with `options` and the session of the command, and "
        "with the recipe's base_model (returns an Estimator) or its name and `ual.pairs` (returns "
        "a Dimension).",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Handed to the function; part of what is annotated."
    )
