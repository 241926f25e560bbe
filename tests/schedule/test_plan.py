"""The order of a staged run, against what the arithmetic says."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_ual.schedule.plan import Geometry, Packing, Plan, build_plan, make_phases
from reference.first_fit import first_fit

ORDER = ("conservative", "moderate", "exploratory")


def flatten(batch: list[Any]) -> list[int]:
    return [row for unit in batch for row in (unit if isinstance(unit, list) else [unit])]


def steps_of(plan: Plan) -> list[list[list[int]]]:
    """Rows of each step, micro-batch by micro-batch, padding left out."""
    batches = [
        flatten(batch) if plan.rows_in(number) else []
        for number, batch in enumerate(plan.batches())
    ]
    size = plan.geometry.world_size * plan.geometry.accumulation
    return [batches[start : start + size] for start in range(0, len(batches), size)]


def rows_of(plan: Plan) -> list[list[int]]:
    return [[row for batch in step for row in batch] for step in steps_of(plan)]


def packing(lengths: list[int], capacity: int, group_size: int) -> Packing:
    return Packing(
        np.asarray(lengths, dtype=np.int64),
        lambda sizes: first_fit(sizes, capacity, group_size),
        group_size,
    )


# --- by hand ---------------------------------------------------------------------------------


def test_stages_follow_one_another_and_a_tail_opens_the_next_step() -> None:
    # Stages of 5, 3 and 4 rows, one process, 2 rows x 2 micro-batches = 4 rows in a step.
    # Stage 0 fills step 0 and leaves one row; step 1 takes it and the 3 rows of stage 1;
    # stage 2 fills step 2. Stage 1 begins in step floor(5 / 4) = 1, stage 2 in floor(8 / 4) = 2.
    stages = np.array([0] * 5 + [1] * 3 + [2] * 4)
    plan = build_plan(
        stages, make_phases("phased", ORDER, (1, 1, 1)), Geometry(1, 2, 2), shuffle=False
    )
    assert list(plan.batches()) == [[0, 1], [2, 3], [4, 5], [6, 7], [8, 9], [10, 11]]
    assert plan.phase_starts == (0, 1, 2)
    assert plan.boundaries == (1, 2, 3)
    assert [plan.phase_at(step) for step in range(3)] == [0, 1, 2]
    assert [plan.rows_until(step) for step in range(4)] == [0, 4, 8, 12]


def test_all_epochs_of_a_stage_come_before_the_next() -> None:
    # Rows 0 and 2 are stage 0 for two epochs, row 1 is stage 1 for three.
    plan = build_plan(
        np.array([0, 1, 0]), make_phases("phased", ORDER[:2], (2, 3)), Geometry(), shuffle=False
    )
    assert [batch[0] for batch in plan.batches()] == [0, 2, 0, 2, 1, 1, 1]
    assert plan.phase_starts == (0, 4)


def test_cumulative_stages_keep_the_earlier_ones() -> None:
    # Phase 1: row 0, once. Phase 2: rows 0 and 1, twice. Phase 3: rows 0, 1 and 2, once.
    plan = build_plan(
        np.array([0, 1, 2]), make_phases("cumulative", ORDER, (1, 2, 1)), Geometry(), shuffle=False
    )
    assert [batch[0] for batch in plan.batches()] == [0, 0, 1, 0, 1, 0, 1, 2]
    assert plan.phase_starts == (0, 1, 5)


def test_values_order_the_rows_of_a_stage() -> None:
    values = np.array([0.9, 0.1, 0.5, 0.2])
    plan = build_plan(
        np.array([1, 0, 1, 0]),
        make_phases("phased", ORDER[:2], (1, 1)),
        Geometry(),
        shuffle=False,
        values_N=values,
    )
    assert [batch[0] for batch in plan.batches()] == [1, 3, 2, 0]


def test_the_last_step_is_shared_out_among_the_processes() -> None:
    # 13 rows, 4 processes x 2 accumulation x 2 rows = 16 in a step. 13 rows need
    # ceil(13 / 8) = 2 turns of 4 micro-batches; 13 = 5 x 2 + 3 x 1, so nobody is idle.
    plan = build_plan(
        np.zeros(13, dtype=int), make_phases("phased", ORDER[:1], (1,)), Geometry(4, 2, 2)
    )
    assert [len(batch) for batch in plan.batches()] == [2, 2, 2, 2, 2, 1, 1, 1]
    assert plan.num_steps == 1


def test_a_process_without_a_row_gets_padding_that_is_marked() -> None:
    # 5 rows, 4 processes, 1 row a micro-batch: turn 2 has one row and three idle processes.
    plan = build_plan(
        np.zeros(5, dtype=int),
        make_phases("phased", ORDER[:1], (1,)),
        Geometry(4, 2, 1),
        shuffle=False,
    )
    assert list(plan.batches()) == [[0], [1], [2], [3], [4], [4], [4], [4]]
    assert [plan.rows_in(batch) for batch in range(8)] == [1] * 5 + [0] * 3
    assert plan.num_rows == 5


def test_packed_tails_are_packed_again_with_the_next_stage() -> None:
    # Capacity 10, two bins in a step. Stage 0 (rows 0-4, lengths 6 6 6 4 3) packs first-fit to
    # [0 3] [1 4] [2]: one step, and the tail [2]. With stage 1 (rows 5-7, lengths 4 9 8) the tail
    # packs to [2 5] [6] [7]: row 5 fills the gap. [7] is the last, incomplete step.
    plan = build_plan(
        np.array([0, 0, 0, 0, 0, 1, 1, 1]),
        make_phases("phased", ORDER[:2], (1, 1)),
        Geometry(1, 2, 1),
        shuffle=False,
        packing=packing([6, 6, 6, 4, 3, 4, 9, 8], 10, 100),
    )
    assert list(plan.batches()) == [[[0, 3]], [[1, 4]], [[2, 5]], [[6]], [[7]]]
    assert plan.phase_starts == (0, 1)
    assert plan.num_steps == 3
    assert [plan.rows_until(step) for step in range(4)] == [0, 4, 7, 8]


def test_a_last_bin_is_split_so_that_every_process_has_one() -> None:
    # One bin with 5 rows for 4 processes: halves of the largest, 5 -> 3 2 -> 2 1 2 -> 1 1 1 2.
    plan = build_plan(
        np.zeros(5, dtype=int),
        make_phases("phased", ORDER[:1], (1,)),
        Geometry(4, 1, 1),
        shuffle=False,
        packing=packing([1] * 5, 10, 100),
    )
    assert list(plan.batches()) == [[[0]], [[1]], [[2]], [[3, 4]]]


def test_stage_with_no_epochs_is_left_out() -> None:
    phases = make_phases("phased", ORDER, (1, 0, 2))
    assert [(phase.name, phase.stages) for phase in phases] == [
        ("conservative", (0,)),
        ("exploratory", (2,)),
    ]


def test_shuffling_follows_the_seed() -> None:
    def order(seed: int) -> list[int]:
        stages = np.zeros(50, dtype=int)
        plan = build_plan(stages, make_phases("phased", ORDER[:1], (2,)), Geometry(), seed=seed)
        return plan.rows_R.tolist()

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:50] != order(1)[50:], "each epoch has an order of its own"


# --- properties ------------------------------------------------------------------------------


@st.composite
def runs(draw: st.DrawFn) -> dict[str, Any]:
    num_stages = draw(st.integers(1, 4))
    rows = draw(st.integers(0, 120))
    epochs = draw(st.lists(st.integers(0, 3), min_size=num_stages, max_size=num_stages).filter(any))
    capacity = draw(st.integers(8, 40))
    return {
        "stages": draw(st.lists(st.integers(0, num_stages - 1), min_size=rows, max_size=rows)),
        "epochs": epochs,
        "mode": draw(st.sampled_from(["phased", "cumulative"])),
        "geometry": Geometry(
            draw(st.sampled_from([1, 2, 3, 4, 8])), draw(st.integers(1, 4)), draw(st.integers(1, 3))
        ),
        "lengths": draw(
            st.none() | st.lists(st.integers(1, capacity), min_size=rows, max_size=rows)
        ),
        "capacity": capacity,
        "group_size": draw(st.integers(1, 60)),
        "drop_last": draw(st.booleans()),
        "shuffle": draw(st.booleans()),
        "seed": draw(st.integers(0, 5)),
    }


def planned(run: dict[str, Any]) -> Plan:
    names = [f"s{number}" for number in range(len(run["epochs"]))]
    return build_plan(
        np.asarray(run["stages"], dtype=np.int64),
        make_phases(run["mode"], names, run["epochs"]),
        run["geometry"],
        seed=run["seed"],
        shuffle=run["shuffle"],
        packing=None
        if run["lengths"] is None
        else packing(run["lengths"], run["capacity"], run["group_size"]),
        drop_last=run["drop_last"],
    )


def expected_counts(run: dict[str, Any]) -> Counter[int]:
    """How often each row is trained on: its stage's epochs, and in cumulative mode those of
    every later stage too."""
    counts: Counter[int] = Counter()
    for row, stage in enumerate(run["stages"]):
        later = run["epochs"][stage:] if run["mode"] == "cumulative" else [run["epochs"][stage]]
        counts[row] = sum(later)
    return +counts


@settings(max_examples=400)
@given(runs())
def test_every_row_appears_as_often_as_its_epochs_say(run: dict[str, Any]) -> None:
    plan = planned(run)
    seen = Counter(row for step in rows_of(plan) for row in step)
    missing = expected_counts(run) - seen
    assert not seen - expected_counts(run), "no row more often"
    assert missing.total() == plan.dropped
    if not run["drop_last"]:
        assert plan.dropped == 0
    elif run["lengths"] is None:
        assert plan.dropped < run["geometry"].step, "less than one step is dropped"
    assert plan.num_rows == seen.total()


@settings(max_examples=400)
@given(runs())
def test_stages_never_run_back(run: dict[str, Any]) -> None:
    """With one phase a stage, the stages of a step begin where those of the step before end."""
    run["mode"] = "phased"
    plan = planned(run)
    stages = [sorted(run["stages"][row] for row in step) for step in rows_of(plan)]
    for before, after in itertools.pairwise(stages):
        assert before[-1] <= after[0]


@settings(max_examples=400)
@given(runs())
def test_steps_have_the_shape_that_training_needs(run: dict[str, Any]) -> None:
    plan = planned(run)
    geometry = run["geometry"]
    steps = steps_of(plan)
    assert len(steps) == plan.num_steps
    assert plan.num_batches % geometry.world_size == 0, "all processes take part in every turn"
    batches = list(plan.batches())
    assert len(batches) == plan.num_batches
    full = batches[: (plan.num_steps - 1) * geometry.world_size * geometry.accumulation]
    assert all(len(batch) == geometry.micro_batch for batch in full)
    assert all(1 <= len(batch) <= geometry.micro_batch for batch in batches)
    counted = [len(flatten(batch)) * bool(plan.rows_in(b)) for b, batch in enumerate(batches)]
    assert counted == [plan.rows_in(batch) for batch in range(plan.num_batches)]
    if not all(plan.rows_in(batch) for batch in range(plan.num_batches)):
        assert sum(map(len, steps[-1][-geometry.world_size :])) < geometry.world_size
    assert [plan.rows_until(step + 1) for step in range(len(steps))] == list(
        np.cumsum([len(rows) for rows in rows_of(plan)])
    )


@settings(max_examples=400)
@given(runs())
def test_bins_hold_no_more_than_their_capacity(run: dict[str, Any]) -> None:
    plan = planned(run)
    if run["lengths"] is None:
        return
    for batch in plan.batches():
        for unit in batch:
            assert isinstance(unit, list)
            assert sum(run["lengths"][row] for row in unit) <= run["capacity"]


@settings(max_examples=400)
@given(runs())
def test_phases_begin_where_the_arithmetic_says(run: dict[str, Any]) -> None:
    """Without packing a phase begins in the step that holds its first row."""
    run["lengths"] = None
    plan = planned(run)
    first = 0
    names = [f"s{number}" for number in range(len(run["epochs"]))]
    for number, phase in enumerate(make_phases(run["mode"], names, run["epochs"])):
        assert plan.phase_starts[number] == min(first // run["geometry"].step, plan.num_steps)
        first += phase.epochs * sum(stage in phase.stages for stage in run["stages"])


@settings(max_examples=200)
@given(runs())
def test_phase_boundaries_of_packed_runs(run: dict[str, Any]) -> None:
    """The rows that no earlier phase has are first met in the step where their phase begins."""
    run["mode"], run["drop_last"] = "phased", False
    plan = planned(run)
    met: dict[int, int] = {}
    for step, rows in enumerate(rows_of(plan)):
        for row in rows:
            met.setdefault(run["stages"][row], step)
    trained = [stage for stage, epochs in enumerate(run["epochs"]) if epochs]
    for number, stage in enumerate(trained):
        if stage in met:
            assert met[stage] >= plan.phase_starts[number]
            assert plan.phase_at(met[stage]) >= number
    assert sorted(plan.phase_starts) == list(plan.phase_starts)


@pytest.mark.parametrize("world_size", [2, 3, 4, 8])
def test_processes_share_the_steps_of_one_process(world_size: int) -> None:
    """N processes see, step by step, what one with N times the accumulation sees."""
    stages = np.arange(200) % 3
    phases = make_phases("phased", ORDER, (2, 1, 1))
    many = build_plan(stages, phases, Geometry(world_size, 1, 2), seed=3)
    one = build_plan(stages, phases, Geometry(1, world_size, 2), seed=3)
    assert [sorted(step) for step in rows_of(many)] == [sorted(step) for step in rows_of(one)]
    assert many.phase_starts == one.phase_starts
