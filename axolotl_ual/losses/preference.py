"""Preference losses with a smoothing of each pair.

With h the margin of the policy's log-ratio over the reference's, chosen minus rejected, and a
probability eps that the label of the pair is flipped, the expected loss is a base loss plus eps
times a margin:

    sigmoid (DPO, arXiv 2305.18290; with eps, conservative DPO, Mitchell 2023)
        z = beta h
        L = -(1 - eps) log sigma(z) - eps log sigma(-z) = -log sigma(z) + eps z
    ipo (arXiv 2310.12036), c = 1 / (2 beta), h a difference of means over tokens
        L = (1 - eps) (h - c)^2 + eps (-h - c)^2        = (h - c)^2    + eps 2 h / beta

Robust DPO (arXiv 2403.00409) is another loss: it divides by 1 - 2 eps to stay unbiased.

Shape suffixes: P pairs, S = 2 P completions.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

PreferenceKind = Literal["sigmoid", "ipo"]


def preference_loss(
    margin_P: Tensor, smoothing_P: Tensor, beta_P: Tensor, kind: PreferenceKind
) -> tuple[Tensor, Tensor]:
    """The two parts of each pair's loss, whose sum is the loss.

    Args:
        margin_P: h, float32 or float64.
        smoothing_P: eps in [0, 0.5).
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
