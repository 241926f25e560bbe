"""Weighted, token-adaptive and anchored cross entropy, token by token, from full logits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def weighted_sum(
    logits_NV: Tensor,
    labels_N: Tensor,
    smoothing_N: Tensor,
    weight_N: Tensor,
    token: str,
    *,
    anchor: float = 0.0,
    reference_NR: Tensor | None = None,
    prior: bool = False,
    rows: int | None = None,
) -> Tensor:
    """Sum over trained tokens of w (g CE + anchor KL(r || p)), r = softmax of reference_NR.

    Args:
        prior: whether smoothed mass goes to r; otherwise evenly to the first `rows` classes.
    """
    total = logits_NV.sum() * 0.0
    for number, label in enumerate(labels_N.tolist()):
        if label == -100:
            continue
        log_p_V = logits_NV[number].log_softmax(dim=0)
        eps, spread_V = smoothing_N[number].item(), torch.zeros_like(log_p_V)
        r_R = None if reference_NR is None else reference_NR[number].softmax(dim=0)
        if prior:
            spread_V[: len(r_R)] = r_R
        else:
            spread_V[:rows] = 1.0 / (rows or len(spread_V))
        target_V = eps * spread_V
        target_V[label] += 1.0 - eps
        loss = -(target_V * log_p_V).sum() * own_weight(log_p_V.detach(), label, token)
        if r_R is not None:
            loss = loss + anchor * (r_R * (r_R.log() - log_p_V[: len(r_R)])).sum()
        total = total + weight_N[number].item() * loss
    return total


def own_weight(log_p_V: Tensor, label: int, token: str) -> float:
    """g: 1, the label's probability (DFT), or the entropy of the 20 likeliest over ln 20 (EAFT)."""
    p = log_p_V.exp().tolist()
    if token == "probability":
        return p[label]
    if token == "entropy":
        best = sorted(p, reverse=True)[:20]
        shares = [share / sum(best) for share in best]
        return -sum(share * math.log(share) for share in shares) / math.log(len(best))
    return 1.0


def weighted_loss(
    model: Any,
    before: Any,
    data: dict[str, Tensor],
    token: str,
    *,
    anchor: float = 0.0,
    prior: bool = False,
    rows: int | None = None,
) -> Tensor:
    """The sum over the sum of the weights, for a batch; `before` gives r, and None is no r."""
    inputs = {k: v for k, v in data.items() if k not in ("labels", "smoothing", "weight")}
    reference = None
    if before is not None:
        with torch.no_grad():
            reference = before.eval()(**inputs, use_cache=False).logits[:, :-1, :rows]
            reference = reference.flatten(0, 1)
    outputs = model(**inputs)
    labels_N, weight_N = data["labels"][:, 1:].flatten(), data["weight"][:, 1:].flatten()
    loss = weighted_sum(
        outputs.logits[:, :-1].flatten(0, 1),
        labels_N,
        data["smoothing"][:, 1:].flatten().double(),
        weight_N.double(),
        token,
        anchor=anchor,
        reference_NR=reference,
        prior=prior,
        rows=rows,
    )
    loss = loss / weight_N[labels_N != -100].double().sum()
    if outputs.get("aux_loss") is not None:
        loss = loss + 0.1 * outputs.aux_loss
    return loss
