"""Axolotl's trainer with the smoothed cross entropy.

A micro-batch m on process r has the mean negative log-likelihood nll_rm and the margin sum
margin_rm over its n_rm trained tokens. With n the trained tokens of all micro-batches of the step
on all W processes, the loss of the step is

    tokens:       sum_rm (n_rm nll_rm + margin_rm) / n
    micro_batch:  mean_rm (nll_rm + margin_rm / n_rm)

Trainer and engines divide by the number G of micro-batches and by W whatever the loss is, so with
`tokens` each micro-batch's share is multiplied by both. One process, one micro-batch and no
smoothing leave nll itself, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import torch
from axolotl.core.trainers.base import AxolotlTrainer
from torch import Tensor, nn

from axolotl_ual.collator import SmoothingCollator
from axolotl_ual.columns import SMOOTHING
from axolotl_ual.config import UALConfig, parse_ual
from axolotl_ual.errors import AnnotationError, UnsupportedError
from axolotl_ual.losses.objective import SmoothedObjective, Weights
from axolotl_ual.losses.smoothed_ce import IGNORE_INDEX
from axolotl_ual.metrics import LossParts
from axolotl_ual.staged import StagedMixin


class UALTrainer(StagedMixin, AxolotlTrainer):  # type: ignore[misc]
    """Axolotl's SFT trainer; each sample's loss is smoothed by its `ual_smoothing`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name, keep in (("data_collator", True), ("eval_data_collator", False)):
            if kwargs.get(name) is not None:
                kwargs[name] = SmoothingCollator(kwargs[name], keep=keep)
        super().__init__(*args, **kwargs)
        self._check_arguments()
        self.loss_parts = LossParts()
        self.objective = SmoothedObjective(_causal_lm(self.model))
        self._num_items: Tensor | None = None

    def _check_arguments(self) -> None:
        if self.args.label_smoothing_factor:
            raise UnsupportedError(
                f"label_smoothing_factor: {self.args.label_smoothing_factor}: one smoothing for "
                "all samples, on top of each sample's own",
                "set it to 0, and `ual.smoothing.mean` to what you want on average",
            )
        if self.args.n_gpu > 1:
            raise UnsupportedError(
                f"{self.args.n_gpu} GPUs in one process: the loss of replicas cannot be smoothed",
                "launch one process a GPU: `axolotl train` does so by default, or with "
                "`--launcher torchrun`",
            )
        if SMOOTHING not in self.train_dataset.column_names:
            raise AnnotationError(
                f"the training data have no column `{SMOOTHING}`: another plugin loaded them",
                "take that plugin out of `plugins:`",
            )

    @cached_property
    def ual(self) -> UALConfig:
        """The recipe's `ual:` block."""
        return parse_ual(self.axolotl_cfg.ual)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train with the smoothed loss in the model's forward."""
        with self.objective.installed():
            return super().train(*args, **kwargs)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, whose trained tokens are counted over all processes."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            counts = torch.stack([_num_trained(batch["labels"]) for batch in batches])
            self._num_items = self._add_up(counts.sum().to(device))
        return batches, num_items

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The smoothed loss in training, the plain one in evaluation."""
        training = model.training and SMOOTHING in inputs
        if not training:
            inputs = {key: value for key, value in inputs.items() if key != SMOOTHING}
        else:
            self.objective.weights = self._weights(_num_trained(inputs["labels"]))
        result = super().compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if training and self.objective.parts is not None:
            self.loss_parts.add(*self.objective.parts)
        return result

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the two parts of the loss beside it."""
        if "loss" in logs:
            logs.update(self.loss_parts.report(self._add_up))
        super().log(logs, start_time)

    def _weights(self, num_tokens: Tensor) -> Weights:
        tokens = num_tokens.to(torch.float32)
        if self.ual.loss.normalization == "micro_batch":
            present = (tokens > 0).to(torch.float32)
            return Weights(present, 1.0 / tokens.clamp(min=1.0), tokens)
        total = self._num_items if self._num_items is not None else num_tokens
        items = total.to(torch.float32).clamp(min=1.0)
        shares = self.accelerator.num_processes * self.current_gradient_accumulation_steps
        return Weights(tokens / items * shares, shares / items, tokens)

    def _add_up(self, tensor: Tensor) -> Tensor:
        summed: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return summed

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if SMOOTHING not in self._signature_columns:
            self._signature_columns.append(SMOOTHING)


def _num_trained(labels_BT: Tensor) -> Tensor:
    """Tokens that are trained on: the first one of each row is predicted by nothing."""
    return (labels_BT[..., 1:] != IGNORE_INDEX).sum()


def _causal_lm(model: Any) -> Any:
    """The causal language model inside an adapter."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model
