r"""The most likely tokens of a reference as the prior of label smoothing: computed once, before.

Of the distribution r of a reference, K tokens keep their mass, and the rest of it is spread evenly
over all R rows that are tokens:

    r~_v = r_v 1[v kept] + rest / R          rest = 1 - sum of the kept

The total variation between r~ and r is at most the rest, sum_v |r~_v - r_v| <= 2 rest. So the
gradient by the logits of a token, p - (1 - eps) onehot - eps r~, is off by at most 2 eps rest in
the sum of its absolute values, and its loss by at most eps rest (max_v x_v - min_v x_v).

Shape legend: N tokens, M smoothed ones, C of a chunk, K kept tokens, H hidden size, V rows of the
head, R rows that are tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from axolotl_ual.columns import IGNORE_INDEX

from .prior import Part
from .smoothed_ce import MeanRow, accumulation_dtype

_MOST_GATHERED = 2**24
"""Numbers of the head's rows that are gathered at a time."""


@dataclass
class TopK:
    """The most likely tokens of a reference, and the rest of its mass spread evenly.

    Attributes:
        ids_NK: int64, different ones for each place.
        mass_NK: probability of each, with a sum of at most 1.
        num_rows: R.
    """

    ids_NK: Tensor
    mass_NK: Tensor
    num_rows: int

    def rest(self, part: Part) -> Tensor:
        """What the kept tokens of these places leave of the mass."""
        return (1.0 - self.mass_NK[part].sum(dim=1)).clamp_(min=0.0)

    def target(self, part: Part, scratch: Callable[[int], Tensor]) -> Sparse:
        """The kept tokens of these places; nothing is computed of a model."""
        mass_CK, rest_C = self.mass_NK[part], self.rest(part)
        each_C = rest_C / self.num_rows
        entropy_C = torch.special.entr(mass_CK + each_C[:, None]).sum(dim=1)
        entropy_C += torch.special.entr(each_C) * (self.num_rows - mass_CK.shape[1])
        return Sparse(self.ids_NK[part], mass_CK, rest_C, entropy_C)


def top_k_margin(
    hidden_NH: Tensor,
    weight_VH: Tensor,
    labels_N: Tensor,
    smoothing_N: Tensor,
    prior: TopK,
    *,
    bias_V: Tensor | None = None,
    mean: MeanRow,
    scale: float = 1.0,
) -> Tensor:
    """sum_i eps_i scale (h_i . (w_{y_i} - w_r) + b_{y_i} - b_r), w_r = sum_k r_k w_k + rest w_mean.

    The margin of a linear head needs no logits with K kept tokens either. Differentiable in the
    hidden states alone: for a head that is not trained.

    Args:
        hidden_NH: what the head is applied to.
        weight_VH: rows of the head.
        labels_N: int64; -100 marks tokens that count for nothing.
        smoothing_N: float32, in [0, 1].
        prior: of each token.
        bias_V: bias of the head.
        mean: result of `mean_row`.
        scale: constant factor on the logits.
    """
    place_M = ((labels_N != IGNORE_INDEX) & (smoothing_N > 0)).nonzero()[:, 0]
    with torch.no_grad():
        dtype = accumulation_dtype(weight_VH.dtype)
        label_M, rest_M = labels_N[place_M], prior.rest(place_M).to(dtype)
        ids_MK, mass_MK = prior.ids_NK[place_M], prior.mass_NK[place_M].to(dtype)
        factor_M = smoothing_N[place_M].to(dtype) * scale
        direction_MH = weight_VH[label_M].to(dtype) - rest_M[:, None] * mean.weight_H
        direction_MH -= _mean_rows(weight_VH, ids_MK, mass_MK)
        shift = factor_M.new_zeros(())
        if bias_V is not None and mean.bias is not None:
            kept_M = (bias_V[ids_MK].to(dtype) * mass_MK).sum(dim=1)
            shift = (factor_M * (bias_V[label_M].to(dtype) - kept_M - rest_M * mean.bias)).sum()
        direction_MH *= factor_M[:, None]
    return (hidden_NH[place_M].to(dtype) * direction_MH).sum() + shift


def _mean_rows(weight_VH: Tensor, ids_MK: Tensor, mass_MK: Tensor) -> Tensor:
    """sum_k mass_k w_k of each token, in the dtype of the mass."""
    if weight_VH.dtype == mass_MK.dtype:
        # Sums rows where they lie: a sixth of the time of a copy of them, or less.
        return embedding_bag(ids_MK, weight_VH, per_sample_weights=mass_MK, mode="sum")
    found_MH = mass_MK.new_empty(len(ids_MK), weight_VH.shape[1])
    size = max(1, _MOST_GATHERED // max(1, ids_MK.shape[1] * weight_VH.shape[1]))
    for start in range(0, len(ids_MK), size):
        part = slice(start, start + size)
        kept_CKH = weight_VH[ids_MK[part]].to(mass_MK.dtype)
        found_MH[part] = torch.bmm(mass_MK[part][:, None, :], kept_CKH)[:, 0]
    return found_MH


@dataclass(slots=True)
class Sparse:
    """Mass for K rows of each token, ids_CK and mass_CK."""

    ids_CK: Tensor
    mass_CK: Tensor
    rest_C: Tensor | None
    entropy_C: Tensor

    def expected(self, logits_CV: Tensor) -> Tensor:
        """See `Target`."""
        return (logits_CV.gather(1, self.ids_CK) * self.mass_CK.to(logits_CV.dtype)).sum(dim=1)

    def subtract(self, grad_CV: Tensor, eps_C: Tensor) -> None:
        """See `Target`."""
        grad_CV.scatter_add_(1, self.ids_CK, -eps_C[:, None] * self.mass_CK.to(grad_CV.dtype))
