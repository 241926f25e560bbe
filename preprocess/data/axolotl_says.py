"""Asks Axolotl itself about recipes: `python -m axolotl_ual.preprocess.data.axolotl_says FILE ...`.

Axolotl loads its plugins and validates the YAML here as it does for `axolotl train`, in a process
of its own for each recipe, because both change global state. For each a line is printed that is a
JSON object with the keys `recipe` and `problems`, a list of strings; it is empty when Axolotl
accepts the recipe.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any


def problems(recipe: Path) -> list[str]:
    """Load the recipe's plugins and validate it, without touching data, model or GPU."""
    import yaml
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault
    from pydantic import ValidationError

    from axolotl_ual.errors import UALError

    cfg = DictDefault(yaml.safe_load(recipe.read_text(encoding="utf-8")))
    cfg.axolotl_config_path = str(recipe)
    found = _take_out_what_fails(cfg)
    try:
        prepare_plugins(cfg)
        found += _rivals(cfg)
    except UALError as error:
        found.append(str(error))
    try:
        validate_config(cfg)
    except ValidationError as error:
        found += [
            f"{'.'.join(str(part) for part in item['loc']) or 'recipe'}: {item['msg']}"
            for item in error.errors()
        ]
    except (AttributeError, ImportError, TypeError, ValueError) as error:
        found.append(f"{type(error).__name__}: {error}")
    return found


def _rivals(cfg: Any) -> list[str]:
    """What the plugin refuses once all the others are loaded, as it does when data are."""
    from axolotl.integrations.base import PluginManager

    from axolotl_ual.host import asks_for_plugin
    from axolotl_ual.settings.left_alone import left_alone
    from axolotl_ual.settings.rivals import rivals

    if not asks_for_plugin(cfg) or left_alone(cfg) is not None:
        return []
    return [str(error) for error in rivals(cfg, PluginManager.get_instance().plugins)]


def _take_out_what_fails(cfg: Any) -> list[str]:
    """Leave the recipe the plugins that load: some Axolotls stop at the first that does not."""
    from axolotl.integrations.base import load_plugin

    if not cfg.plugins:
        return []
    found, loaded = [], []
    for name in cfg.plugins:
        try:
            load_plugin(name)
            loaded.append(name)
        except Exception as error:  # a plugin may be the user's own, and raise anything
            found.append(f"plugins: {name} cannot be loaded: {type(error).__name__}: {error}")
    cfg.plugins = loaded
    return found


def _tell(recipe: str) -> None:
    """Print what is wrong with one recipe, and end the process."""
    try:
        found = problems(Path(recipe))
        print(json.dumps({"recipe": recipe, "problems": found}), flush=True)
    except BaseException:  # a plugin may raise anything, and the parent must not go on twice
        traceback.print_exc()
    sys.stderr.flush()
    os._exit(0)


def main() -> None:
    """Print the problems of the recipes that the command line names."""
    warnings.simplefilter("ignore")
    for module in ("cli.config", "utils.config"):
        importlib.import_module(f"axolotl.{module}")
    for recipe in sys.argv[1:]:
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _tell(recipe)
        os.waitpid(child, 0)


if __name__ == "__main__":
    main()
