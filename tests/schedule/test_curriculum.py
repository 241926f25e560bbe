"""From a recipe and its data to a plan; how plans reach several processes; what is refused."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_ual.columns import STAGES
from axolotl_ual.errors import (
    AnnotationError,
    ConfigError,
    DataError,
    UALError,
    UnsupportedError,
)
from axolotl_ual.schedule.layout import Generation, Layout, Rows, lay_out
from axolotl_ual.schedule.plan import Geometry, Plan, build_plan, make_phases
from axolotl_ual.schedule.staging import Staging, fit_staging
from axolotl_ual.settings.curriculum import CurriculumConfig
from axolotl_ual.training.batches import PlanSampler
from axolotl_ual.training.boundaries import StagedSchedule, check_resume, write_progress
from axolotl_ual.training.transitions import Scores, Tally, TransitionTable
from reference.first_fit import first_fit


def section(**keys: Any) -> CurriculumConfig:
    return CurriculumConfig(mode="phased", **keys)


# --- stages ------------------------------------------------------------------------------------


def test_names_are_numbered_by_the_order() -> None:
    config = section(order=["easy", "hard"], by="level")
    staging = fit_staging(["hard", "easy", "hard"], config)
    assert staging.number(["hard", "easy"]).tolist() == [1, 0]


def test_numbers_are_cut_into_equal_parts() -> None:
    # Six values, three parts of two: cuts after 0.2 and 0.5.
    values = [0.5, 0.1, 0.9, 0.2, 0.4, 0.7]
    staging = fit_staging(values, section(by="uncertainty"))
    assert staging.number(values).tolist() == [1, 0, 2, 0, 1, 2]
    assert staging.number([0.0, 0.3, 1.0]).tolist() == [0, 1, 2]


def test_a_large_gap_comes_first_and_what_is_missing_in_the_middle() -> None:
    values = [0.9, 0.5, 0.1, None]
    staging = fit_staging(values, section(by="gap"))
    assert staging.number(values).tolist() == [0, 1, 2, 1]
    assert staging.keys(values)[0] == -0.9


def test_equal_values_share_a_stage() -> None:
    # Thirds of 9 values would cut at 3 and 6, inside the run of 0.5; the nearest changes of the
    # sorted values 0.1 0.2 0.5 0.5 0.5 0.5 0.5 0.8 0.9 are at 2 and 7.
    values = [0.5, 0.1, 0.5, 0.2, 0.5, 0.8, 0.5, 0.9, 0.5]
    staging = fit_staging(values, section(by="uncertainty"))
    assert staging.number(values).tolist() == [1, 0, 1, 0, 1, 2, 1, 2, 1]


@settings(max_examples=100)
@given(
    st.lists(st.integers(0, 1000).map(lambda v: v / 1000), min_size=30, unique=True),
    st.integers(1, 5),
)
def test_parts_differ_by_one_row_at_most(values: list[float], parts: int) -> None:
    config = section(by="uncertainty", order=[f"s{part}" for part in range(parts)])
    stages = fit_staging(values, config).number(values)
    counts = np.bincount(stages, minlength=parts)
    assert counts.max() - counts.min() <= 1
    for stage in range(parts - 1):
        lower = [v for v, s in zip(values, stages, strict=True) if s <= stage]
        upper = [v for v, s in zip(values, stages, strict=True) if s > stage]
        assert max(lower) < min(upper)


@pytest.mark.parametrize(
    ("values", "config", "said"),
    [
        (["a", "b"], section(by="x", order=["a"]), "1 rows are in a stage"),
        (["moderat", *STAGES], section(), "did you mean 'moderat' by `moderate`"),
        (["a", "a"], section(by="x", order=["a", "b"]), "no training row is in stage `b`"),
        ([0.5, 0.5, 0.5], section(by="uncertainty"), "no training row is in stage"),
        (["a"], section(by="x", order=["a"], direction="ascending"), "holds names"),
    ],
)
def test_stages_that_do_not_fit_the_data_are_named(
    values: list[Any], config: CurriculumConfig, said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        fit_staging(values, config)
    assert said in str(error.value)


def test_a_stage_without_rows_may_have_no_epochs() -> None:
    staging = fit_staging(["a"], section(by="x", order=["a", "b"], epochs=[1, 0]))
    assert staging.number(["a"]).tolist() == [0]


def test_values_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="is not a number"):
        fit_staging([[1], [2, 3]], section(by="x"))


# --- the plan of a recipe ------------------------------------------------------------------------


def recipe(**keys: Any) -> Any:
    from axolotl.utils.dict import DictDefault

    return DictDefault(
        {
            "num_epochs": 2,
            "seed": 1,
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "sequence_len": 10,
            "sample_packing_group_size": 1000,
            "multipack_real_batches": False,
            **keys,
        }
    )


def loaded(rows: int = 12, **columns: list[Any]) -> Any:
    from datasets import Dataset

    data = {
        "length": [3] * rows,
        "ual_stage": [STAGES[row % 3] for row in range(rows)],
        **columns,
    }
    return SimpleNamespace(
        train_dataset=Dataset.from_dict(data), eval_dataset=None, total_num_steps=99
    )


def test_steps_follow_from_the_stages_and_their_epochs() -> None:
    from axolotl_ual.schedule.curriculum import prepare, summary

    # Four rows a stage; 1, 2 and 3 epochs are 4 + 8 + 12 = 24 rows: 6 steps of 4.
    cfg = recipe(saves_per_epoch=2, save_steps=1 / 4, evals_per_epoch=None)
    curriculum, meta = prepare(cfg, section(epochs=[1, 2, 3]), loaded())
    assert meta.total_num_steps == 6
    # 24 rows are two passes over the 12 rows; two saves in each are every quarter of the run.
    assert (cfg.num_epochs, cfg.save_steps) == (2.0, 1 / 4)
    plan = curriculum.plan
    assert plan.phase_starts == (0, 1, 3)
    assert "exploratory: 3 epoch(s), steps 4 to 6" in summary(curriculum)


def test_without_epochs_num_epochs_counts_for_each_stage() -> None:
    from axolotl_ual.schedule.curriculum import prepare

    _, meta = prepare(recipe(), section(), loaded())
    assert meta.total_num_steps == 2 * 12 / 4


def test_max_steps_ends_the_run_earlier_but_never_later() -> None:
    from axolotl_ual.schedule.curriculum import prepare, summary

    curriculum, meta = prepare(recipe(max_steps=3), section(), loaded())
    assert meta.total_num_steps == 3
    assert "ends the run in stage moderate" in summary(curriculum)
    _, meta = prepare(recipe(max_steps=300), section(), loaded())
    assert meta.total_num_steps == 6


@pytest.mark.parametrize("real_batches", [False, True])
def test_packing_is_axolotls_inside_each_stage(real_batches: bool) -> None:
    from axolotl_ual.schedule.curriculum import prepare

    # Bins of 20 tokens (10 x 2 rows) or two bins of 10 in a micro-batch.
    lengths = [7, 4, 5, 3, 9, 2, 6, 6, 1, 8, 5, 4]
    cfg = recipe(sample_packing=True, multipack_real_batches=real_batches, num_epochs=1)
    curriculum, _ = prepare(cfg, section(shuffle=False), loaded(length=lengths))
    plan = curriculum.plan
    batches = list(plan.batches())
    capacity = 10 if real_batches else 20
    first = [row for row in range(12) if row % 3 == 0]
    expected = first_fit([lengths[row] for row in first], capacity, 1000)
    firsts = [[first[place] for place in unit] for unit in expected]
    assert [unit for batch in batches for unit in batch][: len(firsts) // 4 * 4] == firsts[
        : len(firsts) // 4 * 4
    ]
    rows = [row for batch in batches for unit in batch for row in unit]
    assert sorted(rows) == list(range(12))
    assert all(sum(lengths[row] for row in unit) <= capacity for b in batches for unit in b)


def test_a_column_of_the_users_own_can_order_the_rows() -> None:
    from axolotl_ual.schedule.curriculum import prepare

    hardness = [float(row) for row in range(12)]
    config = section(by="hardness", direction="descending", shuffle=False)
    curriculum, meta = prepare(recipe(num_epochs=1), config, loaded(hardness=hardness))
    assert "ual_by" in meta.train_dataset.column_names, "collators leave out what is ours"
    plan = curriculum.plan
    assert plan.rows_R.tolist() == list(range(11, -1, -1))


def test_a_missing_column_and_a_broken_epoch_are_named() -> None:
    from axolotl_ual.schedule.curriculum import prepare

    with pytest.raises(AnnotationError, match="no column `ual_gap`"):
        prepare(recipe(), section(by="gap"), loaded())
    with pytest.raises(ConfigError, match=r"num_epochs: 1\.5.*\n.*set a whole number"):
        prepare(recipe(num_epochs=1.5), section(), loaded())


def test_streaming_data_are_refused_where_they_slip_through() -> None:
    from axolotl_ual.schedule.curriculum import prepare

    meta = SimpleNamespace(train_dataset=iter([]), eval_dataset=None)
    with pytest.raises(UALError, match=r"a streaming dataset has.*\n.*`streaming: false`"):
        prepare(recipe(), section(), meta)


# --- several processes ---------------------------------------------------------------------------


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("rows", [1, 7, 24, 61])
def test_accelerate_gives_each_process_its_share(world_size: int, rows: int) -> None:
    """Every process gets as many batches, and together they are the plan, in its order."""
    from accelerate.data_loader import BatchSamplerShard

    plan = build_plan(
        np.arange(rows) * 3 // rows,
        make_phases("phased", STAGES, (1, 1, 1)),
        Geometry(world_size, 2, 2),
    )
    shares = [
        list(BatchSamplerShard(PlanSampler(plan), world_size, rank, even_batches=False))
        for rank in range(world_size)
    ]
    assert len({len(share) for share in shares}) == 1
    together = [share[turn] for turn in range(len(shares[0])) for share in shares]
    assert together == list(plan.batches())


# --- boundaries ----------------------------------------------------------------------------------


def small_plan(seed: int = 0) -> Plan:
    stages = np.array([0, 0, 1, 1, 2, 2])
    return build_plan(stages, make_phases("phased", STAGES, (1, 1, 1)), Geometry(), seed=seed)


def test_rates_are_scaled_step_by_step_and_go_on_after_a_resume() -> None:
    def make() -> tuple[Any, StagedSchedule]:
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        # Continues from the rate it finds, so a scaled rate must never reach it.
        base = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.5)
        return optimizer, StagedSchedule(base, optimizer, lambda step: [1.0, 10.0, 2.0, 2.0][step])

    optimizer, schedule = make()
    seen = []
    for _ in range(4):
        seen.append(optimizer.param_groups[0]["lr"])
        if len(seen) == 2:
            saved = (schedule.state_dict(), optimizer.state_dict())
        if len(seen) < 4:
            optimizer.step()
            schedule.step()
    # 1, 1/2, 1/4, 1/8 times 1, 10, 2, 2.
    assert seen == [1.0, 5.0, 0.5, 0.25]
    optimizer, schedule = make()
    optimizer.load_state_dict(saved[1])
    schedule.load_state_dict(saved[0])
    assert schedule.get_last_lr() == [5.0]
    optimizer.step()
    schedule.step()
    assert schedule.get_last_lr() == [0.5]


def test_only_the_same_order_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without this curriculum"):
        check_resume(tmp_path, small_plan())
    write_progress(tmp_path, small_plan(), list(STAGES), 3)
    check_resume(tmp_path, small_plan())
    with pytest.raises(ConfigError, match="in another order"):
        check_resume(tmp_path, small_plan(seed=1))
    with pytest.raises(ConfigError, match=r"refresh_reference: true: .* with the opposite"):
        check_resume(tmp_path, small_plan(), refreshes=True)
    write_progress(tmp_path, small_plan(), list(STAGES), 3, refreshes=True)
    check_resume(tmp_path, small_plan(), refreshes=True)
    with pytest.raises(ConfigError, match=r"reestimate: by x: .* the smoothing of the data"):
        check_resume(tmp_path, small_plan(), refreshes=True, estimates="by x")
    write_progress(tmp_path, small_plan(), list(STAGES), 3, estimates="by y")
    with pytest.raises(ConfigError, match=r"reestimate: not set: .* trained with by y"):
        check_resume(tmp_path, small_plan())
    check_resume(tmp_path, small_plan(), estimates="by y")


# --- prompts -----------------------------------------------------------------------------------


def prompts(generation: Generation, micro_batch: int = 2, num_prompts: int = 7) -> Plan:
    rows = Rows(np.array([0] * 4 + [1] * (num_prompts - 4)), None, None)
    layout = Layout(2, 3, micro_batch, None, rows.digest(), generation)
    phases = make_phases("phased", ["easy", "hard"], [1, 1])
    return lay_out(rows, layout, phases, seed=0, shuffle=False, drop_last=False)


def test_what_is_sampled_at_a_time_may_serve_several_steps() -> None:
    # 2 processes of 3 micro-batches of 2: a step of 12 responses. 24 at a time, 8 to a prompt, are
    # 3 prompts; trained on twice they are 4 steps. 7 prompts are 2 times 3, and one is left out.
    plan = prompts(Generation(8, 24, 2))
    assert (plan.repeats, plan.num_steps, plan.dropped) == (4, 8, 1)
    assert plan.rows_R.tolist() == [0, 1, 2, 3, 4, 5]
    # The second stage's first prompt, 4, is answered the second time: its steps are 4 to 7.
    assert plan.phase_starts == (0, 4) and plan.boundaries == (4, 8)
    assert [plan.phase_at(step) for step in range(8)] == [0] * 4 + [1] * 4
    assert [plan.rows_until(step) for step in range(9)] == [0, 3, 3, 3, 3, 6, 6, 6, 6]


def test_what_is_sampled_at_a_time_may_end_inside_a_step() -> None:
    # 8 responses at a time, 2 to a prompt, are 4 prompts and 2 of the 3 micro-batches of a step: 12
    # prompts are 3 times, in 2 steps, and the first step has begun the second time.
    plan = prompts(Generation(2, 8, 1), num_prompts=12)
    assert (plan.repeats, plan.num_steps, plan.dropped) == (Fraction(2, 3), 2, 0)
    assert [plan.rows_until(step) for step in range(3)] == [0, 8, 12]
    # The second stage's first prompt, 4, is the first of the second time: of the first step.
    assert plan.phase_starts == (0, 0) and plan.boundaries == (2,)
    # 9 prompts are 2 times, whose last micro-batch is a step of its own.
    assert prompts(Generation(2, 8, 1), num_prompts=9).num_steps == 2


@pytest.mark.parametrize(
    ("generation", "kind", "said"),
    [
        (Generation(2, 18, 1), UnsupportedError, "18 responses at a time are no whole number of"),
        (Generation(1, 12, 1), ConfigError, "12 prompts are sampled at a time, and the curriculum"),
    ],
)
def test_what_is_sampled_at_a_time_must_fit(
    generation: Generation, kind: type[UALError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        prompts(generation)


def test_calibration_by_hand() -> None:
    # Bins of 1/15: 0.9 and 0.91 share one (13), 0.3 has its own (4). Gaps: |1 - 1.81| of the
    # first (one of two came true), |0 - 0.3| of the second: (0.81 + 0.3) / 3.
    tally = Tally()
    tally.add(
        Scores(
            torch.tensor([1.0, 2.0, 6.0]),
            torch.tensor([0.9, 0.91, 0.3]),
            torch.tensor([1.0, 0.0, 0.0]),
        )
    )
    results = tally.results()
    assert results["loss"] == pytest.approx(3.0)
    assert results["ece_width_15"] == pytest.approx(1.11 / 3)
    assert Tally().results() == {}


def test_calibration_of_many_tokens_is_exact() -> None:
    # 1.5 million tokens of confidence 0.8 in float32, four in five of them right, in batches of
    # 1,000: calibrated but for the rounding of 0.8. Added up in float32, one by one, they drift.
    tally = Tally()
    batch = Scores(torch.ones(1000), torch.full((1000,), 0.8), torch.arange(1000) % 5 > 0)
    for _ in range(1500):
        tally.add(batch)
    assert tally.results() == {
        "loss": 1.0,
        "ece_width_15": pytest.approx(abs(float(np.float32(0.8)) - 0.8), abs=1e-9),
    }


def test_a_resumed_run_writes_its_own_lines_anew(tmp_path: Path) -> None:
    table = TransitionTable(tmp_path, ["easy"])
    table.add(0, "start", {"eval_loss": 2.0, "eval_easy_loss": 1.5})
    table.add(4, "after easy", {"eval_loss": 1.0, "eval_runtime": 9.0})
    table.add(4, "after easy", {"eval_loss": 0.5})
    assert table.path.read_text().splitlines() == [
        "step,at,eval_loss,eval_ece_width_15,eval_easy_loss,eval_easy_ece_width_15",
        "0,start,2.0,,1.5,",
        "4,after easy,0.5,,,",
    ]


def test_staging_names_of_a_validation_set_must_be_known() -> None:
    with pytest.raises(ConfigError, match="a stage that"):
        Staging(("easy",)).number(["hard"])


def test_what_is_due_after_each_step() -> None:
    """Two epochs over 6 rows, one row a step: epochs end where 6 and 12 rows are trained on."""
    from transformers import TrainerControl
    from transformers.trainer_utils import IntervalStrategy

    from axolotl_ual.training.boundaries import CurriculumCallback

    stages = np.array([0, 0, 0, 1, 1, 1])
    plan = build_plan(stages, make_phases("phased", ["a", "b"], (1, 3)), Geometry())
    trainer = SimpleNamespace(
        plan=plan,
        train_dataset=range(6),
        curriculum=SimpleNamespace(config=section(save_at_boundary=True)),
    )
    callback = CurriculumCallback(trainer)
    args = SimpleNamespace(
        save_strategy=IntervalStrategy.NO,
        eval_strategy=IntervalStrategy.EPOCH,
        logging_strategy=IntervalStrategy.STEPS,
    )
    due: dict[str, list[int]] = {"save": [], "evaluate": [], "log": []}
    epochs = []
    for step in range(1, 13):
        control, state = TrainerControl(), SimpleNamespace(global_step=step, max_steps=12)
        callback.on_step_end(args, state, control)
        epochs.append(state.epoch)
        for kind, steps in due.items():
            if getattr(control, f"should_{kind}"):
                steps.append(step)
    assert epochs == [step / 6 for step in range(1, 13)]
    # The last epoch's end is the end of the run, which the trainer sees to itself.
    assert due == {"save": [3, 12], "evaluate": [6], "log": [3, 12]}
