"""Makes a trainer follow a curriculum.

The whole run is one pass of the trainer over one `Plan`, so that schedulers, progress bars and
resume count the steps that there are. The epoch that is logged is rows trained on / rows of the
training set.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer

from axolotl_ual.columns import IGNORE_INDEX, PREFIX, SMOOTHING, STAGE, UNCERTAINTY, WEIGHT
from axolotl_ual.losses.heads import causal_lm
from axolotl_ual.losses.scoring import TokenScorer
from axolotl_ual.schedule.curriculum import Curriculum
from axolotl_ual.schedule.layout import Generation, PackingArguments
from axolotl_ual.schedule.plan import Plan
from axolotl_ual.schedule.staging import stage_values
from axolotl_ual.training.batches import (
    NO_STAGE,
    PlanSampler,
    StageCollator,
    as_planned,
    require_plan,
)
from axolotl_ual.training.boundaries import StagedSchedule, check_resume
from axolotl_ual.training.context import share_of
from axolotl_ual.training.metrics import (
    NLL,
    SMOOTHING_PART,
    STAGE_METRIC,
    TOKENS,
    UNCERTAINTY_METRIC,
    Means,
)
from axolotl_ual.training.transitions import Scores, TransitionTable, measure


class StagedMixin(Trainer):
    """A base to name before the trainer's own; without a curriculum it changes nothing."""

    scores_predictions = True
    curriculum: Curriculum | None = None
    plan: Plan | None = None
    data_collator: Any
    lr_scheduler: Any

    @property
    def estimates(self) -> str | None:
        """How the smoothing of stages is estimated in training; None: it is that of the data."""
        return None

    def keep_estimate(self, folder: Path) -> None:
        """Write into a checkpoint what smoothing was estimated in training."""

    def follow(self, curriculum: Curriculum) -> None:
        """Train in the order of `curriculum`."""
        self.curriculum = curriculum
        self._seen = Means()

    def get_train_dataloader(self) -> Any:
        """The dataloader over the plan, or the trainer's own."""
        if self.curriculum is None:
            return super().get_train_dataloader()
        self.curriculum.require(
            self.train_dataset,
            processes=share_of(self.accelerator).groups,
            accumulation=self.args.gradient_accumulation_steps,
            micro_batch=self._train_batch_size,
            packing=self._packing_arguments(),
            generation=self._generation(),
        )
        self.plan = self.curriculum.plan
        plain = self.data_collator
        self.data_collator = self._staged(self.curriculum, plain)
        try:
            with as_planned(self.accelerator):
                loader = super().get_train_dataloader()
        finally:
            self.data_collator = plain
        self._require_plan(loader, self.plan)
        return loader

    def _staged(self, curriculum: Curriculum, plain: Any) -> Any:
        """A collator whose batches tell the stages of their rows."""
        return StageCollator(plain, curriculum.staging, curriculum.column)

    def _require_plan(self, loader: Any, plan: Plan) -> None:
        require_plan(loader, plan)

    def _generation(self) -> Generation | None:
        """How responses are sampled, where rows are prompts."""
        return None

    def _packing_arguments(self) -> PackingArguments | None:
        args = self.args
        if not getattr(args, "sample_packing", False):
            return None
        return PackingArguments(
            sequence_len=args.max_seq_length,
            real_batches=args.multipack_real_batches,
            group_size=args.sample_packing_group_size,
            bin_size=args.sample_packing_bin_size,
            num_processes=args.dataset_num_proc,
            start_method=args.sample_packing_mp_start_method,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.plan is None:
            return super()._get_train_sampler(train_dataset)
        return PlanSampler(self.plan)

    def set_initial_training_values(self, args: Any, dataloader: Any) -> tuple[Any, ...]:
        """One epoch of the trainer is the whole run."""
        values = super().set_initial_training_values(args, dataloader)
        if self.plan is None or self.curriculum is None:
            return tuple(values)
        _, steps_per_epoch, num_examples, _, batch_size, batches, _ = values
        steps = self.curriculum.steps
        samples = self.plan.rows_until(steps)
        return (1, steps_per_epoch, num_examples, samples, batch_size, batches, steps)

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, resume: str | None, trial: Any
    ) -> Any:
        """Resume only in the order that the checkpoint was trained in."""
        if self.plan is not None and resume is not None:
            assert self.curriculum is not None
            refreshes = self.curriculum.config.refresh_reference
            check_resume(Path(resume), self.plan, refreshes, self.estimates)
        return super()._init_training_state(max_steps, steps_per_epoch, epochs, resume, trial)

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        # A stream does not know its columns.
        names = self.train_dataset.column_names or (SMOOTHING, WEIGHT)
        ours = [name for name in names if name.startswith(PREFIX)]
        self._signature_columns += [name for name in ours if name not in self._signature_columns]

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The trainer's scheduler, with the factor of each stage on its learning rates."""
        fresh = self.lr_scheduler is None
        schedule = super().create_scheduler(num_training_steps, optimizer)
        if self.curriculum is None or self.plan is None or not fresh:
            return schedule
        if any(scale != 1.0 for scale in self.curriculum.config.stage_scales()):
            self.lr_scheduler = StagedSchedule(
                schedule, optimizer or self.optimizer, self.curriculum.scale_at
            )
        return self.lr_scheduler

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step; in a last step that is not full each by its share."""
        if self.plan is not None and self.state.global_step == self.plan.num_steps - 1:
            epoch_iterator = self._shared_out(epoch_iterator)
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        for batch in batches if self.plan is not None else ():
            self._see(batch)
        return batches, num_items

    def _see(self, batch: Any) -> None:
        """Note the stages of a micro-batch, and how uncertain its rows are."""
        assert self.curriculum is not None
        stage_R = batch[STAGE]
        for number, name in enumerate(self.curriculum.config.order):
            self._seen.add_total(name, (stage_R == number).sum())
        uncertainty_R = batch.pop(UNCERTAINTY, None)
        if uncertainty_R is not None:
            known_R = (stage_R != NO_STAGE) & ~uncertainty_R.isnan()
            self._seen.add(UNCERTAINTY_METRIC, uncertainty_R.nan_to_num(), known_R)

    def _shared_out(self, batches: Iterator[Any]) -> Iterator[Any]:
        assert self.plan is not None
        processes, rank = share_of(self.accelerator)
        first = self.state.global_step * self.plan.geometry.accumulation * processes
        cells = self.plan.num_batches - first
        rows = self.plan.num_rows - self.plan.rows_until(self.state.global_step)
        for turn, batch in enumerate(batches):
            number = first + turn * processes + rank
            share = self.plan.rows_in(number) * cells / rows
            if share == 0.0:
                batch[STAGE] = torch.full_like(batch[STAGE], NO_STAGE)
            yield self._weighted(batch, share)

    def _weighted(self, batch: Any, share: float) -> Any:
        """A micro-batch whose rows count `share` times those of the others, on average.

        Losses that are sums over tokens weigh rows by themselves: only padding must not count.
        """
        if share == 0.0:
            batch["labels"] = batch["labels"].new_full(batch["labels"].shape, IGNORE_INDEX)
        return batch

    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate as the trainer does; at a boundary, write down the transition as well."""
        metrics: dict[str, float] = super().evaluate(eval_dataset, *args, **kwargs)
        if eval_dataset is None and self.is_in_train and self._at_boundary():
            metrics.update(self._transition(metrics))
        return metrics

    def _at_boundary(self) -> bool:
        if self.curriculum is None or self.plan is None:
            return False
        step = self.state.global_step
        ends = step in (0, *self.plan.boundaries, self.state.max_steps)
        return self.curriculum.config.evaluate_at_boundary and ends

    def _transition(self, metrics: dict[str, float]) -> dict[str, float]:
        """Measure the validation set by stage, log it, and add it to the table."""
        assert self.curriculum is not None and self.plan is not None
        curriculum, step = self.curriculum, self.state.global_step
        found: dict[str, float] = {}
        if self.scores_predictions:
            stages_N = None
            if curriculum.column in self.eval_dataset.column_names:
                values = stage_values(self.eval_dataset, curriculum.column)
                stages_N = curriculum.staging.number(values)
            found = measure(self, self.eval_dataset, stages_N, curriculum.config.order)
            self.log(dict(found))
        if self.state.is_world_process_zero:
            table = TransitionTable(self.args.output_dir, curriculum.config.order)
            phase = curriculum.phases[self.plan.phase_at(max(step - 1, 0))]
            at = f"after {phase.name}" if step else "start"
            table.add(step, at, {**metrics, **found})
        return found

    def scores(self, inputs: dict[str, Any]) -> Scores:
        """Predictions of a validation batch: next tokens, where the labels ask for them."""
        statistics_XBT, asked_BT = self._statistics(inputs)
        logp_M, best_M, hit_M, _ = statistics_XBT[:, asked_BT]
        return Scores(-logp_M, best_M.exp(), hit_M)

    def _statistics(self, inputs: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Statistics of each token's prediction (see `TokenScorer`), and where labels ask for it.

        Returns:
            (4, B, T), and bool of (B, T).
        """
        inputs = dict(inputs)
        labels_BT = inputs.pop("labels")
        with self._scorer.installed():
            outputs = self.model(
                **inputs, ual_labels=labels_BT, ual_statistics=True, use_cache=False
            )
        asked_BT = labels_BT != IGNORE_INDEX
        asked_BT[:, 0] = False
        return outputs.logits, asked_BT

    @cached_property
    def _scorer(self) -> TokenScorer:
        return TokenScorer(causal_lm(self.accelerator.unwrap_model(self.model)))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log the stage beside the loss, and once more under the stage's own name."""
        if self.plan is not None and "loss" in logs:
            logs.update(self._stage_metrics(logs))
        super().log(logs, start_time)

    def _stage_metrics(self, logs: dict[str, float]) -> dict[str, float]:
        """The latest stage, counted from 1, that rows since the last entry were in."""
        assert self.curriculum is not None
        order = self.curriculum.config.order
        found = self._seen.report(lambda tensor: self.accelerator.reduce(tensor, reduction="sum"))
        trained = [number for number, name in enumerate(order) if found.pop(name, 0.0)]
        if not trained:
            return {}
        metrics = {STAGE_METRIC: float(trained[-1] + 1), **found}
        for key in ("loss", NLL, SMOOTHING_PART, TOKENS, UNCERTAINTY_METRIC):
            value = {**logs, **metrics}.get(key)
            if value is not None:
                metrics[f"ual/{order[trained[-1]]}/{key.rpartition('/')[2]}"] = value
        return metrics
