"""Uncertainty-aware fine-tuning for Axolotl.

`axolotl_ual.UALPlugin` is what a recipe names under `plugins:`, and `axolotl_ual.pairs` the `type:`
of preference pairs. They are imported on first use, so that importing this package loads no torch.
"""

from __future__ import annotations

from typing import Any

__version__ = "0.2.0"

__all__ = ["UALPlugin", "__version__", "pairs"]


def __getattr__(name: str) -> Any:
    if name == "UALPlugin":
        from axolotl_ual.plugin import UALPlugin

        return UALPlugin
    if name == "pairs":
        from axolotl_ual.data.answers import pairs

        return pairs
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
