"""Label smoothing token by token, from full logits, with PyTorch's own cross entropy."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def smoothed_sum(logits_NV: Tensor, labels_N: Tensor, smoothing_N: Tensor) -> Tensor:
    """Sum over trained tokens (label not -100) of the cross entropy smoothed by their eps."""
    total = logits_NV.sum() * 0.0
    for logits_V, label, eps in zip(logits_NV, labels_N, smoothing_N.tolist(), strict=True):
        if label != -100:
            total = total + F.cross_entropy(logits_V, label, label_smoothing=eps)
    return total


def shifted(logits_BTV: Tensor, labels_BT: Tensor, smoothing_BT: Tensor) -> Tensor:
    """The same for a batch: the logits at t predict the label at t + 1."""
    return smoothed_sum(
        logits_BTV[:, :-1].flatten(0, 1),
        labels_BT[:, 1:].flatten(),
        smoothing_BT[:, 1:].flatten().to(torch.float64),
    )
