"""What trainers of pairs share: the order of a curriculum, and what a loss reads of each pair.

A step trains on K pairs in all of its micro-batches and processes. Trainer and engines average
over micro-batches, so a micro-batch of a last step that K does not fill is weighted by its share:
its pairs * number of micro-batches / K. Each pair then counts once, as in any other step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from axolotl.integrations.base import PluginManager
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers.trainer_utils import seed_worker

from axolotl_ual.columns import MARGIN, PREFIX, SMOOTHING, STAGE, WEIGHT
from axolotl_ual.losses.encoding import encode_smoothing
from axolotl_ual.settings.ual import UALConfig, parse_ual
from axolotl_ual.training.batches import PlanSampler
from axolotl_ual.training.staged import StagedMixin

SHARE = "ual_share"


def columns_of_pairs(ual: UALConfig) -> list[str]:
    """The columns of numbers that a loss reads of each pair, by what a recipe asks for."""
    preference = ual.preference
    used = {
        SMOOTHING: preference.smoothing,
        MARGIN: preference.margin is not None,
        WEIGHT: ual.loss.weight is not None,
    }
    return [name for name, is_used in used.items() if is_used]


class PairCollator:
    """Wraps a collator of TRL, which knows nothing of our columns.

    The batch gets columns of ours, int32 of shape (P,), the bits of the float32 of each pair:
    training engines cast float inputs, not integers.

    Args:
        base: TRL's collator.
        columns: those of numbers that the loss reads.
    """

    def __init__(self, base: Callable[..., Any], columns: Sequence[str] = ()) -> None:
        self.base = base
        self.columns = columns

    def __call__(self, features: Sequence[Mapping[str, Any]]) -> Any:
        """Collate rows of a preference dataset."""
        rows = [
            {key: value for key, value in row.items() if not key.startswith(PREFIX)}
            for row in features
        ]
        batch = self.base(_rotate_mismatched(rows))
        for name in self.columns:
            values = torch.tensor([row[name] for row in features], dtype=torch.float32)
            batch[name] = encode_smoothing(values)
        return batch


def _rotate_mismatched(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """KTO's mismatched completions (its KL estimate) must be those of the batch itself."""
    if not rows or "KL_completion_ids" not in rows[0]:
        return rows
    completions = [row["completion_ids"] for row in rows]
    rotated = [completions[-1], *completions[:-1]]
    return [{**row, "KL_completion_ids": ids} for row, ids in zip(rows, rotated, strict=True)]


class StagedPairsMixin(StagedMixin):
    """The order of a curriculum for trainers of TRL that know nothing of plans."""

    scores_predictions = False
    _padding = False

    @cached_property
    def ual(self) -> UALConfig:
        """The recipe's `ual:` block."""
        return parse_ual(PluginManager.get_instance().cfg.ual)

    def get_train_dataloader(self) -> Any:
        """The dataloader, whose batches carry the stage and what the loss reads of each pair."""
        plain = self.data_collator
        self.data_collator = PairCollator(plain, self._columns())
        try:
            return super().get_train_dataloader()
        finally:
            self.data_collator = plain

    def _columns(self) -> list[str]:
        return []

    def _get_dataloader(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """The trainer's own, or one over a plan: transformers takes no sampler of batches."""
        sampler = None if self.plan is None else kwargs["sampler_fn"](dataset)
        if not isinstance(sampler, PlanSampler):
            return super()._get_dataloader(dataset, *args, **kwargs)
        workers = self.args.dataloader_num_workers
        loader = DataLoader(
            self._remove_unused_columns(dataset, description=kwargs["description"]),
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=workers,
            pin_memory=self.args.dataloader_pin_memory,
            persistent_workers=self.args.dataloader_persistent_workers,
            prefetch_factor=self.args.dataloader_prefetch_factor,
            worker_init_fn=partial(seed_worker, num_workers=workers, rank=self.args.process_index),
        )
        return self.accelerator.prepare(loader)

    def _weighted(self, batch: Any, share: float) -> Any:
        batch[SHARE] = share
        return batch

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The trainer's own loss, weighted by the share of the micro-batch in its step."""
        inputs = dict(inputs)
        share = inputs.pop(SHARE, 1.0)
        self._padding = share == 0.0
        result = self._pairs_loss(model, inputs, return_outputs, num_items_in_batch)
        if share == 1.0:
            return result
        return (result[0] * share, result[1]) if return_outputs else result * share

    def _pairs_loss(self, model: Any, inputs: dict[str, Any], outputs: bool, items: Any) -> Any:
        inputs.pop(STAGE, None)
        return super().compute_loss(model, inputs, outputs, items)

    def _counted(self, values_P: Tensor) -> Tensor:
        """1 for each pair; 0 in padding."""
        return torch.full_like(values_P, 0.0 if self._padding else 1.0)
