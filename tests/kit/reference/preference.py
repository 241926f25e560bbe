"""Preference losses and log-probabilities in float64, one pair and one token at a time."""

from __future__ import annotations

import torch
from torch import Tensor


def log_prob(logits_V: Tensor, label: int) -> Tensor:
    probabilities_V = torch.exp(logits_V - logits_V.max())
    return torch.log(probabilities_V[label] / probabilities_V.sum())


def sigmoid_pair(margin: Tensor, eps: float, beta: float) -> Tensor:
    """-(1 - eps) log sigma(z) - eps log sigma(-z), z = beta * margin, straight from the text."""
    z = beta * margin
    right = 1.0 / (1.0 + torch.exp(-z))
    wrong = 1.0 / (1.0 + torch.exp(z))
    return -(1.0 - eps) * torch.log(right) - eps * torch.log(wrong)


def ipo_pair(margin: Tensor, eps: float, beta: float) -> Tensor:
    """(1 - eps) (h - 1/(2 beta))^2 + eps (-h - 1/(2 beta))^2."""
    target = 1.0 / (2.0 * beta)
    return (1.0 - eps) * (margin - target) ** 2 + eps * (-margin - target) ** 2
