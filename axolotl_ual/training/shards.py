"""What a process holds of a parameter: all of it, or its shard under ZeRO-3 and FSDP2.

An engine that shards gathers whole parameters for as long as a module runs, from the shards that
the processes hold. So what a shard contains is what the next forward pass runs with, once nothing
that was gathered before is left.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from torch import Tensor, nn

_OF_ZERO: Final = "ds_tensor"
"""Where DeepSpeed keeps the shard of a parameter."""


def is_sharded(parameter: Any) -> bool:
    """Whether this process holds a part of the parameter only."""
    return hasattr(parameter, _OF_ZERO) or hasattr(parameter, "to_local")


def shard(parameter: Any) -> Tensor:
    """What this process holds, without autograd: writing to it writes to the parameter.

    Returns:
        The whole tensor, or the shard: flat and padded under ZeRO-3, and of a part of the rows
        under FSDP2.
    """
    if hasattr(parameter, _OF_ZERO):
        own: Tensor = parameter.ds_tensor.data
        return own
    if hasattr(parameter, "to_local"):
        local: Tensor = parameter.detach().to_local()
        return local.data
    whole: Tensor = parameter.data
    return whole


def drop_gathered(model: nn.Module, parameters: Iterable[Any]) -> None:
    """Free what engines have gathered, so that the next use of a parameter gathers it anew.

    Args:
        model: in which an engine shards.
        parameters: those whose shards change.
    """
    gathered = [part for part in parameters if _is_gathered_by_zero(part)]
    if gathered:
        gathered[0].partition(gathered)
    for module in model.modules():
        reshard = getattr(module, "reshard", None)
        if callable(reshard) and hasattr(module, "unshard"):
            reshard()


def _is_gathered_by_zero(parameter: Any) -> bool:
    if not hasattr(parameter, _OF_ZERO):
        return False
    from deepspeed.runtime.zero.partition_parameters import ZeroParamStatus

    return bool(parameter.ds_status == ZeroParamStatus.AVAILABLE)
