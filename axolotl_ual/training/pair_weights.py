"""Pairs that count by a weight of their own: the loss of a step is sum_i w_i L_i / sum_i w_i.

The sums are over the pairs of all micro-batches and processes of the step. Trainer and engines
divide by the number of micro-batches and of processes whatever the loss is, so that each
micro-batch's share is multiplied by both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from axolotl_ual.columns import WEIGHT
from axolotl_ual.losses.encoding import decode_smoothing


class WeightedPairsMixin(Trainer):
    """A base to name before the others; batches without `ual_weight` are as they were."""

    _mass: Tensor | None = None

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, whose weights are added up over all processes."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and WEIGHT in batches[0]:
            parts = torch.stack([decode_smoothing(batch[WEIGHT]).sum() for batch in batches])
            self._mass = self.accelerator.reduce(parts.sum().to(device), reduction="sum")
        return batches, num_items

    def _weighted(self, batch: Any, share: float) -> Any:
        """Pairs have their weight, however many a micro-batch of the last step has: less padding.

        Padding repeats pairs of other micro-batches.
        """
        if WEIGHT not in batch:
            return super()._weighted(batch, share)
        if share == 0.0:
            batch[WEIGHT] = torch.zeros_like(batch[WEIGHT])
        return super()._weighted(batch, float(share > 0.0))

    def mean_over_step(self, loss_P: Tensor, weight_P: Tensor | None) -> Tensor:
        """This micro-batch's share of the loss of its step.

        Args:
            loss_P: of each pair.
            weight_P: of each pair; None is the mean of the micro-batch.
        """
        if weight_P is None:
            return loss_P.mean()
        assert self._mass is not None
        shares = self.accelerator.num_processes * self.current_gradient_accumulation_steps
        mass = torch.where(self._mass > 0, self._mass, 1.0)
        return (weight_P * loss_P).sum() * (shares / mass)
