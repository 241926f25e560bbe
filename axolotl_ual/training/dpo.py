"""Axolotl's preference trainers, in the order of a curriculum and with a loss of each pair."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from accelerate.utils import is_peft_model
from axolotl.core.trainers import AxolotlCPOTrainer, AxolotlKTOTrainer, AxolotlORPOTrainer
from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer
from torch import Tensor, nn
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer.utils import use_adapter

from axolotl_ual.columns import IGNORE_INDEX, MARGIN, SMOOTHING, STAGE, WEIGHT
from axolotl_ual.errors import UnsupportedError
from axolotl_ual.losses.encoding import decode_smoothing
from axolotl_ual.losses.heads import causal_lm
from axolotl_ual.losses.preference import (
    PreferenceKind,
    flip_factor,
    pair_margin,
    policy_weight,
    preference_loss,
)
from axolotl_ual.losses.scoring import TokenScorer
from axolotl_ual.training.metrics import (
    POLICY_WEIGHT,
    PREFERENCE_PART,
    SMOOTHING_PART,
    TOKENS,
    WEIGHT_METRIC,
    Means,
)
from axolotl_ual.training.pair_weights import WeightedPairsMixin
from axolotl_ual.training.pairs import StagedPairsMixin, columns_of_pairs
from axolotl_ual.training.refreshed import RefreshedMixin
from axolotl_ual.training.transitions import Scores

_WITHOUT_EFFECT: dict[str, Any] = {
    "f_divergence_type": "reverse_kl",
    "label_smoothing": 0.0,
    "ld_alpha": None,
    "loss_weights": None,
    "padding_free": False,
    "use_liger_kernel": False,
    "use_weighting": False,
}
"""Arguments of TRL's trainer that the loss here does not read, and the value that asks nothing."""


class UALORPOTrainer(StagedPairsMixin, AxolotlORPOTrainer):
    """ORPO in the order of a curriculum."""


class UALCPOTrainer(StagedPairsMixin, AxolotlCPOTrainer):
    """SimPO and CPO in the order of a curriculum."""


class UALKTOTrainer(StagedPairsMixin, AxolotlKTOTrainer):
    """KTO in the order of a curriculum."""


class UALDPOTrainer(WeightedPairsMixin, RefreshedMixin, StagedPairsMixin, AxolotlDPOTrainer):
    """DPO and IPO in the order of a curriculum, each pair smoothed by its `ual_smoothing`.

    Log-probabilities come from hidden states and the head in chunks. Validation keeps the plain
    loss, so that its figures compare with ordinary DPO.
    """

    scores_predictions = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._scorers: dict[int, TokenScorer] = {}
        self._installed = ExitStack()
        self._means = {"train": Means(), "eval": Means()}
        super().__init__(*args, **kwargs)
        self._check_arguments()
        # Before an engine wraps the model: what it does to the forward then covers the scores.
        self._install(self.model)

    def _check_arguments(self) -> None:
        """The recipe is checked before; this is for whoever makes the trainer by hand."""
        if list(self.loss_types) not in (["sigmoid"], ["ipo"]):
            raise UnsupportedError(
                f"loss_type: {self.loss_types}: pairs are smoothed in the sigmoid and the IPO loss",
                "set `loss_type: [sigmoid]` or `[ipo]`, or train with TRL's own trainer",
            )
        for name, neutral in _WITHOUT_EFFECT.items():
            value = getattr(self.args, name, neutral)
            if getattr(value, "value", value) != neutral:
                raise UnsupportedError(
                    f"{name}: {value}: has no effect on the loss of this trainer",
                    f"leave `{name}` at {neutral}, or train with TRL's own trainer",
                )

    def _install(self, model: Any) -> None:
        inner = causal_lm(self.accelerator.unwrap_model(model))
        if id(inner) in self._scorers:
            return
        scorer = TokenScorer(inner, self.ual.preference.chunk_tokens)
        if is_deepspeed_zero3_enabled() and not isinstance(scorer.head.module, nn.Linear):
            raise UnsupportedError(
                "deepspeed: ZeRO-3 with an adapter on the head: its shards cannot be gathered for "
                "chunks of tokens",
                "leave `lm_head` out of the adapter, or use ZeRO-2",
            )
        self._installed.enter_context(scorer.installed())
        self._scorers[id(inner)] = scorer

    def _columns(self) -> list[str]:
        return columns_of_pairs(self.ual)

    @property
    def kind(self) -> PreferenceKind:
        """The loss of a pair."""
        return "ipo" if list(self.loss_types) == ["ipo"] else "sigmoid"

    def _sums(self, model: Any, inputs: Mapping[str, Any], **further: Any) -> tuple[Tensor, Any]:
        """Log-probability of each completion, shape (2P,), chosen first; and the outputs.

        With `ual_aligned=True` the outputs' logits hold what `policy_weight` takes.
        """
        self._install(model)
        labels = inputs["input_ids"].masked_fill(inputs["completion_mask"] == 0, IGNORE_INDEX)
        given = {
            key: value
            for key, value in inputs.items()
            if key not in ("completion_mask", "ref_chosen_logps", "ref_rejected_logps")
        }
        outputs = model(**given, **further, ual_labels=labels, use_cache=False)
        logprobs_ST = outputs.logits[0] if further.get("ual_aligned") else outputs.logits
        return logprobs_ST.sum(dim=-1), outputs

    def compute_ref_log_probs(self, model: Any, inputs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Log-probabilities under the reference.

        It is another model, this one without its adapter, or this one as a stage left it.
        """
        quiet = disable_gradient_checkpointing(self.model, self.args.gradient_checkpointing_kwargs)
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(quiet)
            stack.enter_context(self.accelerator.autocast())
            if self._uses_frozen:
                stack.enter_context(self.frozen.in_place())
            elif self.ref_model is None and is_peft_model(self.model):
                inner = self.accelerator.unwrap_model(self.model)
                name = "ref" if "ref" in inner.peft_config else None
                stack.enter_context(use_adapter(inner, adapter_name=name))
            sums_S, _ = self._sums(model, inputs)
        chosen_P, rejected_P = sums_S.chunk(2)
        return chosen_P, rejected_P

    def _reference(self, inputs: Mapping[str, Any]) -> Tensor:
        if self._uses_frozen:
            return torch.cat(self.compute_ref_log_probs(self.model, inputs))
        if "ref_chosen_logps" in inputs:
            return torch.cat([inputs["ref_chosen_logps"], inputs["ref_rejected_logps"]])
        return torch.cat(self.compute_ref_log_probs(self.ref_model or self.model, inputs))

    def _pairs_loss(self, model: Any, inputs: dict[str, Any], outputs: bool, items: Any) -> Any:
        bits_P, stage_P = inputs.pop(SMOOTHING, None), inputs.pop(STAGE, None)
        target_P, given_P = inputs.pop(MARGIN, None), inputs.pop(WEIGHT, None)
        weighted = self.model.training and self.ual.preference.weighting == "wpo"
        further = {"ual_aligned": True} if weighted else {}
        if self.aux_loss_enabled:
            further["output_router_logits"] = True
        reference_S = self._reference(inputs)
        sums_S, model_outputs = self._sums(model, inputs, **further)
        ratio_S = sums_S - reference_S
        lengths_S = inputs["completion_mask"].sum(dim=1)
        margin_P = pair_margin(ratio_S, lengths_S, self.kind)
        beta_P = self._beta(margin_P, stage_P)
        if target_P is not None:
            margin_P = margin_P - decode_smoothing(target_P) / beta_P
        smoothing_P = torch.zeros_like(margin_P)
        if bits_P is not None:
            smoothing_P = decode_smoothing(bits_P).to(margin_P.dtype)
        factor_P = flip_factor(smoothing_P, self.ual.preference.flips)
        base_P, penalty_P = preference_loss(margin_P, factor_P, beta_P, self.kind)
        if weighted:
            logprobs_ST, collisions_ST = model_outputs.logits
            weight_P = policy_weight(logprobs_ST, collisions_ST, lengths_S)
            base_P, penalty_P = base_P * weight_P, penalty_P * weight_P
            self._means["train"].add(POLICY_WEIGHT, weight_P, self._counted(weight_P))
        if given_P is not None:
            given_P = decode_smoothing(given_P).to(base_P.dtype)
        loss = self.mean_over_step(base_P + penalty_P, given_P)
        if self.aux_loss_enabled:
            loss = loss + self.router_aux_loss_coef * model_outputs.aux_loss
        with torch.no_grad():
            self._record(base_P, penalty_P, beta_P, sums_S, ratio_S, stage_P, inputs, given_P)
        return (loss, model_outputs) if outputs else loss

    def scores(self, inputs: dict[str, Any]) -> Scores:
        """Preferences of a validation batch, with the recipe's beta and no smoothing."""
        sums_S, _ = self._sums(self.model, inputs)
        ratio_S = sums_S - self._reference(inputs)
        margin_P = pair_margin(ratio_S, inputs["completion_mask"].sum(dim=1), self.kind)
        beta_P = torch.full_like(margin_P, self.beta)
        loss_P, _ = preference_loss(margin_P, torch.zeros_like(margin_P), beta_P, self.kind)
        z_P = beta_P * pair_margin(ratio_S, torch.ones_like(ratio_S), "sigmoid")
        return Scores(loss_P, torch.sigmoid(z_P.abs()), (z_P > 0).to(z_P.dtype))

    def _beta(self, margin_P: Tensor, stage_P: Tensor | None) -> Tensor:
        """Each pair's own: that of its stage, or the recipe's."""
        if stage_P is None or self.ual.preference.beta is None:
            return torch.full_like(margin_P, self.beta)
        return margin_P.new_tensor(self.ual.preference.beta)[stage_P.clamp(min=0)]

    def _record(
        self,
        base_P: Tensor,
        penalty_P: Tensor,
        beta_P: Tensor,
        sums_S: Tensor,
        ratio_S: Tensor,
        stage_P: Tensor | None,
        inputs: Mapping[str, Any],
        given_P: Tensor | None,
    ) -> None:
        means = self._means["train" if self.model.training else "eval"]
        chosen_P, rejected_P = (ratio_S * beta_P.repeat(2)).chunk(2)
        won_P, margin_P = (chosen_P > rejected_P).to(base_P.dtype), chosen_P - rejected_P
        chosen_logps_P, rejected_logps_P = sums_S.chunk(2)
        count_P = self._counted(base_P)
        weight_P = count_P if given_P is None else given_P
        means.add(PREFERENCE_PART, base_P, weight_P)
        means.add(SMOOTHING_PART, penalty_P, weight_P)
        if given_P is not None:
            means.add(WEIGHT_METRIC, given_P, count_P)
        for name, values_P in (
            ("rewards/chosen", chosen_P),
            ("rewards/rejected", rejected_P),
            ("rewards/accuracies", won_P),
            ("rewards/margins", margin_P),
            ("logps/chosen", chosen_logps_P),
            ("logps/rejected", rejected_logps_P),
        ):
            means.add(name, values_P, count_P)
        means.add_total(TOKENS, inputs["attention_mask"].sum() * (not self._padding))
        if self.curriculum is None or stage_P is None:
            return
        for number, name in enumerate(self.curriculum.config.order):
            here_P = count_P * (stage_P == number)
            means.add(f"ual/{name}/accuracy", won_P, here_P)
            means.add(f"ual/{name}/margin", margin_P, here_P)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log what was recorded since the last entry of the same kind."""
        mode = "train" if "loss" in logs else "eval"
        if mode == "train" or any(key.startswith("eval_") for key in logs):
            found = self._means[mode].report(
                lambda tensor: self.accelerator.reduce(tensor, reduction="sum")
            )
            logs.update({key if mode == "train" else f"eval_{key}": v for key, v in found.items()})
        super().log(logs, start_time)
