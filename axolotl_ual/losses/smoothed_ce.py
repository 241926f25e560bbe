"""Per-token label smoothing as a margin on top of any cross entropy.

PyTorch's definition, for a token with label y, logits x over V classes and smoothing eps:

    L = -sum_v q_v log p_v,   q = (1 - eps) onehot(y) + eps / V
      = nll + eps * (x_y - mean_v x_v)

With a linear head x = s (W h + b) the second term needs no logits:

    eps * s * ( h . (w_y - w_mean) + b_y - b_mean ),   w_mean = mean_v w_v

so it costs O(N H) beside the O(N H V) of the cross entropy, whichever kernel computes that one.
Rival definition: transformers' LabelSmoother and fairseq spread eps over V classes as well, but
take one scalar for all tokens; the two agree with the formula above for constant eps.

Shape legend: N tokens, H hidden size, V vocabulary, B batch, T sequence length.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from axolotl_ual.columns import IGNORE_INDEX

_CHUNK_TOKENS = 1024


class MeanRow(NamedTuple):
    """Mean of the head's rows over the real vocabulary, in the dtype of accumulation.

    Attributes:
        weight_H: mean of the weight rows.
        bias: mean of the bias, a scalar; None without a bias.
        num_rows: rows that entered the mean: the first ones of the head.
    """

    weight_H: Tensor
    bias: Tensor | None
    num_rows: int


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, anything narrower is summed in float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def mean_row(weight_VH: Tensor, bias_V: Tensor | None, num_rows: int | None = None) -> MeanRow:
    """Mean of the first `num_rows` rows of a head (all of them by default).

    Rows beyond `num_rows` pad the vocabulary: they are classes that no token has, so a relaxed
    target gives them nothing.
    """
    rows = weight_VH.shape[0] if num_rows is None else min(num_rows, weight_VH.shape[0])
    dtype = accumulation_dtype(weight_VH.dtype)
    with torch.no_grad():
        weight = weight_VH[:rows].mean(dim=0, dtype=dtype)
        bias = None if bias_V is None else bias_V[:rows].mean(dtype=dtype)
    return MeanRow(weight, bias, rows)


def margin_sum(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    smoothing_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    mean: MeanRow | None = None,
    scale: float = 1.0,
) -> Tensor:
    """sum_i eps_i * scale * (h_i . (w_{y_i} - w_mean) + b_{y_i} - b_mean).

    Products and sums are taken in float32 (float64 for float64 input) whatever the dtypes of
    `hidden_NH` and `weight_VH`. Differentiable in hidden states, weight and bias; the gradient of
    the mean row is part of that of the weight. The gradient of the hidden states is computed in
    the forward pass, so that a head whose shards are released after it is not needed again.

    Args:
        hidden_NH: what the head is applied to.
        weight_VH: rows of the head.
        labels_N: int64; `IGNORE_INDEX` marks tokens that count for nothing.
        smoothing_N: float, in [0, 1].
        bias_V: bias of the head.
        mean: result of `mean_row`; computed here when None.
        scale: constant factor on the logits.

    Returns:
        A scalar in the dtype of accumulation.
    """
    if mean is None:
        mean = mean_row(weight_VH, bias_V)
    result: Tensor = _MarginSum.apply(
        hidden_NH, weight_VH, bias_V, labels_N, smoothing_N, mean, scale
    )
    return result


class _MarginSum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        smoothing_N: Tensor,
        mean: MeanRow,
        scale: float,
    ) -> Tensor:
        dtype = accumulation_dtype(hidden_NH.dtype)
        trained = labels_N != IGNORE_INDEX
        classes_N = torch.where(trained, labels_N, 0)
        weight_N = torch.where(trained, smoothing_N.to(dtype), 0.0) * scale
        total = torch.zeros((), dtype=dtype, device=hidden_NH.device)
        gradient_NH = torch.empty_like(hidden_NH) if ctx.needs_input_grad[0] else None
        for start in range(0, hidden_NH.shape[0], _CHUNK_TOKENS):
            part = slice(start, start + _CHUNK_TOKENS)
            direction_CH = weight_VH[classes_N[part]].to(dtype) - mean.weight_H
            margin_C = (hidden_NH[part].to(dtype) * direction_CH).sum(dim=-1)
            if bias_V is not None and mean.bias is not None:
                margin_C = margin_C + (bias_V[classes_N[part]].to(dtype) - mean.bias)
            total += (weight_N[part] * margin_C).sum()
            if gradient_NH is not None:
                gradient_NH[part] = weight_N[part, None] * direction_CH
        ctx.num_rows = mean.num_rows
        ctx.weight_like = None if not ctx.needs_input_grad[1] else _like(weight_VH)
        ctx.bias_like = None if bias_V is None or not ctx.needs_input_grad[2] else _like(bias_V)
        needs_head = ctx.weight_like is not None or ctx.bias_like is not None
        ctx.save_for_backward(
            gradient_NH, *((hidden_NH, classes_N, weight_N) if needs_head else (None, None, None))
        )
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradient_NH, hidden_NH, classes_N, weight_N = ctx.saved_tensors
        grad_weight = grad_bias = None
        if ctx.weight_like is not None:
            grad_weight = ctx.weight_like()
            _add_to_classes(grad_weight, hidden_NH, classes_N, grad * weight_N, ctx.num_rows)
        if ctx.bias_like is not None:
            grad_bias = ctx.bias_like()
            _add_to_classes(
                grad_bias[:, None],
                torch.ones_like(weight_N)[:, None],
                classes_N,
                grad * weight_N,
                ctx.num_rows,
            )
        if gradient_NH is not None:
            gradient_NH = gradient_NH * grad.to(gradient_NH.dtype)
        return gradient_NH, grad_weight, grad_bias, None, None, None, None


class _like:
    """Makes zeros like a tensor without holding on to it: its memory may be released by then."""

    def __init__(self, tensor: Tensor) -> None:
        self.shape, self.dtype, self.device = tensor.shape, tensor.dtype, tensor.device

    def __call__(self) -> Tensor:
        return torch.zeros(self.shape, dtype=self.dtype, device=self.device)


def _add_to_classes(
    out_VD: Tensor, input_ND: Tensor, classes_N: Tensor, factor_N: Tensor, num_rows: int
) -> None:
    """Gradient of sum_i factor_i * input_i . (w_{y_i} - w_mean) in w, written into zeros.

    Rows of one class are summed in the dtype of `factor_N` before they are rounded to that of
    the result. No shape depends on the data, so nothing waits for the device.
    """
    order_N = torch.argsort(classes_N)
    sorted_N = classes_N[order_N]
    starts_N = torch.ones_like(sorted_N)
    starts_N[1:] = (sorted_N[1:] != sorted_N[:-1]).to(starts_N.dtype)
    group_N = torch.cumsum(starts_N, dim=0) - 1
    sums_ND = torch.zeros(input_ND.shape, dtype=factor_N.dtype, device=factor_N.device)
    sums_ND.index_add_(0, group_N, input_ND[order_N].to(factor_N.dtype) * factor_N[order_N, None])
    # Groups that do not exist keep a sum of zero, and add it to class 0.
    class_of_group_N = torch.zeros_like(sorted_N).index_copy_(0, group_N, sorted_N)
    out_VD[:num_rows] -= (sums_ND.sum(dim=0) / num_rows).to(out_VD.dtype)
    out_VD.index_add_(0, class_of_group_N, sums_ND.to(out_VD.dtype))


def shift_left(labels_BT: Tensor, fill: int) -> Tensor:
    """Align what belongs to the next token with the position that predicts it.

    The last position predicts nothing and gets `fill`. Shape and dtype are kept, so the hidden
    states need no slicing, and thus no copy.
    """
    return torch.nn.functional.pad(labels_BT, (0, 1), value=fill)[..., 1:]
