"""What goes into a causal language model's forward, and what comes out of it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def makes_logits(model: nn.Module) -> bool:
    """Whether the forward is transformers' own: fused losses put theirs in its place."""
    return str(type(model).forward.__module__).startswith("transformers.")


def last_position(tap: Any) -> Any:
    """An answer of a tap: its layer applied to the last position alone."""

    def answer(hidden_BTH: Tensor) -> Tensor:
        with torch.no_grad():
            result: Tensor = tap.plain(hidden_BTH[:, -1:])
        return result

    return answer


def with_loss(outputs: Any, loss: Tensor) -> Any:
    """The outputs with this loss in the place of theirs."""
    if isinstance(outputs, tuple):
        return (loss, *outputs[1:])
    outputs["loss"] = loss
    return outputs


def never_all_masked(labels_BT: Tensor, num_tokens: Tensor) -> Tensor:
    """The labels, with one token unmasked where none is: a mean over no token is not a number.

    The loss of such a micro-batch is multiplied by its token count, 0, so the token counts for
    nothing; but the loss stays connected to every parameter, as engines that wait for each
    gradient need.
    """
    if labels_BT.shape[-1] < 2:
        return labels_BT
    position = torch.zeros_like(labels_BT, dtype=torch.bool)
    position[..., 0, 1] = True
    return torch.where(position & (num_tokens == 0), 0, labels_BT)
