"""Cross entropy with a reference as the prior of label smoothing, token by token, full logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def prior_sum(
    logits_NV: Tensor, reference_NR: Tensor, labels_N: Tensor, smoothing_N: Tensor
) -> Tensor:
    """Sum over trained tokens of -sum_v q_v log p_v, q = (1 - eps) onehot + eps softmax(z).

    Args:
        logits_NV: of the model.
        reference_NR: z: logits of the reference, or any logarithm of its mass.
        labels_N: -100 where nothing is trained.
        smoothing_N: eps.
    """
    total = logits_NV.sum() * 0.0
    for logits_V, z_R, label, eps in zip(
        logits_NV, reference_NR, labels_N.tolist(), smoothing_N.tolist(), strict=True
    ):
        if label == -100:
            continue
        target_V = torch.zeros_like(logits_V)
        target_V[: len(z_R)] = eps * z_R.softmax(dim=0)
        target_V[label] += 1.0 - eps
        log_p_V = logits_V.log_softmax(dim=0)
        total = total - (target_V[target_V > 0] * log_p_V[target_V > 0]).sum()
    return total


def prior_loss(
    model: Any,
    before: Any,
    data: dict[str, Tensor],
    temperature: float,
    num_rows: int | None = None,
) -> Tensor:
    """Mean over trained tokens for a batch; `before` None is the model without its adapter."""
    inputs = {key: value for key, value in data.items() if key not in ("labels", "smoothing")}
    with torch.no_grad():
        if before is not None:
            reference = before.eval()(**inputs, use_cache=False).logits
        else:
            model.eval()
            with model.disable_adapter():
                reference = model(**inputs, use_cache=False).logits
            model.train()
    outputs = model(**inputs)
    loss = prior_sum(
        outputs.logits[:, :-1].flatten(0, 1),
        reference[:, :-1, :num_rows].flatten(0, 1) / temperature,
        data["labels"][:, 1:].flatten(),
        data["smoothing"][:, 1:].flatten().to(torch.float64),
    )
    loss = loss / (data["labels"][:, 1:] != -100).sum()
    if outputs.get("aux_loss") is not None:
        loss = loss + 0.1 * outputs.aux_loss
    return loss
