"""Preference losses with a smoothing of each pair.

With h the margin of the policy's log-ratio over the reference's, chosen minus rejected, and a
probability eps that the label of the pair is flipped, the expected loss is a base loss plus eps
times a margin:

    sigmoid (DPO, arXiv 2305.18290; with eps, conservative DPO, Mitchell 2023)
        z = beta h
        L = -(1 - eps) log sigma(z) - eps log sigma(-z) = -log sigma(z) + eps z
    ipo (arXiv 2310.12036), c = 1 / (2 beta), h a difference of means over tokens
        L = (1 - eps) (h - c)^2 + eps (-h - c)^2        = (h - c)^2    + eps 2 h / beta

The robust loss (rDPO, arXiv 2403.00409, equation 8) is an unbiased estimate of the loss without
flips, from labels of which a share eps is flipped:

    L = ((1 - eps) loss(h) - eps loss(-h)) / (1 - 2 eps)

which is the same base loss plus s times the same margin, with s = -eps / (1 - 2 eps) in the place
of eps. TRL calls it `loss_type: robust`, with one eps for all pairs.

A target margin delta of a pair, in units of the reward beta h, is what the pair must gain beyond
the others: h - delta / beta takes the place of h, as in gamma-PO (arXiv 2506.03690; where delta
comes from is in `target_margin`).

WPO (arXiv 2406.11827, equation 2) weighs each pair by how likely the policy itself is to write its
completions, so that pairs of another model count as if they were sampled anew:

    w = exp(a(chosen)) exp(a(rejected)),    a(y) = mean_t (log p(y_t) - log sum_v p(v)^2)

without gradient. The sum aligns the weight: of what the policy samples, the mean of exp is 1.

Shape suffixes: P pairs, S = 2 P completions, T tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

PreferenceKind = Literal["sigmoid", "ipo"]
Flips = Literal["conservative", "robust"]


def flip_factor(smoothing_P: Tensor, flips: Flips) -> Tensor:
    """What the margin is multiplied by: eps, or for the robust loss -eps / (1 - 2 eps).

    Args:
        smoothing_P: eps in [0, 0.5).
        flips: conservative: the expected loss. robust: the loss that has this expectation.
    """
    return smoothing_P if flips == "conservative" else -smoothing_P / (1.0 - 2.0 * smoothing_P)


def policy_weight(logprobs_ST: Tensor, collisions_ST: Tensor, lengths_S: Tensor) -> Tensor:
    """Weight of each pair by WPO, without gradient.

    Args:
        logprobs_ST: log-probability of each token of each completion, 0 elsewhere; the chosen
            completions first.
        collisions_ST: logarithm of the sum of squared probabilities where each token stands, 0
            elsewhere.
        lengths_S: tokens of each completion.

    Returns:
        Shape (S / 2,), above 0.
    """
    with torch.no_grad():
        mean_S = (logprobs_ST - collisions_ST).sum(dim=1) / lengths_S.clamp(min=1)
        chosen_P, rejected_P = mean_S.exp().chunk(2)
        return chosen_P * rejected_P


def preference_loss(
    margin_P: Tensor, smoothing_P: Tensor, beta_P: Tensor, kind: PreferenceKind
) -> tuple[Tensor, Tensor]:
    """The two parts of each pair's loss, whose sum is the loss.

    Args:
        margin_P: h, float32 or float64.
        smoothing_P: eps in [0, 0.5), or what `flip_factor` makes of it.
        beta_P: above 0.
        kind: sigmoid or ipo.

    Returns:
        The loss without smoothing, and what smoothing adds, both of shape (P,).
    """
    if kind == "sigmoid":
        z_P = beta_P * margin_P
        return -F.logsigmoid(z_P), smoothing_P * z_P
    return (margin_P - 0.5 / beta_P).square(), smoothing_P * 2.0 * margin_P / beta_P


def pair_margin(ratio_S: Tensor, lengths_S: Tensor, kind: PreferenceKind) -> Tensor:
    """What each chosen completion gains over the reference, less what the rejected one does: h.

    IPO takes means over tokens, as its authors' results do, so that beta does not depend on length.

    Args:
        ratio_S: log-probability of each completion less the reference's, the chosen ones first.
        lengths_S: tokens of each completion.
        kind: sigmoid or ipo.

    Returns:
        Shape (S / 2,).
    """
    if kind == "ipo":
        ratio_S = ratio_S / lengths_S.clamp(min=1)
    chosen_P, rejected_P = ratio_S.chunk(2)
    return chosen_P - rejected_P
