"""What goes into a causal language model's forward, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_ual.columns import REFERENCE_IDS, REFERENCE_LOGPROBS, WEIGHT

from .encoding import IGNORE_INDEX, decode_smoothing
from .smoothed_ce import shift_left
from .top_k import TopK


@dataclass(slots=True)
class Batch:
    """A micro-batch; what belongs to a token stands at the position that predicts it.

    Attributes:
        labels_BT: as they were given, not shifted.
        labels_N: int64; -100 where nothing is trained.
        smoothing_N: float32.
        top_k: the prior of each token, where it was computed before.
        weight_N: float32, of the data; None is 1 each. A token of weight 0 has the label -100.
        reference_NH: what the reference's head is applied to, where it runs beside.
    """

    labels_BT: Tensor
    labels_N: Tensor
    smoothing_N: Tensor
    top_k: TopK | None
    weight_N: Tensor | None = None
    reference_NH: Tensor | None = None

    @classmethod
    def take(cls, smoothing_BT: Tensor, kwargs: dict[str, Any], num_rows: int) -> Batch:
        """Take labels, weights and the prior out of the arguments of a forward.

        Args:
            smoothing_BT: bits of the smoothing of each token.
            kwargs: of the forward.
            num_rows: tokens that a mass can be spread over.
        """
        labels_BT = kwargs.pop("labels")
        ids_BTK, bits_BTK = kwargs.pop(REFERENCE_IDS, None), kwargs.pop(REFERENCE_LOGPROBS, None)
        top_k = None
        if ids_BTK is not None and bits_BTK is not None:
            ids, bits = (part.roll(-1, dims=1).flatten(0, 1) for part in (ids_BTK, bits_BTK))
            top_k = TopK(ids.long(), decode_smoothing(bits).exp(), num_rows)
        labels_N = shift_left(labels_BT, IGNORE_INDEX).reshape(-1)
        weight_BT, weight_N = kwargs.pop(WEIGHT, None), None
        if weight_BT is not None:
            weight_N = decode_smoothing(shift_left(weight_BT, 0).reshape(-1))
            labels_N = torch.where(weight_N > 0, labels_N, IGNORE_INDEX)
        return cls(
            labels_BT,
            labels_N,
            decode_smoothing(shift_left(smoothing_BT, 0).reshape(-1)),
            top_k,
            weight_N,
        )

    @property
    def has_prior(self) -> bool:
        """Whether the smoothed mass goes elsewhere than to all tokens alike."""
        return self.reference_NH is not None or self.top_k is not None


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
