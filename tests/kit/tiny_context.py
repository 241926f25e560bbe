"""An Axolotl plugin that lets it train with context parallelism where there is no accelerator.

Axolotl 0.21 runs as it is: Ulysses exchanges heads over gloo, and attention is PyTorch's own. Ring
attention and the flash attention that Axolotl 0.19 cuts sequences with need a GPU. There, keys and
values of all parts are gathered by each process in their place, and each position attends to
exactly those of its own sample up to itself; all else is Axolotl's.
"""

from __future__ import annotations

import importlib.machinery
import sys
from types import ModuleType
from typing import Any

from axolotl.integrations.base import BasePlugin

GATHERED = "gathered_on_cpu"


class ContextOnCPU(BasePlugin):
    """Stands in for `ring_flash_attn`, which cannot be imported without a GPU."""

    def register(self, cfg: Any) -> None:
        from accelerate.parallelism_config import ParallelismConfig

        build = ParallelismConfig.build_device_mesh
        ParallelismConfig.build_device_mesh = lambda self, _: build(self, "cpu")
        if cfg.get("attn_implementation") == "flash_attention_2":
            for name in ("", ".adapters", ".adapters.hf_adapter"):
                module = ModuleType(f"ring_flash_attn{name}")
                module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
                sys.modules[module.__name__] = module
            package: Any = sys.modules["ring_flash_attn"]
            package.adapters = sys.modules["ring_flash_attn.adapters"]
            package.adapters.hf_adapter = sys.modules["ring_flash_attn.adapters.hf_adapter"]
            package.ring_flash_attn_func = _gathered
            adapter: Any = package.adapters.hf_adapter
            adapter.create_ring_flash_attention_forward = None
            adapter.substitute_hf_flash_attn = lambda **_: None
            adapter.check_params = lambda *_: True
            adapter.flash_attention_forward = _gathered

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        if cfg.attn_implementation == "flash_attention_2":
            from transformers import AttentionInterface

            AttentionInterface.register(GATHERED, _gathered)
            cfg.attn_implementation = GATHERED


def _gathered(
    module: Any, query: Any, key: Any, value: Any, attention_mask: Any, **kwargs: Any
) -> Any:
    """Attention of one part's positions to those of all parts; shapes (B, heads, T, D)."""
    import torch
    from axolotl.monkeypatch.ring_attn import get_ring_attn_group
    from torch.distributed.nn.functional import all_gather

    group = get_ring_attn_group()
    rank, length = torch.distributed.get_rank(group), query.shape[2]

    def whole(part: Any, dim: int) -> Any:
        return torch.cat(all_gather(part.contiguous(), group), dim)

    position = whole(kwargs["position_ids"].expand(len(query), -1), 1)
    sample = (position.diff(dim=1, prepend=position[:, :1] - 1) != 1).cumsum(1)
    order = torch.arange(position.shape[1])
    own = slice(rank * length, (rank + 1) * length)
    seen = (sample[:, own, None] == sample[:, None]) & (order[own, None] >= order)
    out = torch.nn.functional.scaled_dot_product_attention(
        query,
        whole(key, 2),
        whole(value, 2),
        seen[:, None],
        scale=kwargs["scaling"],
        enable_gqa=True,
    )
    return out.transpose(1, 2).contiguous(), None
