"""Quantities of training between two log entries, over all processes, and what they are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

NLL: Final = "loss/nll"
SMOOTHING_PART: Final = "loss/smoothing"
POLICY_WEIGHT: Final = "ual/policy_weight"
"""Mean weight of a pair by WPO."""
PREFERENCE_PART: Final = "loss/preference"
CENTERING_PART: Final = "loss/centering"
"""What holds the rewards of a pair to a sum of 0, of `center_rewards_coefficient`."""
TOKEN_WEIGHTED: Final = "loss/token_weighted"
"""Negative log-likelihood where each token counts by `ual.loss.token_weight` as well."""
ANCHOR_PART: Final = "loss/anchor"
WEIGHT_METRIC: Final = "ual/weight"
"""Weight of the data, a trained token or pair."""
TOKEN_WEIGHT_METRIC: Final = "ual/token_weight"
"""Weight by the model's prediction, a trained token."""
KL: Final = "ual/reference_kl"
"""KL divergence of the model's prediction from the reference's, in nats a smoothed token; with an
anchor a trained one."""
ENTROPY: Final = "ual/reference_entropy"
"""Entropy of the reference's prediction, in nats of the same tokens."""
REFERENCE_STEP: Final = "ual/reference_step"
"""Steps that the reference of the latest step had been trained for."""
REESTIMATED_MEAN: Final = "ual/reestimated_smoothing"
REESTIMATED_MAX: Final = "ual/reestimated_smoothing_max"
"""Mean and largest smoothing over the training set as the model in training estimates it."""
REESTIMATED_STAGE: Final = "ual/reestimated_stage_smoothing"
"""The mean over the rows of the stage that begins."""
REESTIMATED_CORRELATION: Final = "ual/reestimated_rank_correlation"
"""Spearman's, of the uncertainties with those before."""
TOKENS: Final = "ual/tokens"
STAGE_METRIC: Final = "ual/stage"
UNCERTAINTY_METRIC: Final = "ual/uncertainty"


class Means:
    """Sums quantities on the device; nothing is read back before `report`.

    Every process must add the same names between two reports, with zero weights where it has
    nothing, because `report` adds the sums up over all of them at once.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._totals: dict[str, Tensor] = {}

    def add(self, name: str, values_P: Tensor, weights_P: Tensor) -> None:
        """Add values to a weighted mean."""
        weights_P = weights_P.detach().to(torch.float32)
        self.add_sum(name, (values_P.detach() * weights_P).sum(), weights_P.sum())

    def add_sum(self, name: str, weighted: Tensor, weight: Tensor) -> None:
        """Add to a weighted mean: a sum of values times weights, and the sum of the weights."""
        sums = torch.stack([part.detach().to(torch.float32) for part in (weighted, weight)])
        self._sums[name] = self._sums[name] + sums if name in self._sums else sums

    def add_total(self, name: str, amount: Tensor) -> None:
        """Add to a sum."""
        amount = amount.detach().to(torch.float32)
        self._totals[name] = self._totals[name] + amount if name in self._totals else amount

    def report(self, add_up: Callable[[Tensor], Tensor]) -> dict[str, float]:
        """Means and sums since the last report, which are then forgotten.

        Args:
            add_up: sums a tensor over all processes; called by all of them.

        Returns:
            No mean for a name whose weights are all zero.
        """
        names, totals = list(self._sums), list(self._totals)
        if not names and not totals:
            return {}
        flat = torch.cat([*self._sums.values(), *(t[None] for t in self._totals.values())])
        self._sums, self._totals = {}, {}
        values = add_up(flat).tolist()
        means = {
            name: values[2 * place] / values[2 * place + 1]
            for place, name in enumerate(names)
            if values[2 * place + 1]
        }
        return {**means, **dict(zip(totals, values[2 * len(names) :], strict=True))}
