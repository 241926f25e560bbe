"""Cross entropy with per-token label smoothing, in chunks of tokens, from the head's weight.

For logits x = cap(s (W h + b)), where cap(z) = c tanh(z / c) or the identity:

    L_i = -x_{y_i} + log sum_v exp x_v  +  eps_i (x_{y_i} - mean_v x_v)
    dL_i / dx_v = p_v - 1[v = y_i]  +  eps_i (1[v = y_i] - 1[v < R] / R)

Only the logits of one chunk exist at a time. Gradients are taken in the forward pass, as fused
kernels do, so nothing is computed twice and a head whose shards are released is not needed again.
A soft cap makes the margin of `smoothed_ce` non-linear in h; here it is exact. Without a cap the
mean logit and its gradient come from the mean row, so no pass over the logits is spent on them.

Shape legend: N tokens, C tokens of a chunk, H hidden size, V vocabulary, R rows that are tokens.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .encoding import IGNORE_INDEX
from .smoothed_ce import MeanRow, accumulation_dtype, mean_row
from .transform import Transform

_CHUNK_TOKENS = 1024
_LEAST_LOGITS = 2**25
_MOST_LOGITS = 90_000_000
_LEAST_TOKENS = 64
_MULTIPLE = 4


class Sums(NamedTuple):
    """Sums over the trained tokens of a micro-batch; `total` alone carries gradients.

    Attributes:
        total: nll + margin, or the margin where no nll was asked for.
        nll: negative log-likelihood.
        margin: eps times (logit of the label minus mean logit).
    """

    total: Tensor
    nll: Tensor
    margin: Tensor


def chunk_tokens(vocab_size: int) -> int:
    """The most tokens of a chunk: 1,024, or 90 million logits (343 MiB in float32) if that is less.

    Small vocabularies have more tokens, up to 2^25 logits. Measured (benchmarks/loss.py, two
    cores): the weight is read and packed once a chunk, so that at 128,256 classes 261 tokens take
    1.2 times the time of 684, while 1,024 take 4 % less than 684 for half as much memory again.
    """
    tokens = min(_CHUNK_TOKENS, _MOST_LOGITS // vocab_size)
    tokens = max(_LEAST_TOKENS, _LEAST_LOGITS // vocab_size, tokens)
    return tokens if tokens < _MULTIPLE else tokens // _MULTIPLE * _MULTIPLE


def equal_chunks(tokens: int, most: int) -> int:
    """Tokens of each chunk where `tokens` are cut into as few as `most` allows.

    A multiple of 4, which products of matrices are faster with, unless `most` is below that.
    """
    number = max(1, math.ceil(tokens / most))
    size = max(1, math.ceil(tokens / number))
    return min(most, math.ceil(size / _MULTIPLE) * _MULTIPLE)


def chunked_smoothed_ce(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    smoothing_N: Tensor,
    *,
    bias_V: Tensor | None = None,
    transform: Transform | None = None,
    mean: MeanRow | None = None,
    with_nll: bool = True,
    tokens: int | None = None,
) -> Sums:
    """Sum over tokens of the smoothed cross entropy, never with all logits at once.

    Logits are multiplied out in the dtype of the weight (of autocast where that is on), all else
    is in float32 (float64 for float64).

    Args:
        hidden_NH: what the head is applied to.
        weight_VH: rows of the head.
        labels_N: int64; -100 marks tokens that count for nothing.
        smoothing_N: float32, in [0, 1].
        bias_V: bias of the head.
        transform: what the model does to the head's output; None is nothing.
        mean: result of `mean_row`, which also says how many rows stand for tokens; computed here
            over all rows when None.
        with_nll: False leaves the negative log-likelihood out of `total`.
        tokens: tokens of a chunk; None is equal chunks of at most `chunk_tokens`.
    """
    size = tokens or equal_chunks(hidden_NH.shape[0], chunk_tokens(weight_VH.shape[0]))
    if mean is None:
        mean = mean_row(weight_VH, bias_V)
    total, nll, margin = _ChunkedSmoothedCE.apply(
        hidden_NH,
        weight_VH,
        bias_V,
        labels_N,
        smoothing_N,
        (transform or Transform(), mean, with_nll, size),
    )
    return Sums(total, nll, margin)


class _ChunkedSmoothedCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        smoothing_N: Tensor,
        options: tuple[Transform, MeanRow, bool, int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        needs = ctx.needs_input_grad
        grad_NH = torch.empty_like(hidden_NH) if needs[0] else None
        grad_VH = torch.zeros_like(weight_VH) if needs[1] else None
        grad_V = None
        if bias_V is not None and needs[2]:
            grad_V = torch.zeros_like(bias_V, dtype=accumulation_dtype(bias_V.dtype))
        compute = _compute_dtype(weight_VH)
        with torch.autocast(weight_VH.device.type, enabled=False):
            weight = weight_VH.to(compute)
            step = _Chunk(weight, bias_V, *options[:3], wanted=any(needs[:3]))
            for start in range(0, hidden_NH.shape[0], options[3]):
                part = slice(start, start + options[3])
                hidden_CH = hidden_NH[part].to(compute)
                grad_CV, pull_C = step(hidden_CH, labels_N[part], smoothing_N[part])
                if grad_NH is not None:
                    _pull_to_hidden(grad_NH[part], grad_CV, weight, pull_C, options[1].weight_H)
                if grad_VH is not None:
                    grad_VH += (grad_CV.T @ hidden_CH).to(grad_VH.dtype)
                    pull_H = (pull_C @ hidden_CH.to(pull_C.dtype)) / step.rows
                    grad_VH[: step.rows] -= pull_H.to(grad_VH.dtype)
                if grad_V is not None:
                    grad_V += grad_CV.sum(dim=0, dtype=grad_V.dtype)
                    grad_V[: step.rows] -= pull_C.sum() / step.rows
        if grad_V is not None and bias_V is not None:
            grad_V = grad_V.to(bias_V.dtype)
        ctx.save_for_backward(grad_NH, grad_VH, grad_V)
        total = step.nll + step.margin if options[2] else step.margin.clone()
        ctx.mark_non_differentiable(step.nll, step.margin)
        return total, step.nll, step.margin

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        scaled = [
            None if saved is None else saved * grad.to(saved.dtype) for saved in ctx.saved_tensors
        ]
        return (*scaled, None, None, None)


def _pull_to_hidden(
    target_CH: Tensor, grad_CV: Tensor, weight_VH: Tensor, pull_C: Tensor, mean_H: Tensor
) -> None:
    """Write grad_CV W less pull_C times the mean row, without a copy where the dtypes allow it."""
    if target_CH.dtype == weight_VH.dtype == pull_C.dtype == mean_H.dtype:
        torch.mm(grad_CV, weight_VH, out=target_CH)
        target_CH.addr_(pull_C, mean_H, alpha=-1)
    else:
        target_CH.copy_(grad_CV @ weight_VH)
        target_CH -= pull_C[:, None] * mean_H


class _Chunk:
    """One chunk after another: adds up the sums, returns the gradient of the head's output."""

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        transform: Transform,
        mean: MeanRow,
        with_nll: bool,
        wanted: bool,
    ) -> None:
        self.weight, self.bias, self.transform, self.mean = weight, bias, transform, mean
        self.rows, self.with_nll, self.wanted = mean.num_rows, with_nll, wanted
        self.dtype = accumulation_dtype(weight.dtype)
        self.nll = torch.zeros((), dtype=self.dtype, device=weight.device)
        self.margin = torch.zeros_like(self.nll)
        self._buffer: Tensor | None = None

    def __call__(
        self, hidden_CH: Tensor, labels_C: Tensor, smoothing_C: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradient by the head's output, less pull_C times the mean row, which is not in it."""
        logits_CV, slope_CV = self._logits(hidden_CH)
        trained_C = labels_C != IGNORE_INDEX
        classes_C1 = torch.where(trained_C, labels_C, 0)[:, None]
        eps_C = torch.where(trained_C, smoothing_C.to(self.dtype), 0.0)
        label_C = logits_CV.gather(1, classes_C1)[:, 0]
        mean_C = self._mean_logit(hidden_CH, logits_CV)
        # A logit of -inf, times an eps of 0, is not a number.
        self.margin += torch.where(eps_C > 0, eps_C * (label_C - mean_C), 0.0).sum()
        if self.with_nll:
            largest_C = logits_CV.amax(dim=1)
            logits_CV.sub_(largest_C[:, None]).exp_()
            sum_C = logits_CV.sum(dim=1)
            nll_C = largest_C + sum_C.log() - label_C
            self.nll += torch.where(trained_C, nll_C, 0.0).sum()
            logits_CV.mul_((trained_C / sum_C)[:, None])
        elif self.wanted:
            logits_CV.zero_()
        if not self.wanted:
            return logits_CV, eps_C
        at_label_C = eps_C - trained_C.to(self.dtype) if self.with_nll else eps_C
        logits_CV.scatter_add_(1, classes_C1, at_label_C[:, None])
        pull_C = eps_C * self.transform.scale
        if slope_CV is not None:
            logits_CV[:, : self.rows] -= (eps_C / self.rows)[:, None]
            logits_CV.mul_(slope_CV)
            pull_C = torch.zeros_like(eps_C)
        if self.transform.scale != 1.0:
            logits_CV.mul_(self.transform.scale)
        return logits_CV.to(self.weight.dtype), pull_C

    def _mean_logit(self, hidden_CH: Tensor, logits_CV: Tensor) -> Tensor:
        if self.transform.cap is not None:
            return logits_CV[:, : self.rows].mean(dim=1)
        mean_C: Tensor = hidden_CH.to(self.dtype) @ self.mean.weight_H.to(self.dtype)
        if self.mean.bias is not None:
            mean_C = mean_C + self.mean.bias
        return mean_C * self.transform.scale

    def _logits(self, hidden_CH: Tensor) -> tuple[Tensor, Tensor | None]:
        """The model's logits, and the slope of its soft cap at each."""
        if self._buffer is None:
            shape = (hidden_CH.shape[0], self.weight.shape[0])
            self._buffer = hidden_CH.new_empty(shape)
        logits_CV = self._buffer[: hidden_CH.shape[0]]
        torch.mm(hidden_CH, self.weight.T, out=logits_CV)
        logits_CV = logits_CV.to(self.dtype)
        if self.bias is not None:
            logits_CV.add_(self.bias.to(self.dtype))
        scale, cap = self.transform
        if scale != 1.0:
            logits_CV.mul_(scale)
        if cap is None:
            return logits_CV, None
        logits_CV.div_(cap).tanh_()
        slope_CV = 1.0 - logits_CV.square()
        return logits_CV.mul_(cap), slope_CV


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    dtype: torch.dtype = weight.dtype
    if dtype != torch.float64 and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return dtype
