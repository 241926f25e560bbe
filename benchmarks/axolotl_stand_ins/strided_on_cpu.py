"""Lets Axolotl train strided EBFT on a machine without a GPU, in its recipes' benchmark alone."""

from __future__ import annotations

from typing import Any

import torch
from axolotl.integrations.base import BasePlugin


class _OnCPU:
    """PyTorch, where every device is the CPU."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def device(self, *_: Any) -> torch.device:
        """The CPU, whichever device is named."""
        return torch.device("cpu")


class StridedOnCPU(BasePlugin):
    """Axolotl puts its frozen copy of the model on `cuda:0`, whatever the machine has."""

    def register(self, cfg: Any) -> None:
        """Give the module of that trainer a PyTorch whose every device is the CPU."""
        if cfg.get("rl") != "ebft":
            return
        from axolotl.core.trainers.ebft import strided

        strided.torch = _OnCPU()
        strided._FLEX_ATTENTION_AVAILABLE = False
