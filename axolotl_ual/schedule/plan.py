"""The order of a staged run: rows -> stages -> epochs -> batches. Index logic only.

A run is one pass over a `Plan`. The curriculum is a sequence of phases; a phase trains on one
stage (phased) or on the stages so far (cumulative), for a number of epochs. The epochs follow one
another as segments, each in an order of its own:

    phase 1: epoch 1, epoch 2, ... | phase 2: epoch 1, ... | ...

One optimizer step takes G = world_size * accumulation * micro_batch units. A unit is a row, or a
bin of packed rows.

Tail rule: units that do not fill a step at the end of a segment are the first of the next segment,
so a step mixes two phases only where a tail would otherwise be lost, and belongs to the later one.
Packed rows that are left over are packed again together with the next segment, ahead of it.

Shape suffixes: R rows in order of training, U units, B micro-batches. Micro-batch b is what
process b % world_size works on in its turn b // world_size, which is how Accelerate shards batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
Bins = Sequence[Sequence[int]]
Mode = Literal["phased", "cumulative"]


@dataclass(frozen=True, slots=True)
class Phase:
    """Consecutive epochs over the rows of one or several stages.

    Attributes:
        name: of the stage that the phase adds.
        stages: stage numbers whose rows it trains on.
        epochs: how often each of those rows appears in it.
    """

    name: str
    stages: tuple[int, ...]
    epochs: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """What one optimizer step consists of.

    Attributes:
        world_size: data-parallel processes.
        accumulation: micro-batches of a process in one step.
        micro_batch: units (rows, or bins when packed) in a micro-batch.
    """

    world_size: int = 1
    accumulation: int = 1
    micro_batch: int = 1

    @property
    def turn(self) -> int:
        """Units that all processes together take in one turn."""
        return self.world_size * self.micro_batch

    @property
    def step(self) -> int:
        """Units in one full optimizer step."""
        return self.turn * self.accumulation


@dataclass(frozen=True, slots=True)
class Packing:
    """How rows are packed into bins.

    Attributes:
        lengths_N: tokens of every row of the dataset.
        pack: lengths -> bins of positions into those lengths. It places each row in the first bin
            with room, group after group, and loses none.
        group_size: rows that `pack` places together.
    """

    lengths_N: npt.NDArray[np.integer]
    pack: Callable[[npt.NDArray[np.integer]], Bins]
    group_size: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The whole run, batch by batch.

    Attributes:
        rows_R: dataset rows in order of training.
        unit_ends_U: end of each bin in rows_R; None where a unit is a row.
        batch_ends_B: end of each micro-batch, in units. An empty one is padding: the other
            processes still have rows to train on in that turn.
        phase_starts: first step of each phase; equal neighbours where a phase is too small to
            fill a step of its own.
        geometry: what one step consists of.
        dropped: rows left out at the end by `drop_last`.
        repeats: optimizer steps that train on the rows of one step of the geometry. In a step that
            two of these share, the later one's rows have begun.
    """

    rows_R: IntArray
    unit_ends_U: IntArray | None
    batch_ends_B: IntArray
    phase_starts: tuple[int, ...]
    geometry: Geometry
    dropped: int = 0
    repeats: Fraction = Fraction(1)

    @property
    def num_rows(self) -> int:
        """Rows trained on, every epoch of every stage counted."""
        return len(self.rows_R)

    @property
    def num_batches(self) -> int:
        """Micro-batches over all processes: a multiple of the world size."""
        return len(self.batch_ends_B)

    @property
    def num_steps(self) -> int:
        """Optimizer steps."""
        per_step = self.geometry.world_size * self.geometry.accumulation
        return ceil(-(-self.num_batches // per_step) * self.repeats)

    @property
    def boundaries(self) -> tuple[int, ...]:
        """Steps after which a phase ends: the last is the end of the run."""
        ends = {*self.phase_starts[1:], self.num_steps} - {0}
        return tuple(sorted(ends))

    def phase_at(self, step: int) -> int:
        """Phase, counted from 0, that the 0-based `step` belongs to."""
        return max(int(np.searchsorted(self.phase_starts, step, side="right")) - 1, 0)

    def rows_until(self, step: int) -> int:
        """Rows trained on in the first `step` steps."""
        begun = ceil(step / self.repeats)
        batch = begun * self.geometry.world_size * self.geometry.accumulation
        if batch <= 0 or not self.num_batches:
            return 0
        unit = int(self.batch_ends_B[min(batch, self.num_batches) - 1])
        return self._row_end(unit)

    def rows_in(self, batch: int) -> int:
        """Rows that count in a micro-batch: none in padding."""
        start = 0 if batch == 0 else int(self.batch_ends_B[batch - 1])
        return self._row_end(int(self.batch_ends_B[batch])) - self._row_end(start)

    def batches(self) -> Iterator[list[int] | list[list[int]]]:
        """Micro-batches in order: lists of rows, or of bins of rows when packed.

        Padding repeats the last unit, so that a collator has something to shape.
        """
        start = 0
        for end in self.batch_ends_B.tolist():
            yield self._units(start, end) if end > start else self._units(end - 1, end)
            start = end

    def _units(self, start: int, end: int) -> list[int] | list[list[int]]:
        if self.unit_ends_U is None:
            rows: list[int] = self.rows_R[start:end].tolist()
            return rows
        starts = [self._row_end(start), *self.unit_ends_U[start : end - 1].tolist()]
        ends = self.unit_ends_U[start:end].tolist()
        return [self.rows_R[a:b].tolist() for a, b in zip(starts, ends, strict=True)]

    def _row_end(self, unit: int) -> int:
        if self.unit_ends_U is None or unit == 0:
            return unit
        return int(self.unit_ends_U[unit - 1])


def make_phases(mode: Mode, order: Sequence[str], epochs: Sequence[int]) -> tuple[Phase, ...]:
    """The phases of a curriculum; a stage with 0 epochs has none of its own.

    Args:
        mode: phased: each stage alone. cumulative: each stage together with the earlier ones.
        order: stage names; stage number k is `order[k]`.
        epochs: one whole number per stage.
    """
    return tuple(
        Phase(name, tuple(range(stage + 1)) if mode == "cumulative" else (stage,), count)
        for stage, (name, count) in enumerate(zip(order, epochs, strict=True))
        if count > 0
    )


def build_plan(
    stages_N: npt.NDArray[np.integer],
    phases: Sequence[Phase],
    geometry: Geometry,
    *,
    seed: int = 0,
    shuffle: bool = True,
    values_N: npt.NDArray[np.floating] | None = None,
    packing: Packing | None = None,
    drop_last: bool = False,
) -> Plan:
    """Lay out a run.

    Args:
        stages_N: stage number of every row of the dataset.
        phases: from `make_phases`.
        geometry: what one step consists of.
        seed: of the shuffling; the same on every process.
        shuffle: a fresh order in each epoch; otherwise the order of `values_N`, or of the dataset.
        values_N: what unshuffled rows are sorted by, ascending and stable.
        packing: None trains each row by itself.
        drop_last: leave out the rows of the last step where they do not fill it.

    Returns:
        The plan: deterministic in its arguments.
    """
    segments = _segments(stages_N, phases, seed, shuffle, values_N)
    if packing is None:
        rows_R, unit_ends_U, phase_units = _concatenate(segments)
    else:
        rows_R, unit_ends_U, phase_units = _pack(segments, packing, geometry.step)
    num_units = len(rows_R) if unit_ends_U is None else len(unit_ends_U)
    num_rows = len(rows_R)
    whole = num_units - num_units % geometry.step
    batch_ends_B = np.arange(geometry.micro_batch, whole + 1, geometry.micro_batch, dtype=np.int64)
    if drop_last:
        rows_R = rows_R[: whole if unit_ends_U is None or not whole else unit_ends_U[whole - 1]]
        unit_ends_U = None if unit_ends_U is None else unit_ends_U[:whole]
    elif whole < num_units:
        if unit_ends_U is not None:
            unit_ends_U = _split_bins(unit_ends_U, whole, geometry)
            num_units = len(unit_ends_U)
        last = whole + _share_out(num_units - whole, geometry)
        batch_ends_B = np.concatenate([batch_ends_B, last])
    num_steps = -(-len(batch_ends_B) // (geometry.world_size * geometry.accumulation))
    starts = tuple(min(unit // geometry.step, num_steps) for unit in phase_units)
    return Plan(rows_R, unit_ends_U, batch_ends_B, starts, geometry, num_rows - len(rows_R))


def _segments(
    stages_N: npt.NDArray[np.integer],
    phases: Sequence[Phase],
    seed: int,
    shuffle: bool,
    values_N: npt.NDArray[np.floating] | None,
) -> Iterator[tuple[int, IntArray]]:
    """(phase, rows) of each epoch, in order of training."""
    for number, phase in enumerate(phases):
        members = np.flatnonzero(np.isin(stages_N, phase.stages)).astype(np.int64)
        if values_N is not None and not shuffle:
            members = members[np.argsort(values_N[members], kind="stable")]
        for epoch in range(phase.epochs):
            if shuffle:
                generator = np.random.default_rng([seed, number, epoch])
                yield number, generator.permutation(members)
            else:
                yield number, members


def _concatenate(
    segments: Iterator[tuple[int, IntArray]],
) -> tuple[IntArray, None, list[int]]:
    """Rows by themselves: the tail rule is plain concatenation."""
    pieces: list[IntArray] = [np.empty(0, dtype=np.int64)]
    phase_units: list[int] = []
    count = 0
    for number, rows in segments:
        if number == len(phase_units):
            phase_units.append(count)
        pieces.append(rows)
        count += len(rows)
    return np.concatenate(pieces), None, phase_units


def _pack(
    segments: Iterator[tuple[int, IntArray]], packing: Packing, step: int
) -> tuple[IntArray, IntArray, list[int]]:
    """Pack segment by segment; bins that do not fill a step are packed with the next segment."""
    rows: list[IntArray] = []
    sizes: list[IntArray] = []
    phase_units: list[int] = []
    count = 0
    tail = _Bins(np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64))
    for number, segment in segments:
        if number == len(phase_units):
            phase_units.append(count)
        bins = _pack_segment(tail, segment, packing)
        whole = len(bins.sizes_U) - len(bins.sizes_U) % step
        head, tail = bins.split(whole)
        rows.append(head.rows_R)
        sizes.append(head.sizes_U)
        count += whole
    rows_R = np.concatenate([*rows, tail.rows_R])
    return rows_R, np.cumsum(np.concatenate([*sizes, tail.sizes_U])), phase_units


@dataclass(frozen=True, slots=True)
class _Bins:
    rows_R: IntArray
    sizes_U: IntArray

    def split(self, unit: int) -> tuple[_Bins, _Bins]:
        row = int(self.sizes_U[:unit].sum())
        return (
            _Bins(self.rows_R[:row], self.sizes_U[:unit]),
            _Bins(self.rows_R[row:], self.sizes_U[unit:]),
        )


def _pack_segment(tail: _Bins, segment: IntArray, packing: Packing) -> _Bins:
    """Pack a segment behind the tail of the one before.

    First-fit over rows listed bin by bin opens no more bins than were listed: when a row of bin j
    comes, the j-th new bin holds nothing but rows of bin j, so there is room. The tail therefore
    stays inside the first step, provided that one group holds it; where it does not, its bins
    are kept as they are.
    """
    keep = len(tail.rows_R) > packing.group_size
    rows_R = segment if keep else np.concatenate([tail.rows_R, segment])
    bins = packing.pack(packing.lengths_N[rows_R])
    sizes_U = np.fromiter(map(len, bins), dtype=np.int64, count=len(bins))
    flat_R = np.fromiter(chain.from_iterable(bins), dtype=np.int64, count=len(rows_R))
    packed = _Bins(rows_R[flat_R], sizes_U)
    if not keep:
        return packed
    return _Bins(
        np.concatenate([tail.rows_R, packed.rows_R]),
        np.concatenate([tail.sizes_U, packed.sizes_U]),
    )


def _share_out(units: int, geometry: Geometry) -> IntArray:
    """Ends of the micro-batches of a last step that `units` do not fill.

    The fewest turns that hold them, the units shared out evenly, so that a process without any
    is left only where there are fewer units than processes.
    """
    cells = -(-units // geometry.turn) * geometry.world_size
    sizes = np.full(cells, units // cells, dtype=np.int64)
    sizes[: units % cells] += 1
    return np.cumsum(sizes)


def _split_bins(unit_ends_U: IntArray, whole: int, geometry: Geometry) -> IntArray:
    """Split bins of a last step in halves until every process has one, if there are rows enough."""
    base = int(unit_ends_U[whole - 1]) if whole else 0
    sizes: list[int] = np.diff(unit_ends_U[whole:], prepend=base).tolist()
    cells = -(-len(sizes) // geometry.turn) * geometry.world_size
    while len(sizes) < cells and max(sizes) > 1:
        largest = sizes.index(max(sizes))
        half = sizes[largest] // 2
        sizes[largest : largest + 1] = [sizes[largest] - half, half]
    ends = np.cumsum(np.asarray(sizes, dtype=np.int64)) + base
    return np.concatenate([unit_ends_U[:whole], ends])
