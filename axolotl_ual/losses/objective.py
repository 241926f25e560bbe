"""The smoothed loss inside a causal language model's own forward.

The model computes its cross entropy with whichever kernel it has; the margin of `smoothed_ce` is
added to it before the loss leaves the forward. Inside the forward the head's weight is whole,
however the training engine shards it outside, and the loss that comes out is one scalar, as every
engine expects.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_ual.columns import SMOOTHING
from axolotl_ual.errors import UnsupportedError

from .smoothed_ce import (
    IGNORE_INDEX,
    MeanRow,
    decode_smoothing,
    margin_sum,
    mean_row,
    shift_left,
)


@dataclass(frozen=True, slots=True)
class Weights:
    """How the two sums of a micro-batch enter its loss.

    loss = nll * (mean nll of the micro-batch) + margin * (margin sum of the micro-batch)

    Attributes:
        nll: scalar tensor.
        margin: scalar tensor.
        num_tokens: trained tokens of the micro-batch, a scalar tensor.
    """

    nll: Tensor
    margin: Tensor
    num_tokens: Tensor


class SmoothedObjective:
    """Binds the smoothed loss to one causal language model.

    Args:
        model: the innermost causal language model: no adapter, no engine around it.
        num_rows: rows of the head that stand for tokens; None is all of them.
    """

    def __init__(self, model: nn.Module, num_rows: int | None = None) -> None:
        self.model = model
        self.head = _linear_head(model)
        self.num_rows = num_rows
        self.weights: Weights | None = None
        self.parts: tuple[Tensor, Tensor, Tensor] | None = None
        self._hidden: Tensor | None = None
        self._job: tuple[Tensor, Tensor] | None = None
        self._mean: tuple[Any, MeanRow] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While the block runs, the model's forward takes `ual_smoothing` and smooths its loss."""
        decoder = self.model.get_decoder()
        hook = decoder.register_forward_hook(self._keep_hidden)
        model_forward = _Replaced(self.model, self._forward)
        head_forward = _Replaced(self.head, self._head_forward)
        self._model_forward, self._plain_head = model_forward.original, head_forward.original
        try:
            yield
        finally:
            hook.remove()
            model_forward.undo()
            head_forward.undo()

    def _forward(self, *args: Any, ual_smoothing: Tensor | None = None, **kwargs: Any) -> Any:
        if ual_smoothing is None:
            return self._model_forward(*args, **kwargs)
        if self.weights is None:
            raise RuntimeError(f"`{SMOOTHING}` was given to a model whose loss has no weights")
        labels_BT = kwargs["labels"]
        kwargs["labels"] = _never_all_masked(labels_BT, self.weights.num_tokens)
        outputs = self._model_forward(*args, **kwargs)
        margin = self._margin(self._take_hidden(labels_BT), labels_BT, ual_smoothing)
        return self._with_loss(outputs, margin)

    def _keep_hidden(self, module: nn.Module, args: Any, output: Any) -> None:
        self._hidden = output[0]

    def _take_hidden(self, labels_BT: Tensor) -> Tensor:
        hidden_BTH, self._hidden = self._hidden, None
        if hidden_BTH is None or hidden_BTH.shape[:-1] != labels_BT.shape:
            raise UnsupportedError(
                f"{type(self.model).__name__}: its last hidden states do not line up with its "
                "labels, so their smoothing cannot be computed",
                "take the plugin out for this model",
            )
        return hidden_BTH

    def _margin(self, hidden_BTH: Tensor, labels_BT: Tensor, bits_BT: Tensor) -> Tensor:
        labels_N = shift_left(labels_BT, IGNORE_INDEX).reshape(-1)
        smoothing_N = decode_smoothing(shift_left(bits_BT, 0).reshape(-1))
        self._job = (labels_N, smoothing_N)
        # Called as a module, so that an engine that shards the head gathers it for the call.
        result: Tensor = self.head(hidden_BTH.reshape(-1, hidden_BTH.shape[-1]))
        return result

    def _head_forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._job is None:
            return self._plain_head(hidden, *args, **kwargs)
        (labels_N, smoothing_N), self._job = self._job, None
        return margin_sum(
            hidden,
            self.head.weight,
            labels_N,
            smoothing_N,
            bias_V=self.head.bias,
            mean=self._mean_row(),
        )

    def _mean_row(self) -> MeanRow:
        """The mean row, kept while the head is frozen."""
        weight, bias = self.head.weight, self.head.bias
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            return mean_row(weight, bias, self.num_rows)
        key = (weight._version, weight.device, weight.dtype)
        if self._mean is None or self._mean[0] != key:
            self._mean = (key, mean_row(weight, bias, self.num_rows))
        return self._mean[1]

    def _with_loss(self, outputs: Any, margin: Tensor) -> Any:
        weights = self.weights
        assert weights is not None
        first = outputs[0] if isinstance(outputs, tuple) else outputs["loss"]
        loss = first * weights.nll + margin * weights.margin
        nll_sum = first.detach() * weights.num_tokens
        self.parts = (nll_sum, margin.detach(), weights.num_tokens)
        if isinstance(outputs, tuple):
            return (loss, *outputs[1:])
        outputs["loss"] = loss
        return outputs


class _Replaced:
    """A method of one module instance, replaced until `undo`."""

    def __init__(self, module: nn.Module, replacement: Any) -> None:
        self.module = module
        self.original = module.forward
        self.was_own = module.__dict__.get("forward")
        self.replacement = functools.wraps(self.original)(
            lambda *args, **kwargs: replacement(*args, **kwargs)
        )
        module.forward = self.replacement

    def undo(self) -> None:
        """Put the old method back; where somebody wrapped ours it stays, and changes nothing."""
        if self.module.__dict__.get("forward") is not self.replacement:
            return
        if self.was_own is None:
            del self.module.__dict__["forward"]
        else:
            self.module.forward = self.was_own


def _linear_head(model: nn.Module) -> nn.Linear:
    head = model.get_output_embeddings()
    config = model.config
    if type(head) is not nn.Linear:
        raise UnsupportedError(
            f"{type(model).__name__}: its head is a {type(head).__name__}, not a linear layer",
            "leave the head (`lm_head`) out of the adapter",
        )
    for key in ("final_logit_softcapping", "logit_scale", "logits_scaling"):
        value = getattr(config, key, None)
        if value not in (None, 1, 1.0):
            raise UnsupportedError(
                f"{type(model).__name__}: `{key}: {value}` changes the logits after the head",
                "take the plugin out for this model",
            )
    return head


def _never_all_masked(labels_BT: Tensor, num_tokens: Tensor) -> Tensor:
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
