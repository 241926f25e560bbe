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


def robust_pair(margin: Tensor, eps: float, beta: float) -> Tensor:
    """((1 - eps) loss(z) - eps loss(-z)) / (1 - 2 eps) of the sigmoid loss."""
    z = beta * margin
    right, wrong = -torch.log(1.0 / (1.0 + torch.exp(-z))), -torch.log(1.0 / (1.0 + torch.exp(z)))
    return ((1.0 - eps) * right - eps * wrong) / (1.0 - 2.0 * eps)


def robust_ipo_pair(margin: Tensor, eps: float, beta: float) -> Tensor:
    """The same of the IPO loss."""
    target = 1.0 / (2.0 * beta)
    right, wrong = (margin - target) ** 2, (-margin - target) ** 2
    return ((1.0 - eps) * right - eps * wrong) / (1.0 - 2.0 * eps)


def collision(logits_V: Tensor) -> Tensor:
    """Logarithm of the probability that two draws are the same token."""
    probabilities_V = torch.exp(logits_V - logits_V.max())
    return torch.log(((probabilities_V / probabilities_V.sum()) ** 2).sum())


def target_margin_descent(gaps: list[float], mean: float, tau: float) -> list[float]:
    """The margins' shift by mirror descent on the objective as it is written, to convergence."""
    gap_N = torch.tensor(gaps, dtype=torch.float64)
    count = len(gaps)
    logits_N = torch.zeros(count, dtype=torch.float64)
    for _ in range(1_500):
        share_N = torch.softmax(logits_N, 0).requires_grad_()
        violated_N = torch.log1p(torch.exp(mean * count * share_N - gap_N))
        objective = violated_N.mean() + tau * (share_N * torch.log(count * share_N)).sum()
        (gradient_N,) = torch.autograd.grad(objective, share_N)
        logits_N = logits_N - 0.1 / max(tau, mean) * gradient_N
    return [mean * count * float(share) - mean for share in torch.softmax(logits_N, 0)]
