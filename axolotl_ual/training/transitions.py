"""What each stage of a curriculum did to the validation set: loss and calibration, by stage.

Calibration is the expected calibration error over 15 bins of equal width (see `reliability`), of
next-token predictions (confidence: the largest probability), or of preferences (confidence: the
probability that the pair's margin gives to the completion it prefers). Bins of equal width need
nothing but sums, so that batches and processes are added up; sums are taken in float64.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from axolotl_ual.evaluation.reliability import assign_bins, bin_edges, bin_sums, expected_error
from axolotl_ual.schedule.plan import Geometry, build_plan, make_phases
from axolotl_ual.training.batches import PlanSampler, as_planned, require_plan

TABLE_FILE: Final = "ual_transitions.csv"
NUM_BINS: Final = 15
ECE: Final = f"ece_width_{NUM_BINS}"
"""Name of the calibration error in metrics and in the table."""
_EDGES: Final = bin_edges(np.empty(0), NUM_BINS, "width")


@dataclass(frozen=True, slots=True)
class Scores:
    """Predictions of a batch: tokens, or preferences.

    Attributes:
        loss_M: of each.
        confidence_M: in [0, 1].
        hit_M: whether it came true.
    """

    loss_M: Tensor
    confidence_M: Tensor
    hit_M: Tensor


class Tally:
    """Sums from which loss and calibration follow; sums of two tallies make one of both.

    Attributes:
        sums: float64 (2 NUM_BINS + 1,): predictions of each bin, their hits less their confidence,
            and the loss of all.
    """

    def __init__(self) -> None:
        self.sums = np.zeros(2 * NUM_BINS + 1)

    def add(self, scores: Scores) -> None:
        """Add a batch of predictions."""
        confidence_M = _float64(scores.confidence_M)
        bins_M = assign_bins(confidence_M, _EDGES)
        row_M = np.zeros(len(bins_M), dtype=np.int64)
        gap_M = _float64(scores.hit_M) - confidence_M
        parts = [
            bin_sums(row_M, values_M, bins_M, 1, NUM_BINS)[0]
            for values_M in (np.ones(len(bins_M)), gap_M)
        ]
        self.sums += np.concatenate([*parts, [_float64(scores.loss_M).sum()]])

    def results(self) -> dict[str, float]:
        """Mean loss and expected calibration error; empty where nothing was added."""
        count, gap = self.sums[:-1].reshape(2, NUM_BINS)
        total = count.sum()
        if not total:
            return {}
        return {"loss": float(self.sums[-1] / total), ECE: float(expected_error(count, gap))}


def _float64(values_M: Tensor) -> npt.NDArray[np.float64]:
    # On the CPU first: not every accelerator has float64.
    values: npt.NDArray[np.float64] = values_M.cpu().double().numpy()
    return values


def measure(
    trainer: Any, dataset: Any, stages_N: npt.ArrayLike | None, names: Sequence[str]
) -> dict[str, float]:
    """Loss and calibration on a validation set, as a whole and for each stage.

    Args:
        trainer: with `scores(inputs)`, called with evaluation mode and gradients off.
        dataset: the validation set.
        stages_N: stage of each row; None where the rows have none.
        names: of the stages.

    Returns:
        `eval_ece_width_15`, and `eval_NAME_loss` and `eval_NAME_ece_width_15` for each stage that
        has rows.
    """
    whole = Tally()
    found: dict[str, float] = {}
    groups: list[tuple[str, Any]] = [("", dataset)]
    if stages_N is not None:
        members = [np.flatnonzero(np.asarray(stages_N) == stage) for stage in range(len(names))]
        groups = [(name, dataset.select(rows)) for name, rows in zip(names, members, strict=True)]
    for name, part in groups:
        tally = Tally()
        for scores in _scores(trainer, part):
            tally.add(scores)
        tally.sums = _over_processes(trainer.accelerator, tally.sums)
        whole.sums += tally.sums
        if name:
            found.update({f"eval_{name}_{key}": v for key, v in tally.results().items()})
    results = whole.results()
    return {**({f"eval_{ECE}": results[ECE]} if results else {}), **found}


def _over_processes(accelerator: Any, sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    if accelerator.num_processes == 1:
        return sums
    reduced = accelerator.reduce(torch.from_numpy(sums).to(accelerator.device), reduction="sum")
    added: npt.NDArray[np.float64] = reduced.cpu().numpy()
    return added


def _scores(trainer: Any, dataset: Any) -> Iterator[Scores]:
    """Every row once, shared out among the processes."""
    accelerator = trainer.accelerator
    geometry = Geometry(accelerator.num_processes, 1, trainer.args.per_device_eval_batch_size)
    phases = make_phases("phased", [""], [1])
    plan = build_plan(np.zeros(len(dataset), dtype=np.int64), phases, geometry, shuffle=False)
    if not plan.num_batches:
        return
    with as_planned(accelerator):
        loader = trainer._get_dataloader(
            dataset=dataset,
            description="Evaluation",
            batch_size=trainer.args.per_device_eval_batch_size,
            sampler_fn=lambda _: PlanSampler(plan),
        )
    require_plan(loader, plan)
    trainer.model.eval()
    for turn, batch in enumerate(loader):
        inputs = trainer._prepare_inputs(batch)
        with torch.no_grad(), trainer.compute_loss_context_manager():
            scores = trainer.scores(inputs)
        if plan.rows_in(turn * accelerator.num_processes + accelerator.process_index):
            yield scores


class TransitionTable:
    """`ual_transitions.csv`: one line before the first stage, and one after each.

    Args:
        folder: the output folder of the run.
        names: of the stages.
    """

    def __init__(self, folder: str | Path, names: Sequence[str]) -> None:
        self.path = Path(folder) / TABLE_FILE
        by_stage = [f"eval_{name}_{key}" for name in names for key in ("loss", ECE)]
        self.columns = ["step", "at", "eval_loss", f"eval_{ECE}", *by_stage]

    def add(self, step: int, at: str, metrics: dict[str, float]) -> None:
        """Write a line; lines of later steps, of a run that this one resumes, go."""
        line = {"step": step, "at": at, **metrics}
        lines = [old for old in self._read() if int(old["step"]) < step]
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, self.columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows([*lines, line])

    def _read(self) -> list[dict[str, str]]:
        if not self.path.is_file():
            return []
        with self.path.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
