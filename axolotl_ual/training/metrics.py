"""The two parts of the loss between two log entries, over all processes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from axolotl_ual.training.means import TOKENS

NLL = "loss/nll"
SMOOTHING_PART = "loss/smoothing"
KL = "ual/reference_kl"
"""KL divergence of the model's prediction from the reference's, in nats a smoothed token."""
ENTROPY = "ual/reference_entropy"
"""Entropy of the reference's prediction, in nats a smoothed token."""


class LossParts:
    """Sums negative log-likelihood and smoothing term over tokens, on the device.

    Nothing is read back before `report`, so that adding never waits for the device.
    """

    def __init__(self) -> None:
        self._sums: Tensor | None = None

    def add(self, nll_sum: Tensor, smoothing_sum: Tensor, num_tokens: Tensor) -> None:
        """Add a micro-batch: two sums over its trained tokens, and their number."""
        parts = torch.stack(
            [part.detach().to(torch.float32) for part in (nll_sum, smoothing_sum, num_tokens)]
        )
        self._sums = parts if self._sums is None else self._sums + parts

    def report(self, add_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means over the trained tokens since the last report, which is then forgotten.

        And how many tokens they were.

        Args:
            add_up: sums a tensor over all processes; called by all of them.
        """
        if self._sums is None:
            return {}
        nll, smoothing, tokens = add_up(self._sums).tolist()
        self._sums = None
        count = max(tokens, 1.0)
        return {NLL: nll / count, SMOOTHING_PART: smoothing / count, TOKENS: tokens}
