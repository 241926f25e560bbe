"""Axolotl's trainer with the smoothed cross entropy.

A micro-batch m on process r has the mean negative log-likelihood nll_rm and the margin sum
margin_rm over its n_rm trained tokens (or sum of weights). With n that of all micro-batches of the
step on all W processes, the loss of the step is

    tokens:       sum_rm (n_rm nll_rm + margin_rm) / n
    micro_batch:  mean_rm (nll_rm + margin_rm / n_rm)

Trainer and engines divide by the number G of micro-batches and by W whatever the loss is, so with
`tokens` each micro-batch's share is multiplied by both. One process, one micro-batch and no
smoothing leave nll itself, bit for bit.

Processes that share rows (`context`) count each token of them in equal shares. With context
parallelism each has the sums of its own part. With tensor parallelism each has the sums of all, and
W is the number of groups that have rows of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from axolotl.core.trainers.base import AxolotlTrainer
from torch import Tensor, nn

from axolotl_ual.columns import IGNORE_INDEX, PREFIX, SMOOTHING, STAGE, WEIGHT
from axolotl_ual.data.collator import SmoothingCollator
from axolotl_ual.errors import AnnotationError, DataError, UnsupportedError
from axolotl_ual.losses.encoding import decode_smoothing
from axolotl_ual.losses.heads import causal_lm
from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.rule import Kernel, Rule, Weights
from axolotl_ual.losses.token_weights import Entropy
from axolotl_ual.settings.eaft import asks_for_eaft, eaft_of
from axolotl_ual.settings.ual import UALConfig, parse_ual
from axolotl_ual.training.context import aligned, context_size, tensor_size
from axolotl_ual.training.metrics import (
    ANCHOR_PART,
    ENTROPY,
    KL,
    NLL,
    SMOOTHING_PART,
    TOKEN_WEIGHT_METRIC,
    TOKEN_WEIGHTED,
    TOKENS,
    WEIGHT_METRIC,
    Means,
)
from axolotl_ual.training.reestimated import ReestimatedMixin
from axolotl_ual.training.reference import make_reference

_KERNELS = (
    "chunked_cross_entropy",
    "cut_cross_entropy",
    "liger_cross_entropy",
    "liger_fused_linear_cross_entropy",
)
"""Keys of a recipe that choose how the model computes its cross entropy."""


class UALTrainer(ReestimatedMixin, AxolotlTrainer):
    """Axolotl's SFT trainer; each sample's loss is smoothed by its `ual_smoothing`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        for name, keep in (("data_collator", True), ("eval_data_collator", False)):
            if kwargs.get(name) is not None:
                kwargs[name] = SmoothingCollator(kwargs[name], keep=keep)
        # Axolotl hands `use_eaft` over as this; it is part of the loss in the model's forward.
        kwargs.pop("compute_loss_func", None)
        super().__init__(*args, **kwargs)
        self._check_arguments()
        self._means = Means()
        self._objective: SmoothedObjective | None = None
        self._num_items: Tensor | None = None

    def _check_arguments(self) -> None:
        if self.args.label_smoothing_factor:
            raise UnsupportedError(
                f"label_smoothing_factor: {self.args.label_smoothing_factor}: one smoothing for "
                "all samples, on top of each sample's own",
                "set it to 0, and `ual.smoothing.mean` to what you want on average",
            )
        if 1 < self._copies < self.accelerator.num_processes:
            raise UnsupportedError(
                f"tensor_parallel_size: {self._copies}: with {self.accelerator.num_processes} "
                "processes there are groups of them with rows of their own, whose gradients FSDP "
                "alone would add up, beside which Axolotl does not start",
                "train with as many processes, or set it to 1, with FSDP2 or ZeRO-3",
            )
        if self.args.n_gpu > 1:
            raise UnsupportedError(
                f"{self.args.n_gpu} GPUs in one process: the loss of replicas cannot be smoothed",
                "launch one process a GPU: `axolotl train` does so by default, or with "
                "`--launcher torchrun`",
            )

    @cached_property
    def ual(self) -> UALConfig:
        """The recipe's `ual:` block."""
        return parse_ual(self.axolotl_cfg.ual)

    @property
    def objective(self) -> SmoothedObjective:
        """The smoothed loss, bound to the model."""
        if self._objective is None:
            smoothing, model = self.ual.smoothing, causal_lm(self.model)
            num_rows = _num_classes(self.processing_class)
            anchor, reference = self.ual.loss.anchor, None
            prior = smoothing.prior == "reference" and smoothing.reference_top_k is None
            if prior or anchor is not None:
                named = smoothing.reference or (None if anchor is None else anchor.reference)
                reference = partial(
                    make_reference, model=model, path=named, num_rows=num_rows, args=self.args
                )
            self._objective = SmoothedObjective(
                model,
                self._kernel(),
                num_rows,
                reference,
                smoothing.reference_temperature,
                self._rule,
            )
        return self._objective

    @property
    def _rule(self) -> Rule:
        return rule_of(self.ual, self.axolotl_cfg)

    def _kernel(self) -> Kernel:
        """`auto` leaves the model's loss alone where the recipe chose a kernel for it.

        Where processes share rows it is a mean over one part of them, which is of no use.
        """
        if self._parts > 1:
            return "chunked"
        chosen = [key for key in _KERNELS if self.axolotl_cfg.get(key)]
        if chosen and self.ual.loss.kernel == "auto" and self._rule.plain:
            return "model"
        return self.ual.loss.kernel

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train with the smoothed loss in the model's forward.

        Raises:
            AnnotationError: the training data carry no smoothing. Evaluation needs none.
        """
        # A stream does not know its columns; a batch without the smoothing stops the training.
        if SMOOTHING not in (self.train_dataset.column_names or (SMOOTHING,)):
            raise AnnotationError(
                f"the training data have no column `{SMOOTHING}`: another plugin loaded them",
                "take that plugin out of `plugins:`",
            )
        # The loss is this micro-batch's share of its step already. Where a trainer believes that
        # the model divides by the tokens of the step, it leaves the division by G and W out.
        self.model_accepts_loss_kwargs = False
        with self.objective.installed():
            return super().train(*args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """The trainer's own sampler, which may read how the collator that ours wraps pads."""
        wrapping = self.data_collator
        self.data_collator = wrapping.base
        try:
            return super()._get_train_sampler(train_dataset)
        finally:
            self.data_collator = wrapping

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step, whose trained tokens are counted over all processes."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches:
            counts = torch.stack([self._share(_mass(batch)) for batch in batches])
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
        inputs = {key: value for key, value in inputs.items() if key != STAGE}
        if model.training:
            missing = next((name for name in self._columns() if name not in inputs), None)
            if missing is not None:
                raise DataError(f"a training batch has no `{missing}`: its collator dropped it")
            self.objective.weights = self._weights(self._share(_mass(inputs)))
            tokens = self._share(_num_trained(inputs["labels"]))
            if self._parts > 1:
                inputs = aligned(inputs, self._parts)
        else:
            inputs = {key: value for key, value in inputs.items() if not key.startswith(PREFIX)}
        result = super().compute_loss(
            model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
        )
        if model.training and self.objective.parts is not None:
            self._record(self.objective, tokens)
        return result

    @property
    def _parts(self) -> int:
        return context_size(self.accelerator)

    @property
    def _copies(self) -> int:
        return tensor_size(self.accelerator)

    def _share(self, mass: Tensor) -> Tensor:
        """What of rows' mass this process counts, where others have the same rows."""
        return mass if self._parts == 1 else mass / self._parts

    def _columns(self) -> Iterator[str]:
        """Columns of ours that a training batch must have."""
        yield SMOOTHING
        if self.ual.loss.weight is not None:
            yield WEIGHT

    def _record(self, objective: SmoothedObjective, tokens: Tensor) -> None:
        """Note the parts of a micro-batch's loss."""
        assert objective.parts is not None
        nll, margin, mass = objective.parts
        self._means.add_sum(NLL, nll, mass)
        self._means.add_sum(SMOOTHING_PART, margin, mass)
        self._means.add_total(TOKENS, tokens)
        if self.ual.loss.weight is not None:
            self._means.add_sum(WEIGHT_METRIC, mass, tokens)
        if objective.weighted is not None:
            weighted, own, kl = objective.weighted
            if objective.rule.token != "none":
                self._means.add_sum(TOKEN_WEIGHTED, weighted, mass)
                self._means.add_sum(TOKEN_WEIGHT_METRIC, own, mass)
            if objective.rule.anchor:
                self._means.add_sum(ANCHOR_PART, kl * objective.rule.anchor, mass)
        if objective.prior is not None:
            kl, entropy, number = objective.prior
            self._means.add_sum(KL, kl, number)
            self._means.add_sum(ENTROPY, entropy, number)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the two parts of the loss beside it, and what the reference says."""
        if "loss" in logs:
            logs.update(self._means.report(self._add_up))
        super().log(logs, start_time)

    def _weights(self, mass: Tensor) -> Weights:
        mass = mass.to(torch.float32)
        if self.ual.loss.normalization == "micro_batch":
            return Weights((mass > 0).to(torch.float32), 1.0 / _or_one(mass), mass)
        items = _or_one(mass if self._num_items is None else self._num_items.to(torch.float32))
        groups = self.accelerator.num_processes // self._copies
        shares = groups * self.current_gradient_accumulation_steps
        return Weights(mass / items * shares, shares / items, mass)

    def _add_up(self, tensor: Tensor) -> Tensor:
        """The sum over processes, those that have the same being one."""
        summed: Tensor = self.accelerator.reduce(tensor, reduction="sum")
        return summed if self._copies == 1 else summed / self._copies


def _num_trained(labels_BT: Tensor) -> Tensor:
    """Tokens that are trained on: the first one of each row is predicted by nothing."""
    return (labels_BT[..., 1:] != IGNORE_INDEX).sum()


def _mass(batch: Mapping[str, Any]) -> Tensor:
    """The sum of the weights of the tokens that are trained on, or their number."""
    if WEIGHT not in batch:
        return _num_trained(batch["labels"])
    trained_BT = batch["labels"][..., 1:] != IGNORE_INDEX
    return torch.where(trained_BT, decode_smoothing(batch[WEIGHT][..., 1:]), 0.0).sum()


def _or_one(mass: Tensor) -> Tensor:
    """A divisor: where nothing counts, the sums are 0."""
    return torch.where(mass > 0, mass, 1.0)


def rule_of(ual: UALConfig, recipe: Mapping[str, Any]) -> Rule:
    """What a recipe with this `ual:` block has tokens count."""
    rule = Rule(
        weighted=ual.loss.weight is not None,
        token=ual.loss.token_weight,
        anchor=0.0 if ual.loss.anchor is None else ual.loss.anchor.weight,
        prior=ual.smoothing.prior == "reference",
    )
    if not asks_for_eaft(recipe):
        return rule
    tokens, power = eaft_of(recipe)
    return replace(rule, token="entropy", entropy=Entropy(tokens, power, normalized=False))


def _num_classes(tokenizer: Any) -> int | None:
    """Rows of the head that a token has: what is beyond them pads the vocabulary."""
    get_vocab = getattr(tokenizer, "get_vocab", None)
    return max(get_vocab().values(), default=0) + 1 if callable(get_vocab) else None
