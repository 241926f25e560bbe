"""Cross entropy with per-token label smoothing, in chunks of tokens, from the head's weight.

For logits x = cap(s (W h + b)), where cap(z) = c tanh(z / c) or the identity:

    L_i = -x_{y_i} + log sum_v exp x_v  +  eps_i (x_{y_i} - mean_v x_v)
    dL_i / dx_v = p_v - 1[v = y_i]  +  eps_i (1[v = y_i] - 1[v < R] / R)

Only the logits of one chunk exist at a time. Gradients are taken in the forward pass, as fused
kernels do, so nothing is computed twice and a head whose shards are released is not needed again.
A soft cap makes the margin of `smoothed_ce` non-linear in h; here it is exact. Without a cap the
mean logit and its gradient come from the mean row, so no pass over the logits is spent on them.
With a prior r (`prior`) in the place of the even spread, r_v takes the place of 1[v < R] / R, and
its mean that of the mean logit; tokens without smoothing have no use for it. What tokens weigh, and
an anchor to the model before tuning, enter as `token_weights` has it, in the same chunks.
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

from axolotl_ual.columns import IGNORE_INDEX

from .chunk import Chunk, Inputs
from .gradients import Gradients
from .prior import Part, Prior
from .smoothed_ce import MeanRow, mean_row
from .token_weights import Weighting
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
        total: nll + margin, or the margin where no nll was asked for; with a weighting the sum of
            its L.
        nll: negative log-likelihood, times w.
        margin: eps times (logit of the label minus mean logit, under the prior), times w g.
        prior: KL(r || p), entropy of the prior or reference r, both in nats, and the number of
            tokens that have a smoothing above 0, or of all with an anchor; zeros without r.
        weighted: negative log-likelihood times w g, w g alone, and KL(r || p) times w; zeros
            without a weighting.
    """

    total: Tensor
    nll: Tensor
    margin: Tensor
    prior: Tensor
    weighted: Tensor


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
    weighting: Weighting | None = None,
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
        weighting: what each token counts; None is 1 each. Not without the negative log-likelihood.
        with_nll: False leaves the negative log-likelihood out of `total`.
        tokens: trained tokens of a chunk; None is equal chunks of at most `chunk_tokens`.

    Raises:
        ValueError: a weighting without the negative log-likelihood.
    """
    if weighting is not None and not with_nll:
        raise ValueError("tokens weigh in their whole loss, not in its margin alone")
    if mean is None:
        mean = mean_row(weight_VH, bias_V)
    found = _ChunkedSmoothedCE.apply(
        hidden_NH,
        weight_VH,
        bias_V,
        labels_N,
        smoothing_N,
        (transform or Transform(), mean, prior, weighting, with_nll, tokens),
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
        options: tuple[Transform, MeanRow, Prior | None, Weighting | None, bool, int | None],
    ) -> tuple[Tensor, ...]:
        needs = ctx.needs_input_grad
        transform, mean, prior, weighting, with_nll, size = options
        size = size or chunk_tokens(weight_VH.shape[0])
        compute = _compute_dtype(weight_VH)
        with torch.autocast(weight_VH.device.type, enabled=False):
            weight = weight_VH.to(compute)
            asked = {"with_nll": with_nll, "wanted": any(needs[:3])}
            step = Chunk(weight, bias_V, transform, mean, weighting, **asked)
            wanted = Gradients(hidden_NH, weight, bias_V, mean, needs)
            for part, source in _parts(labels_N, smoothing_N, prior, weighting, size):
                hidden_CH = hidden_NH[part].to(compute)
                target = None if source is None else source.target(part, step.buffer)
                given = Inputs(
                    hidden_CH,
                    labels_N[part],
                    smoothing_N[part],
                    target,
                    to_target=prior is not None,
                    weight_C=_weights(weighting, part),
                )
                grad_CV, pull_C = step(given)
                wanted.add(part, hidden_CH, grad_CV, pull_C)
        head = wanted.of_head()
        dtypes = (weight_VH.dtype, None if bias_V is None else bias_V.dtype)
        ctx.save_for_backward(
            wanted.hidden_NH,
            *(g if g is None else g.to(d) for g, d in zip(head, dtypes, strict=True)),
        )
        noted = (step.nll, step.margin, step.prior, step.weighted)
        ctx.mark_non_differentiable(*noted)
        return step.total(), *noted

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        scaled = [
            None if saved is None else saved * grad.to(saved.dtype) for saved in ctx.saved_tensors
        ]
        return (*scaled, None, None, None)


def _parts(
    labels_N: Tensor,
    smoothing_N: Tensor,
    prior: Prior | None,
    weighting: Weighting | None,
    most: int,
) -> Iterator[tuple[Part, Prior | None]]:
    """Equal chunks of the trained tokens, and the prior or the reference that they need.

    Slices where all are trained, so that nothing is copied. Tokens that have no smoothing have no
    use for a prior and are kept apart, unless there is an anchor; the others share their room with
    its probabilities, unless it has only a few of them.
    """
    trained_N = labels_N != IGNORE_INDEX
    half = max(1, most // 2)
    groups: list[tuple[Tensor, Prior | None, int]] = [(trained_N, None, most)]
    if weighting is not None and weighting.anchor:
        groups = [(trained_N, prior or weighting.reference, half)]
    elif prior is not None:
        smoothed_N, sparse = smoothing_N > 0, isinstance(prior, TopK)
        groups = [
            (trained_N & smoothed_N, prior, most if sparse else half),
            (trained_N & ~smoothed_N, None, most),
        ]
    for member_N, source, most in groups:
        place_M = member_N.nonzero()[:, 0]
        number, everything = len(place_M), len(place_M) == len(labels_N)
        size = equal_chunks(number, most)
        for start in range(0, number, size):
            part = slice(start, start + size)
            yield part if everything else place_M[part], source


def _weights(weighting: Weighting | None, part: Part) -> Tensor | None:
    given = None if weighting is None else weighting.weight_N
    return None if given is None else given[part]


def _compute_dtype(weight: Tensor) -> torch.dtype:
    kind = weight.device.type
    dtype: torch.dtype = weight.dtype
    if dtype != torch.float64 and torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
    return dtype
