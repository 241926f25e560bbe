"""What a plan is made for: the rows of the training set, and what one step takes of them.

The plan of a run is made once, from the recipe, before the model is loaded. What the trainer
trains with is compared with what the plan was made for, field by field.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
from axolotl.utils.samplers.multipack import pack_parallel
from axolotl.utils.samplers.utils import get_dataset_lengths

from axolotl_ual.errors import ConfigError, UnsupportedError
from axolotl_ual.schedule.plan import Geometry, Packing, Phase, Plan, build_plan
from axolotl_ual.schedule.staging import Staging, stage_values


@dataclass(frozen=True, slots=True)
class PackingArguments:
    """Axolotl's settings of sample packing.

    Attributes:
        real_batches: a micro-batch is several bins of `sequence_len`, not one long one.
        bin_size: most rows in a bin.
    """

    sequence_len: int
    real_batches: bool
    group_size: int
    bin_size: int | None
    num_processes: int | None
    start_method: str | None


@dataclass(frozen=True, slots=True)
class Generation:
    """How TRL's GRPO samples responses to prompts and trains on them.

    Attributes:
        num_generations: responses to a prompt.
        responses: sampled at a time, over all processes.
        iterations: passes over what was sampled.
    """

    num_generations: int
    responses: int
    iterations: int

    @property
    def prompts(self) -> int:
        """Prompts that are answered at a time."""
        return self.responses // self.num_generations

    def steps(self, layout: Layout) -> Fraction:
        """Optimizer steps that train on what was sampled at a time.

        Where it is no whole number, TRL samples anew between two micro-batches of a step.

        Raises:
            UnsupportedError: it is no whole number of micro-batches.
        """
        turn = layout.processes * layout.micro_batch
        if self.responses % turn:
            raise UnsupportedError(
                f"trl.generation_batch_size: {self.responses} responses at a time are no whole "
                f"number of micro-batches of {turn} (processes times micro_batch_size), which "
                f"TRL refuses: generation_batch_size ({self.responses}) must be divisible by the "
                f"global batch size ({turn})",
                f"take `generation_batch_size` out, or make it a multiple of {turn}",
            )
        return Fraction(self.responses * self.iterations, turn * layout.accumulation)


@dataclass(frozen=True, slots=True)
class Rows:
    """What of the training set decides its order.

    Attributes:
        stages_N: stage number of each row.
        values_N: what unshuffled rows are sorted by; None where they are not.
        lengths_N: tokens of each row; None without packing.
    """

    stages_N: npt.NDArray[np.integer]
    values_N: npt.NDArray[np.floating] | None
    lengths_N: npt.NDArray[np.integer] | None

    @classmethod
    def read(cls, dataset: Any, column: str, staging: Staging, *, packed: bool) -> Rows:
        """Read them from a `datasets.Dataset`, whose `column` tells the stages."""
        values = stage_values(dataset, column)
        return cls(
            staging.number(values),
            None if staging.cuts is None else staging.keys(values),
            np.asarray(get_dataset_lengths(dataset), dtype=np.int32) if packed else None,
        )

    def digest(self) -> str:
        """64 hexadecimal digits that change with any row."""
        digest = hashlib.sha256()
        for array in (self.stages_N, self.values_N, self.lengths_N):
            digest.update(b"none" if array is None else array.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Layout:
    """What a plan is made for.

    Attributes:
        processes: data-parallel ones.
        accumulation: micro-batches of a process in one step.
        micro_batch: rows, or rows of `sequence_len` tokens when packed.
        packing: None trains each row by itself.
        rows: digest of the training set's rows.
        generation: where rows are prompts; then a step takes responses, not rows.
    """

    processes: int
    accumulation: int
    micro_batch: int
    packing: PackingArguments | None
    rows: str
    generation: Generation | None = None

    def require(self, found: Layout) -> None:
        """Stop where a trainer would train with something else than the plan was made for.

        Raises:
            ConfigError: naming all that differs.
        """
        names = {field.name: _NAMES[field.name] for field in fields(self)}
        differing = [
            f"{said}: planned {getattr(self, name)}, in training {getattr(found, name)}"
            for name, said in names.items()
            if getattr(self, name) != getattr(found, name)
        ]
        if differing:
            raise ConfigError(
                "ual.curriculum: the order was laid out for another run than this one\n  "
                + "\n  ".join(differing),
                "take out what changes these after the recipe was read (another plugin, or an "
                "environment variable), or set `ual.curriculum.mode: none`",
            )


_NAMES = {
    "processes": "processes",
    "accumulation": "gradient_accumulation_steps",
    "micro_batch": "micro_batch_size",
    "packing": "sample_packing",
    "rows": "rows of the training set (digest)",
    "generation": "how responses are sampled (num_generations, generation_batch_size)",
}


def lay_out(
    rows: Rows,
    layout: Layout,
    phases: Sequence[Phase],
    *,
    seed: int,
    shuffle: bool,
    drop_last: bool,
) -> Plan:
    """The plan of a run, with Axolotl's own packing inside each epoch of a stage."""
    if layout.generation is not None:
        return _of_prompts(rows, layout, layout.generation, phases, seed=seed, shuffle=shuffle)
    geometry, packing = Geometry(layout.processes, layout.accumulation, layout.micro_batch), None
    if layout.packing is not None and rows.lengths_N is not None:
        real, length = layout.packing.real_batches, layout.packing.sequence_len
        geometry = Geometry(
            layout.processes, layout.accumulation, layout.micro_batch if real else 1
        )
        capacity = length if real else length * layout.micro_batch
        packing = _packing(rows.lengths_N, layout.packing, capacity)
    return build_plan(
        rows.stages_N,
        phases,
        geometry,
        seed=seed,
        shuffle=shuffle,
        values_N=rows.values_N,
        packing=packing,
        drop_last=drop_last,
    )


def _of_prompts(
    rows: Rows,
    layout: Layout,
    generation: Generation,
    phases: Sequence[Phase],
    *,
    seed: int,
    shuffle: bool,
) -> Plan:
    """A plan of prompts: what is sampled at a time is full, as TRL's sampler has it."""
    repeats = generation.steps(layout)
    plan = build_plan(
        rows.stages_N,
        phases,
        Geometry(1, 1, generation.prompts),
        seed=seed,
        shuffle=shuffle,
        values_N=rows.values_N,
        drop_last=True,
    )
    if not plan.num_rows:
        raise ConfigError(
            f"trl: responses to {generation.prompts} prompts are sampled at a time, and the "
            f"curriculum has {plan.dropped} in all",
            "set a smaller `generation_batch_size`, or more `num_generations`",
        )
    starts = tuple(int(start * repeats) for start in plan.phase_starts)
    return replace(plan, repeats=repeats, phase_starts=starts)


def _packing(
    lengths_N: npt.NDArray[np.integer], arguments: PackingArguments, capacity: int
) -> Packing:
    pack = partial(
        pack_parallel,
        bin_capacity=capacity,
        group_size=arguments.group_size,
        bin_size=arguments.bin_size or capacity,
        num_processes=min(4, arguments.num_processes or 1),
        safe_mode=True,
        mp_start_method=arguments.start_method or "fork",
    )
    return Packing(lengths_N, pack, arguments.group_size)
