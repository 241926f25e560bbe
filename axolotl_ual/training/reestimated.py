"""Smoothing of the later stages by the model that trains on them.

Before the first step of each stage but the first, every row of the training set is scored by the
model as it is, in evaluation mode:

    perplexity:  mean over its trained tokens of -log p(y_t)
    entropy:     mean over its trained tokens of -sum_v p_t(v) log p_t(v)       nats a token

Scores become uncertainties and these smoothing as in annotating (`labels`), solved over all rows,
so that the mean stays `ual.smoothing.mean`. Rows are trained on with it from that step on. Which
stage a row is in, and the order, stay those of the plan. A row without a finite score gets the
mean.

Rows are scored each by itself, packed or not. A batch has the same rows however many processes
share the batches out, so that scores do not depend on their number. Nothing is drawn at random.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from axolotl.utils.logging import get_logger
from torch import Tensor
from transformers import DataCollatorForSeq2Seq

from axolotl_ual.columns import IGNORE_INDEX, PLACE, ROW, SMOOTHING, UNCERTAINTY
from axolotl_ual.data.tables import smoothing_values
from axolotl_ual.errors import ConfigError
from axolotl_ual.labels.ranks import MAPPINGS, average_ranks
from axolotl_ual.labels.smoothing import solve_smoothing
from axolotl_ual.losses.encoding import encode_smoothing
from axolotl_ual.schedule.plan import Plan
from axolotl_ual.settings.reestimate_rules import Estimate, estimate_of
from axolotl_ual.settings.ual import SmoothingConfig, parse_ual
from axolotl_ual.training.metrics import (
    REESTIMATED_CORRELATION,
    REESTIMATED_MAX,
    REESTIMATED_MEAN,
    REESTIMATED_STAGE,
)
from axolotl_ual.training.staged import StagedMixin

LOG = get_logger(__name__)

ESTIMATE_FILE: Final = "ual_reestimated.safetensors"
"""In each checkpoint after the first boundary: float32 `uncertainty` and `smoothing`, by row."""
_READ: Final = ("input_ids", "attention_mask", "token_type_ids", "labels")

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Smoothed:
    """Uncertainty and smoothing of each row of the training set.

    Attributes:
        uncertainty_N: float32 in [0, 1], NaN where it is not known.
        smoothing_N: float32 in [0, smoothing.max].
    """

    uncertainty_N: npt.NDArray[np.float32]
    smoothing_N: npt.NDArray[np.float32]

    @classmethod
    def solve(cls, scores_N: Numbers, mapping: str, settings: SmoothingConfig) -> Smoothed:
        """Map scores, NaN where there is none, to uncertainties and these to smoothing."""
        uncertainty_N = MAPPINGS[mapping](scores_N)
        decreasing = settings.direction == "decreasing"
        found = solve_smoothing(uncertainty_N, settings.mean, settings.max, decreasing)
        smoothing_N = np.nan_to_num(found(uncertainty_N), nan=settings.mean)
        return cls(uncertainty_N, smoothing_N.astype(np.float32))

    def replace(self, batch: Any, row_R: Tensor, place_BT: Tensor) -> None:
        """Put smoothing and uncertainties of a batch's rows in the place of those it has.

        Args:
            batch: with `labels`.
            row_R: number in the training set of each of its rows.
            place_BT: which of these a token is of, negative for padding.
        """
        labels_BT, rows = batch["labels"], row_R.cpu().numpy()
        bits_R = encode_smoothing(torch.from_numpy(self.smoothing_N[rows])).to(labels_BT.device)
        trained_BT = labels_BT != IGNORE_INDEX
        batch[SMOOTHING] = torch.where(trained_BT, bits_R[place_BT.clamp(min=0)], 0)
        batch[UNCERTAINTY] = torch.from_numpy(self.uncertainty_N[rows]).to(labels_BT.device)

    def save(self, folder: Path) -> None:
        """Write into a checkpoint."""
        from safetensors.numpy import save_file

        folder.mkdir(parents=True, exist_ok=True)
        tensors = {"uncertainty": self.uncertainty_N, "smoothing": self.smoothing_N}
        save_file(tensors, folder / ESTIMATE_FILE)

    @classmethod
    def load(cls, path: Path) -> Smoothed:
        """Read what `save` wrote."""
        from safetensors.numpy import load_file

        tensors = load_file(path)
        return cls(tensors["uncertainty"], tensors["smoothing"])


class ReestimatedMixin(StagedMixin):
    """Replaces the smoothing of rows at stages' boundaries; without `ual.reestimate` nothing."""

    axolotl_cfg: Any
    train_dataset: Any
    _smoothed: Smoothed | None = None

    @cached_property
    def _estimate(self) -> Estimate | None:
        return None if self.curriculum is None else estimate_of(parse_ual(self.axolotl_cfg.ual))

    @property
    def estimates(self) -> str | None:
        """How the smoothing of stages is estimated."""
        return None if self._estimate is None else str(self._estimate)

    def get_train_dataloader(self) -> Any:
        """The dataloader; its rows have numbers where their smoothing is replaced."""
        if self._estimate is not None and ROW not in self.train_dataset.column_names:
            numbers = np.arange(len(self.train_dataset), dtype=np.int64)
            self.train_dataset = self.train_dataset.add_column(ROW, numbers)
        return super().get_train_dataloader()

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: Any
    ) -> tuple[list[Any], Any]:
        """The micro-batches of a step; before the first one of a stage rows are scored."""
        # Here and not where a step begins: by then its batches are there.
        begins = self.plan is not None and self.state.global_step in self.plan.boundaries
        if begins and self._estimate is not None:
            self._reestimate(self._estimate)
        return super().get_batch_samples(epoch_iterator, num_batches, device)

    def _see(self, batch: Any) -> None:
        row_R, place_BT = batch.pop(ROW, None), batch.pop(PLACE, None)
        if row_R is not None and self._smoothed is not None:
            self._smoothed.replace(batch, row_R, place_BT)
        super()._see(batch)

    def _reestimate(self, estimate: Estimate) -> None:
        """Score all rows, and smooth by the scores from here on."""
        assert self.plan is not None and self.curriculum is not None
        scores_N = self._scores_of_rows(estimate)
        settings = parse_ual(self.axolotl_cfg.ual).smoothing
        before_N = self._uncertainty()
        self._smoothed = found = Smoothed.solve(scores_N, estimate.mapping, settings)
        step = self.state.global_step
        logs = {
            REESTIMATED_MEAN: _mean(found.smoothing_N),
            REESTIMATED_STAGE: _mean(found.smoothing_N[rows_of_stage(self.plan, step)]),
            REESTIMATED_MAX: float(found.smoothing_N.max()),
        }
        rho = rank_correlation(before_N, found.uncertainty_N)
        if rho is not None:
            logs[REESTIMATED_CORRELATION] = rho
        name = self.curriculum.phases[self.plan.phase_at(step)].name
        missing = int(np.isnan(scores_N).sum())
        LOG.info(
            f"ual: stage {name}: smoothing estimated again by the model after {step} steps "
            f"({estimate}): mean {logs[REESTIMATED_MEAN]:.4f} over all {len(scores_N)} rows, "
            f"{logs[REESTIMATED_STAGE]:.4f} over those of the stage, largest "
            f"{logs[REESTIMATED_MAX]:.4f}; rank correlation with the uncertainty before: "
            + ("not known" if rho is None else f"{rho:.3f}")
            + (f"; {missing} rows have no score and get the mean" if missing else "")
        )
        self.log(logs)

    def _uncertainty(self) -> Numbers:
        """What rows are smoothed by so far: their uncertainty, or smoothing where they lack it."""
        if self._smoothed is not None:
            return self._smoothed.uncertainty_N.astype(np.float64)
        if UNCERTAINTY not in self.train_dataset.column_names:
            return smoothing_values(self.train_dataset)
        table = self.train_dataset.select_columns([UNCERTAINTY]).with_format("arrow")[:]
        values: Numbers = table[UNCERTAINTY].to_pandas().to_numpy(np.float64, na_value=np.nan)
        return values

    def _scores_of_rows(self, estimate: Estimate) -> Numbers:
        """The score of each row, NaN where none is finite; each process scores its share."""
        names = [name for name in _READ if name in self.train_dataset.column_names]
        dataset, accelerator = self.train_dataset.select_columns(names), self.accelerator
        collate = DataCollatorForSeq2Seq(self.processing_class)
        scores_N = np.zeros(len(dataset))
        batches = batches_by_length(dataset, self.args.per_device_eval_batch_size)
        processes = accelerator.num_processes
        with evaluating(self.model):
            for first in range(0, len(batches), processes):
                # Where an engine shards the model no process may leave a forward out.
                own = first + accelerator.process_index
                rows = batches[min(own, len(batches) - 1)]
                scores = self._score(collate([dataset[int(row)] for row in rows]), estimate)
                if own < len(batches):
                    scores_N[rows] = scores
        # A row that others score is 0 here. On the CPU first: not every accelerator has float64.
        if processes > 1:
            mine = torch.from_numpy(scores_N).to(accelerator.device)
            scores_N = accelerator.reduce(mine, reduction="sum").cpu().numpy()
        scores_N[~np.isfinite(scores_N)] = np.nan
        return scores_N

    def _score(self, batch: Any, estimate: Estimate) -> Numbers:
        inputs = self._prepare_inputs(batch)
        with torch.no_grad(), self.compute_loss_context_manager():
            statistics_XBT, asked_BT = self._statistics(inputs)
        entropy = estimate.estimator == "entropy"
        value_BT = statistics_XBT[3] if entropy else -statistics_XBT[0]
        asked_BT = asked_BT.cpu()
        value_BT = torch.where(asked_BT, value_BT.cpu().double(), 0.0)
        scores: Numbers = (value_BT.sum(dim=1) / asked_BT.sum(dim=1)).numpy()
        return scores

    def keep_estimate(self, folder: Path) -> None:
        """Write the smoothing of the present stage into a checkpoint."""
        if self._smoothed is not None and self.state.is_world_process_zero:
            self._smoothed.save(folder)

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, resume: str | None, trial: Any
    ) -> Any:
        """Go on with the smoothing that the checkpoint was saved with."""
        values = super()._init_training_state(max_steps, steps_per_epoch, epochs, resume, trial)
        if resume is not None and self._estimate is not None:
            self._resume(Path(resume))
        return values

    def _resume(self, folder: Path) -> None:
        assert self.plan is not None
        path = folder / ESTIMATE_FILE
        if path.is_file():
            self._smoothed = Smoothed.load(path)
        # At a boundary itself the rows are scored before the next step.
        step, rows = self.state.global_step, len(self.train_dataset)
        needed = any(boundary < step for boundary in self.plan.boundaries)
        found = 0 if self._smoothed is None else len(self._smoothed.smoothing_N)
        if (needed or found) and found != rows:
            raise ConfigError(
                f"resume_from_checkpoint: {folder}: {ESTIMATE_FILE} has the smoothing of {found} "
                f"of {rows} training rows",
                "resume from another checkpoint of the run, or train anew",
            )


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Evaluation mode while the block runs."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def rows_of_stage(plan: Plan, start: int) -> npt.NDArray[np.int64]:
    """Rows that are trained on from the step `start`, at which a stage begins, to its end."""
    end = next(boundary for boundary in plan.boundaries if boundary > start)
    rows: npt.NDArray[np.int64] = plan.rows_R[plan.rows_until(start) : plan.rows_until(end)]
    return rows


def _mean(values: npt.NDArray[np.float32]) -> float:
    return float(values.mean(dtype=np.float64))


def batches_by_length(dataset: Any, size: int) -> list[npt.NDArray[np.intp]]:
    """Rows of a tokenised dataset in batches of `size`, short ones first, as little is padded."""
    table = dataset.select_columns(["input_ids"]).with_format("arrow")[:]
    lengths_N = table["input_ids"].combine_chunks().value_lengths().to_numpy(zero_copy_only=False)
    order = np.argsort(lengths_N, kind="stable")
    return [order[start : start + size] for start in range(0, len(order), size)]


def rank_correlation(one_N: npt.ArrayLike, other_N: npt.ArrayLike) -> float | None:
    """Spearman's rho over rows that both know; None where one of them is constant there."""
    pair = np.asarray([one_N, other_N], dtype=np.float64)
    pair = pair[:, np.isfinite(pair).all(axis=0)]
    if pair.shape[1] < 2 or (pair == pair[:, :1]).all(axis=1).any():
        return None
    return float(np.corrcoef(average_ranks(pair[0]), average_ranks(pair[1]))[0, 1])
