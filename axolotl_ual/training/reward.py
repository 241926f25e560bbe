"""Axolotl's trainer of reward models, in the order of a curriculum and with a loss of each pair.

With r the reward of a response and delta what a pair must gain beyond the others, the loss is that
of Bradley and Terry, each pair smoothed and weighted as in DPO (see `losses.preference`):

    z = r(chosen) - r(rejected) - delta
    L = -log sigma(z) + eps z + c (r(chosen) + r(rejected))^2

c is Axolotl's `center_rewards_coefficient`. A flipped label changes nothing about the last part,
and a weight is of the pair with all its parts.

Shape suffixes: P pairs, S = 2 P responses, the chosen ones first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from axolotl.core.trainers import AxolotlRewardTrainer
from torch import Tensor

from axolotl_ual.columns import MARGIN, PREFIX, SMOOTHING, STAGE, WEIGHT
from axolotl_ual.losses.encoding import decode_smoothing
from axolotl_ual.losses.preference import flip_factor, preference_loss
from axolotl_ual.training.metrics import (
    CENTERING_PART,
    PREFERENCE_PART,
    SMOOTHING_PART,
    TOKENS,
    WEIGHT_METRIC,
    Means,
)
from axolotl_ual.training.pair_weights import WeightedPairsMixin
from axolotl_ual.training.pairs import StagedPairsMixin, columns_of_pairs
from axolotl_ual.training.transitions import Scores


class UALRewardTrainer(WeightedPairsMixin, StagedPairsMixin, AxolotlRewardTrainer):
    """Reward models in the order of a curriculum, each pair smoothed by its `ual_smoothing`.

    Validation keeps the plain loss, so that its figures compare with ordinary training.

    Args:
        dataset_tags: of a model card, which Axolotl gives to every trainer that is not its own;
            that of reward models writes none.
        arguments: of Axolotl's trainer.
    """

    scores_predictions = True
    _ends_2: Tensor | None = None

    def __init__(self, *args: Any, dataset_tags: Any = None, **arguments: Any) -> None:
        super().__init__(*args, **arguments)
        self._means = Means()

    def _columns(self) -> list[str]:
        return columns_of_pairs(self.ual)

    def _pairs_loss(self, model: Any, inputs: dict[str, Any], outputs: bool, items: Any) -> Any:
        """Without TRL's gathering of rewards: in a last step processes have unequal numbers."""
        if not self.model.training:
            return super()._pairs_loss(model, inputs, outputs, items)
        given = {key: value for key, value in inputs.items() if _is_of_the_model(key)}
        found = model(**given, use_cache=False)
        loss = self._smoothed(found.logits, inputs)
        return (loss, found) if outputs else loss

    def _smoothed(self, logits_S1: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """This micro-batch's share of the loss of its step.

        Args:
            logits_S1: the rewards.
            inputs: the batch, with columns of ours; `margin` is one that TRL's collator found.
        """
        chosen_P, rejected_P = logits_S1.squeeze(-1).chunk(2)
        margin_P = chosen_P - rejected_P
        if "margin" in inputs:
            margin_P = margin_P - inputs["margin"]
        given = {
            name: decode_smoothing(inputs[name]).to(margin_P.dtype)
            for name in (SMOOTHING, MARGIN, WEIGHT)
            if name in inputs
        }
        if MARGIN in given:
            margin_P = margin_P - given[MARGIN]
        smoothing_P = given.get(SMOOTHING, torch.zeros_like(margin_P))
        factor_P = flip_factor(smoothing_P, self.ual.preference.flips)
        beta_P = torch.ones_like(margin_P)
        base_P, penalty_P = preference_loss(margin_P, factor_P, beta_P, "sigmoid")
        weight_P = given.get(WEIGHT)
        loss = self.mean_over_step(base_P + penalty_P, weight_P)
        parts = {PREFERENCE_PART: base_P, SMOOTHING_PART: penalty_P}
        coefficient = self.args.center_rewards_coefficient
        if coefficient is not None:
            square_P = (chosen_P + rejected_P) ** 2
            loss = loss + coefficient * self.mean_over_step(square_P, weight_P)
            parts[CENTERING_PART] = coefficient * square_P
        with torch.no_grad():
            self._record(parts, chosen_P, rejected_P, weight_P, inputs)
        return loss

    def _record(
        self,
        parts: Mapping[str, Tensor],
        chosen_P: Tensor,
        rejected_P: Tensor,
        weight_P: Tensor | None,
        inputs: Mapping[str, Tensor],
    ) -> None:
        gained_P, count_P = chosen_P - rejected_P, self._counted(chosen_P)
        won_P = (gained_P > 0).to(gained_P.dtype)
        for name, values_P in parts.items():
            self._means.add(name, values_P, count_P if weight_P is None else weight_P)
        if weight_P is not None:
            self._means.add(WEIGHT_METRIC, weight_P, count_P)
        self._means.add_total(TOKENS, inputs["attention_mask"].sum() * (not self._padding))
        for name, values_P in (
            ("mean_reward", (chosen_P + rejected_P) / 2),
            ("accuracy", won_P),
            ("margin", gained_P),
        ):
            self._means.add(name, values_P, count_P)
        if not self._padding:
            rewards_S = torch.cat([chosen_P, rejected_P]).to(torch.float32)
            ends_2 = torch.stack([-rewards_S.min(), rewards_S.max()])
            self._ends_2 = ends_2 if self._ends_2 is None else self._ends_2.maximum(ends_2)
        if self.curriculum is None:
            return
        for number, name in enumerate(self.curriculum.config.order):
            here_P = count_P * (inputs[STAGE] == number)
            self._means.add(f"ual/{name}/accuracy", won_P, here_P)
            self._means.add(f"ual/{name}/margin", gained_P, here_P)

    def scores(self, inputs: dict[str, Any]) -> Scores:
        """Preferences of a validation batch, without smoothing and margins."""
        given = {key: value for key, value in inputs.items() if _is_of_the_model(key)}
        chosen_P, rejected_P = self.model(**given, use_cache=False).logits.squeeze(-1).chunk(2)
        z_P = chosen_P - rejected_P
        loss_P = -torch.nn.functional.logsigmoid(z_P)
        return Scores(loss_P, torch.sigmoid(z_P.abs()), (z_P > 0).to(z_P.dtype))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what was recorded since the last entry, under TRL's names where it has them."""
        if "loss" in logs:
            logs.update(self._means.report(self._add_up))
            self._total_train_tokens += int(logs.get(TOKENS, 0))
            logs["num_tokens"] = float(self._total_train_tokens)
            logs.update(self._extremes())
        super().log(logs, start_time)

    def _extremes(self) -> dict[str, float]:
        """The least and the largest reward since the last entry, over all processes."""
        mine_2, self._ends_2 = self._ends_2, None
        if mine_2 is None:
            mine_2 = torch.full((2,), -math.inf, device=self.args.device)
        least, largest = self.accelerator.gather(mine_2[None]).amax(dim=0).tolist()
        found = {"min_reward": -least, "max_reward": largest}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def _add_up(self, tensor: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return summed


def _is_of_the_model(key: str) -> bool:
    return not key.startswith(PREFIX) and key != "margin"
