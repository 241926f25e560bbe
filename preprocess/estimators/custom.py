"""An estimator of the user's own, by the name of a function that makes it.

The function is called with the `options` of the recipe, its `base_model` and the session of the
command (the cache, the budget, and askers for servers), by keyword, and returns an `Estimator`.
"""

from __future__ import annotations

import importlib
from typing import Any, Final

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session
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
    name = annotate.custom.build
    made: Estimator = _find(name)(
        options=annotate.custom.options, base_model=base_model, session=session
    )
    missing = [part for part in _PARTS if not callable(getattr(made, part, None))]
    if missing:
        raise ConfigError(
            f"{SECTION}.build: {name} returned {type(made).__name__}, which has no "
            f"{', '.join(f'{part}()' for part in missing)}",
            "return an object with the methods of axolotl_ual.preprocess.estimators.base.Estimator",
        )
    return made


def _find(name: str) -> Any:
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{SECTION}.build: cannot find {name} ({error})",
            "install the module, or name its folder in the environment variable PYTHONPATH",
        ) from None
    return found
