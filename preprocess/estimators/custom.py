"""An estimator of the user's own, by the name of a function that makes it.

The function is called with the `options` of the recipe, its `base_model` and the session of the
command (the cache, the budget, and askers for servers), by keyword, and returns an `Estimator`.
"""

from __future__ import annotations

from typing import Final

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session
from ..named import check_parts, find_function
from .base import Estimator

SECTION: Final = "ual.annotate.custom"
_PARTS: Final = ("check", "plan", "scorer", "finish")


def build(annotate: AnnotateConfig, base_model: str | None, session: Session) -> Estimator:
    """Make the estimator that a recipe names.

    Raises:
        ConfigError: the section is missing, there is no such function, or what it returns is no
            estimator.
    """
    if annotate.custom is None:
        raise ConfigError(f"{SECTION}: `estimator: custom` needs this section")
    name, key = annotate.custom.build, f"{SECTION}.build"
    made: Estimator = find_function(name, key)(
        options=annotate.custom.options, base_model=base_model, session=session
    )
    check_parts(made, _PARTS, name, key, "axolotl_ual.preprocess.estimators.base.Estimator")
    return made
