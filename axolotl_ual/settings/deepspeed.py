"""The DeepSpeed config that a recipe names or holds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def deepspeed_config(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    """The config as a mapping; empty where there is none, or none that can be read here."""
    config = recipe.get("deepspeed")
    if isinstance(config, str) and Path(config).is_file():
        try:
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        except ValueError:
            return {}
    return config if isinstance(config, Mapping) else {}
