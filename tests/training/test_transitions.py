"""Transitions over several processes: every row of the validation set once, and no padding."""

from __future__ import annotations

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from axolotl_ual.training.transitions import NUM_BINS, Scores, measure


class OneOfMany:
    """A trainer as one of several processes sees it; it keeps the sums that it would add up."""

    def __init__(self, rank: int, processes: int, micro_batch: int) -> None:
        self.args = SimpleNamespace(per_device_eval_batch_size=micro_batch)
        self.accelerator = SimpleNamespace(
            num_processes=processes,
            process_index=rank,
            device="cpu",
            even_batches=True,
            reduce=self._reduce,
        )
        self.model = torch.nn.Identity()
        self.sums: list[Any] = []

    def _reduce(self, tensor: Any, reduction: str) -> Any:
        assert reduction == "sum"
        self.sums.append(tensor.clone())
        return tensor

    def _get_dataloader(self, *, dataset: Any, sampler_fn: Any, **_: Any) -> Any:
        from accelerate.data_loader import BatchSamplerShard
        from torch.utils.data import DataLoader

        count, rank = self.accelerator.num_processes, self.accelerator.process_index
        sampler = sampler_fn(dataset)
        if count > 1:
            even = self.accelerator.even_batches
            sampler = BatchSamplerShard(sampler, count, rank, even_batches=even)
        return DataLoader(dataset, batch_sampler=sampler)

    def _prepare_inputs(self, batch: Any) -> Any:
        return batch

    def compute_loss_context_manager(self) -> Any:
        return nullcontext()

    def scores(self, inputs: dict[str, Any]) -> Scores:
        """One prediction a row, which is sure of itself and right."""
        loss = inputs["loss"]
        return Scores(loss, torch.ones_like(loss), torch.ones_like(loss))


@pytest.mark.parametrize("processes", [2, 3, 4])
@pytest.mark.parametrize("rows", [1, 5, 7, 12])
def test_rows_of_a_stage_count_once_however_many_processes(rows: int, processes: int) -> None:
    # Rows 0, 1, 2 ... have losses 1, 2, 4 ...: a row that counts twice shows in the sum.
    dataset = Dataset.from_dict({"loss": [float(2**n) for n in range(rows)]}).with_format("torch")
    stages = np.arange(rows) % 2
    trainers = [OneOfMany(rank, processes, micro_batch=2) for rank in range(processes)]
    for trainer in trainers:
        measure(trainer, dataset, stages, ["first", "second"])
    for stage in range(2):
        members = [2**n for n in range(rows) if n % 2 == stage]
        added = sum(trainer.sums[stage] for trainer in trainers)
        assert added[:NUM_BINS].sum().item() == len(members)
        assert added[-1].item() == sum(members)
