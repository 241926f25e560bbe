"""What goes into a causal language model's forward, and what comes out of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn

from axolotl_ual.columns import IGNORE_INDEX, REFERENCE_IDS, REFERENCE_LOGPROBS, SMOOTHING, WEIGHT

from .encoding import decode_smoothing
from .smoothed_ce import shift_left
from .top_k import TopK

SHIFTED: Final = "shift_labels"
"""Labels at the positions that predict them, as transformers calls them: with them in a forward's
arguments, all that belongs to a token stands there."""

_OF_TOKENS = (WEIGHT, REFERENCE_IDS, REFERENCE_LOGPROBS)


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
        given = {SMOOTHING: smoothing_BT}
        for name in ("labels", SHIFTED, *_OF_TOKENS):
            if name in kwargs:
                given[name] = kwargs.pop(name)
        if SHIFTED not in given:
            given = at_predictors(given)
        labels_N, weight_N = given[SHIFTED].reshape(-1), None
        if WEIGHT in given:
            weight_N = decode_smoothing(given[WEIGHT].reshape(-1))
            labels_N = torch.where(weight_N > 0, labels_N, IGNORE_INDEX)
        top_k = None
        if REFERENCE_IDS in given and REFERENCE_LOGPROBS in given:
            ids, bits = (given[key].flatten(0, 1) for key in (REFERENCE_IDS, REFERENCE_LOGPROBS))
            top_k = TopK(ids.long(), decode_smoothing(bits).exp(), num_rows)
        smoothing_N = decode_smoothing(given[SMOOTHING].reshape(-1))
        return cls(given["labels"], labels_N, smoothing_N, top_k, weight_N)

    @property
    def has_prior(self) -> bool:
        """Whether the smoothed mass goes elsewhere than to all tokens alike."""
        return self.reference_NH is not None or self.top_k is not None


def at_predictors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Inputs of a forward, with what belongs to a token moved to the position that predicts it.

    The labels are there as `shift_labels`, and as they were.
    """
    moved = {**inputs, SHIFTED: shift_left(inputs["labels"], IGNORE_INDEX)}
    for name in (SMOOTHING, *_OF_TOKENS):
        if name in inputs:
            # What goes round to the last position has a label that is not trained.
            moved[name] = inputs[name].roll(-1, dims=1)
    return moved


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
