"""A plan as what dataloaders take, and stages as what batches carry."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch.utils.data import BatchSampler

from axolotl_ual.columns import ROW, STAGE, UNCERTAINTY
from axolotl_ual.errors import UnsupportedError
from axolotl_ual.schedule.plan import Plan
from axolotl_ual.schedule.staging import Staging

NO_STAGE: Final = -1
"""Stage of a row that does not count: padding, where other processes still have rows."""


class PlanSampler(BatchSampler):
    """The micro-batches of a plan, for all processes; Accelerate gives each its share."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.sampler = range(plan.num_rows)
        self.batch_size = None
        self.drop_last = False

    def __iter__(self) -> Iterator[Any]:
        return self.plan.batches()

    def __len__(self) -> int:
        return self.plan.num_batches


@contextmanager
def as_planned(accelerator: Any) -> Iterator[None]:
    """Make Accelerate take the batches as they are: the plan has shared them out already."""
    even = accelerator.even_batches
    accelerator.even_batches = False
    try:
        yield
    finally:
        accelerator.even_batches = even


def require_plan(loader: Any, plan: Plan) -> None:
    """Stop where a dataloader takes its batches from something else than a plan.

    Raises:
        UnsupportedError: naming what it takes them from.
    """
    sampler: Any = getattr(loader, "batch_sampler", None)
    while not isinstance(sampler, PlanSampler) and hasattr(sampler, "batch_sampler"):
        sampler = sampler.batch_sampler
    if not isinstance(sampler, PlanSampler) or sampler.plan is not plan:
        raise UnsupportedError(
            f"the trainer takes its batches from {type(sampler).__name__}, not from the plan of "
            "`ual.curriculum`: rows would be trained in another order than the stages'",
            "install versions of axolotl and transformers that this plugin supports",
        )


class StageCollator:
    """Wraps a collator: its batches tell in which stage their rows are.

    The batch gets `ual_stage`, int64 of shape (rows,), counted from 0; and `ual_uncertainty`,
    float32 of shape (rows,), NaN where it is not known, if rows have one; and
    `ual_row`, int64 of shape (rows,), if rows have a number.

    Args:
        base: a collator that leaves our columns out of what it collates.
        staging: the rule from values to stages.
        column: that it reads.
    """

    def __init__(self, base: Callable[..., Any], staging: Staging, column: str) -> None:
        self.base = base
        self.staging = staging
        self.column = column

    def __call__(self, features: Sequence[Any], **options: Any) -> Any:
        """Collate rows, or bins of rows."""
        binned = bool(features) and isinstance(features[0], list)
        rows = [row for part in features for row in part] if binned else features
        batch = self.base(features, **options)
        batch[STAGE] = torch.from_numpy(self.staging.number([row[self.column] for row in rows]))
        if all(UNCERTAINTY in row for row in rows):
            known = [row[UNCERTAINTY] for row in rows]
            values = [float("nan") if value is None else value for value in known]
            batch[UNCERTAINTY] = torch.tensor(values, dtype=torch.float32)
        if all(ROW in row for row in rows):
            batch[ROW] = torch.tensor([row[ROW] for row in rows], dtype=torch.int64)
        return batch
