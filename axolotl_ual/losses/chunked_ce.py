"""Cross entropy with per-token label smoothing, in chunks of tokens, from the head's weight.

For logits x = cap(s (W h + b)), where cap(z) = c tanh(z / c) or the identity:

    L_i = -x_{y_i} + log sum_v exp x_v  +  eps_i (x_{y_i} - mean_v x_v)
    dL_i / dx_v = p_v - 1[v = y_i]  +  eps_i (1[v = y_i] - 1[v < R] / R)

Only the logits of one chunk exist at a time. Gradients are taken in the forward pass, as fused
kernels do, so nothing is computed twice and a head whose shards are released is not needed again.
A soft cap makes the margin of `smoothed_ce` non-linear in h; here it is exact. Without a cap the
mean logit and its gradient come from the mean row, so no pass over the logits is spent on them.
With a prior r (`prior`) in the place of the even spread, r_v takes the place of 1[v < R] / R, and
its mean that of the mean logit; tokens without smoothing have no use for it.
Tokens that are not trained (prompt, padding) are left out before anything is multiplied: N of them
cost nothing but their zeros in the gradient.

Shape legend: N tokens, M trained ones, C of a chunk, H hidden size, V vocabulary, R rows that are
tokens.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .encoding import IGNORE_INDEX
from .gradients import Gradients
from .prior import Part, Prior, Target
from .smoothed_ce import MeanRow, accumulation_dtype, mean_row
from .top_k import TopK
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
        margin: eps times (logit of the label minus mean logit, under the prior).
        prior: KL(r || p), entropy of the prior r, both in nats, and the number of tokens that have
            a smoothing above 0; zeros without a prior.
    """

    total: Tensor
    nll: Tensor
    margin: Tensor
    prior: Tensor


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
    prior: Prior | None = None,
    with_nll: bool = True,
    tokens: int | None = None,
) -> Sums:
    """Sum over tokens of the smoothed cross entropy, never with all logits at once.

    Logits are multiplied out in the dtype of the weight (of autocast where that is on), all else
    is in float32 (float64 for float64), the sum of the head's gradient over chunks included.

    Args:
        hidden_NH: what the head is applied to.
        weight_VH: rows of the head.
        labels_N: int64; -100 marks tokens that count for nothing.
        smoothing_N: float32, in [0, 1].
        bias_V: bias of the head.
        transform: what the model does to the head's output; None is nothing.
        mean: result of `mean_row`, which also says how many rows stand for tokens; computed here
            over all rows when None.
        prior: where the smoothed mass of each token goes; None spreads it evenly.
        with_nll: False leaves the negative log-likelihood out of `total`.
        tokens: trained tokens of a chunk; None is equal chunks of at most `chunk_tokens`.
    """
    if mean is None:
        mean = mean_row(weight_VH, bias_V)
    found = _ChunkedSmoothedCE.apply(
        hidden_NH,
        weight_VH,
        bias_V,
        labels_N,
        smoothing_N,
        (transform or Transform(), mean, prior, with_nll, tokens),
    )
    return Sums(*found)


class _ChunkedSmoothedCE(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        labels_N: Tensor,
        smoothing_N: Tensor,
        options: tuple[Transform, MeanRow, Prior | None, bool, int | None],
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        needs = ctx.needs_input_grad
        transform, mean, prior, with_nll, size = options
        size = size or chunk_tokens(weight_VH.shape[0])
        compute = _compute_dtype(weight_VH)
        with torch.autocast(weight_VH.device.type, enabled=False):
            weight = weight_VH.to(compute)
            step = _Chunk(weight, bias_V, transform, mean, with_nll, wanted=any(needs[:3]))
            wanted = Gradients(hidden_NH, weight, bias_V, mean, needs)
            for part, smoothed in _parts(labels_N, smoothing_N, prior, size):
                hidden_CH = hidden_NH[part].to(compute)
                target = prior.target(part, step.buffer) if prior and smoothed else None
                grad_CV, pull_C = step(hidden_CH, labels_N[part], smoothing_N[part], target)
                wanted.add(part, hidden_CH, grad_CV, pull_C)
        head = wanted.of_head()
        dtypes = (weight_VH.dtype, None if bias_V is None else bias_V.dtype)
        ctx.save_for_backward(
            wanted.hidden_NH,
            *(g if g is None else g.to(d) for g, d in zip(head, dtypes, strict=True)),
        )
        total = step.nll + step.margin if with_nll else step.margin.clone()
        ctx.mark_non_differentiable(step.nll, step.margin, step.prior)
        return total, step.nll, step.margin, step.prior

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        scaled = [
            None if saved is None else saved * grad.to(saved.dtype) for saved in ctx.saved_tensors
        ]
        return (*scaled, None, None, None)


def _parts(
    labels_N: Tensor, smoothing_N: Tensor, prior: Prior | None, most: int
) -> Iterator[tuple[Part, bool]]:
    """Equal chunks of the trained tokens, and whether the prior is needed.

    Slices where all are trained, so that nothing is copied. Tokens that have no smoothing have no
    use for a prior and are kept apart; the others share their room with its probabilities,
    unless it has only a few of them.
    """
    trained_N = labels_N != IGNORE_INDEX
    groups = [(trained_N, False, most)]
    if prior is not None:
        smoothed_N, sparse = smoothing_N > 0, isinstance(prior, TopK)
        groups = [
            (trained_N & smoothed_N, True, most if sparse else max(1, most // 2)),
            (trained_N & ~smoothed_N, False, most),
        ]
    for member_N, smoothed, most in groups:
        place_M = member_N.nonzero()[:, 0]
        number, everything = len(place_M), len(place_M) == len(labels_N)
        size = equal_chunks(number, most)
        for start in range(0, number, size):
            part = slice(start, start + size)
            yield part if everything else place_M[part], smoothed


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
        self.prior = torch.zeros(3, dtype=self.dtype, device=weight.device)
        self._buffer: Tensor | None = None

    def __call__(
        self,
        hidden_CH: Tensor,
        labels_C: Tensor,
        smoothing_C: Tensor,
        target: Target | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Gradient by the head's output, less pull_C times the mean row, which is not in it."""
        logits_CV, slope_CV = self._logits(hidden_CH)
        classes_C1, eps_C = labels_C[:, None], smoothing_C.to(self.dtype)
        label_C = logits_CV.gather(1, classes_C1)[:, 0]
        mean_C = self._prior_logit(hidden_CH, logits_CV, target)
        # A logit of -inf, times an eps of 0, is not a number.
        self.margin += torch.where(eps_C > 0, eps_C * (label_C - mean_C), 0.0).sum()
        if self.with_nll or target is not None:
            largest_C = logits_CV.amax(dim=1)
            logits_CV.sub_(largest_C[:, None]).exp_()
            sum_C = logits_CV.sum(dim=1)
            total_C = largest_C + sum_C.log()
            if target is not None:
                self._note(total_C - mean_C, target.entropy_C)
        if self.with_nll:
            self.nll += (total_C - label_C).sum()
            logits_CV.mul_((1.0 / sum_C)[:, None])
        elif self.wanted:
            logits_CV.zero_()
        if not self.wanted:
            return logits_CV, eps_C
        at_label_C = eps_C - 1.0 if self.with_nll else eps_C
        logits_CV.scatter_add_(1, classes_C1, at_label_C[:, None])
        return self._gradient(logits_CV, slope_CV, eps_C, target)

    def _gradient(
        self,
        grad_CV: Tensor,
        slope_CV: Tensor | None,
        eps_C: Tensor,
        target: Target | None,
    ) -> tuple[Tensor, Tensor]:
        """Take the smoothed mass off, and go back through what the model does to its head."""
        even_C: Tensor | None = eps_C
        if target is not None:
            target.subtract(grad_CV, eps_C)
            even_C = None if target.rest_C is None else eps_C * target.rest_C
        pull_C = torch.zeros_like(eps_C)
        if even_C is not None and slope_CV is not None:
            grad_CV[:, : self.rows] -= (even_C / self.rows)[:, None]
        elif even_C is not None:
            pull_C = even_C * self.transform.scale
        if slope_CV is not None:
            grad_CV.mul_(slope_CV)
        if self.transform.scale != 1.0:
            grad_CV.mul_(self.transform.scale)
        return grad_CV.to(self.weight.dtype), pull_C

    def _note(self, cross_entropy_C: Tensor, entropy_C: Tensor) -> None:
        """Add up KL(r || p) and H(r), which say how far training went from the prior."""
        number = entropy_C.new_tensor(len(entropy_C))
        kl = (cross_entropy_C - entropy_C).sum()
        self.prior += torch.stack([kl, entropy_C.sum(), number])

    def _prior_logit(self, hidden_CH: Tensor, logits_CV: Tensor, target: Target | None) -> Tensor:
        """sum_v r_v x_v of each token, of the prior r or the even spread."""
        if target is None:
            return self._mean_logit(hidden_CH, logits_CV)
        expected_C = target.expected(logits_CV)
        if target.rest_C is None:
            return expected_C
        return expected_C + target.rest_C * self._mean_logit(hidden_CH, logits_CV)

    def _mean_logit(self, hidden_CH: Tensor, logits_CV: Tensor) -> Tensor:
        if self.transform.cap is not None:
            return logits_CV[:, : self.rows].mean(dim=1)
        mean_C: Tensor = hidden_CH.to(self.dtype) @ self.mean.weight_H.to(self.dtype)
        if self.mean.bias is not None:
            mean_C = mean_C + self.mean.bias
        return mean_C * self.transform.scale

    def _logits(self, hidden_CH: Tensor) -> tuple[Tensor, Tensor | None]:
        """The model's logits, and the slope of its soft cap at each."""
        logits_CV = self.buffer(hidden_CH.shape[0])
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

    def buffer(self, rows: int) -> Tensor:
        """Room for so many rows of logits, the same each time."""
        if self._buffer is None or self._buffer.shape[0] < rows:
            self._buffer = self.weight.new_empty((rows, self.weight.shape[0]))
        return self._buffer[:rows]


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    dtype: torch.dtype = weight.dtype
    if dtype != torch.float64 and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return dtype
