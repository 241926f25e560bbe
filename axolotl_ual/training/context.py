"""Rows that several processes share, each with a part of their tokens: context parallelism.

Axolotl cuts what a model's forward is given along its tokens, one part a process, and ring
attention or Ulysses exchange what attention needs of the other parts. Label, smoothing, weight and
reference of a token belong to the position before it, and at the end of a part that is another
process's. So they are moved to that position before the cut, over the whole rows. The loss of a
part is a sum over its tokens, divided by the tokens of all processes: parts add up to the rows.

With tensor parallelism processes share rows as well, and each has the loss of all their tokens:
what is added up over processes counts a share each, and the loss of a process counts in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from axolotl_ual.columns import IGNORE_INDEX
from axolotl_ual.losses.forward import SHIFTED, at_predictors


class Share(NamedTuple):
    """Which rows a process gets.

    Attributes:
        groups: of processes that get rows of their own, and the same within a group.
        group: that this process is in.
    """

    groups: int
    group: int


def context_size(accelerator: Any) -> int:
    """Processes that each have a part of the same rows; 1 without context parallelism."""
    config = getattr(accelerator, "parallelism_config", None)
    return 1 if config is None else int(config.cp_size)


def tensor_size(accelerator: Any) -> int:
    """Processes that compute the same on the same rows, each with a part of the weights.

    1 without tensor parallelism.
    """
    config = getattr(accelerator, "parallelism_config", None)
    return 1 if config is None else int(config.tp_size)


def share_of(accelerator: Any) -> Share:
    """The share of this process, as Accelerate gives batches out.

    Processes that get the same rows are next to each other in the mesh.
    """
    same = context_size(accelerator) * tensor_size(accelerator)
    return Share(accelerator.num_processes // same, accelerator.process_index // same)


def aligned(inputs: Mapping[str, Any], size: int) -> dict[str, Any]:
    """A batch whose parts can be trained on alone.

    What belongs to a token stands at the position that predicts it, see `at_predictors`. Rows are
    padded at their end to a multiple of twice the number of parts, which every layout of them
    divides: Axolotl would pad `shift_labels` with token 0.

    Args:
        inputs: of the forward.
        size: number of parts.
    """
    length, moved = inputs["labels"].shape[1], at_predictors(inputs)
    missing = -length % (2 * size)
    if not missing:
        return moved
    return {
        name: _padded(name, value, missing)
        if isinstance(value, Tensor) and value.dim() > 1 and value.shape[1] == length
        else value
        for name, value in moved.items()
    }


def _padded(name: str, value_BT: Tensor, missing: int) -> Tensor:
    fill = IGNORE_INDEX if name in ("labels", SHIFTED) else 0
    end = value_BT.new_full((value_BT.shape[0], missing, *value_BT.shape[2:]), fill)
    if name == "position_ids":
        # As if the last sample went on: a position of 0 would begin another.
        end = value_BT[:, -1:] + torch.arange(1, missing + 1, device=value_BT.device)
    return torch.cat([value_BT, end.to(value_BT.dtype)], dim=1)
