"""A plan as what dataloaders take."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch.utils.data import BatchSampler

from axolotl_ual.schedule.plan import Plan


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
