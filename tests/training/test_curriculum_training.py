"""Real runs of `axolotl train` with a curriculum: order, resume, processes, transitions."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from curriculum_data import NAMES, pairs_entry, write_pairs, write_samples

import tiny

pytestmark = pytest.mark.slow

PLUGIN = "axolotl_ual.UALPlugin"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curriculum")
    tiny.make_model(folder / "model")
    # Steps of 4 rows: 10 rows are 2.5 of them, so that both tails need the rule.
    write_samples(folder / "rows.jsonl", (10, 9, 8))
    write_pairs(folder / "pairs.parquet", (10, 9, 8))
    return folder


def sft(work: Path, name: str, **overrides: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "plugins": [PLUGIN],
        "max_steps": None,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "lora_dropout": 0.1,
        "save_strategy": "no",
        "ual": {"curriculum": {"mode": "phased"}},
        **overrides,
    }
    entry = {"path": str(work / "rows.jsonl"), "type": "alpaca"}
    return tiny.recipe(work / "model", work / name, [entry], **settings)


def preference(work: Path, name: str, rl: str = "dpo", **overrides: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "plugins": [PLUGIN],
        "rl": rl,
        "chat_template": "tokenizer_default",
        "max_steps": None,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
        "ual": {"curriculum": {"mode": "phased"}},
        **overrides,
    }
    entry = pairs_entry(work / "pairs.parquet")
    return tiny.recipe(work / "model", work / name, [entry], **settings)


def second_stage(output: Path) -> int:
    """A step inside the second stage, not at its end."""
    for path in sorted(output.glob("checkpoint-*/ual_curriculum.json")):
        record = json.loads(path.read_text())
        if record["stage"] == "moderate" and not record["boundary"]:
            return int(record["step"])
    raise AssertionError("no checkpoint inside the second stage")


def adapter(output: Path) -> bytes:
    return (output / "adapter_model.safetensors").read_bytes()


def test_stages_are_trained_in_order_and_checkpoints_say_where(work: Path) -> None:
    # 27 rows in steps of 4 are 6 full steps and one of 3 rows. The first stage's 10 rows end in
    # step 3, which therefore belongs to the second; its 9 rows end in step 5 (row 19 of 20).
    run = tiny.axolotl(
        sft(
            work,
            "order",
            ual={
                "curriculum": {
                    "mode": "phased",
                    "learning_rate_scale": [1.0, 0.5, 0.25],
                    "save_at_boundary": True,
                }
            },
        ),
        work / "order",
    )
    assert run.values("ual/stage") == [1, 1, 2, 2, 3, 3, 3]
    assert run.values("learning_rate")[:7] == [0.01, 0.01, 0.005, 0.005, 0.0025, 0.0025, 0.0025]
    assert run.values("epoch")[:7] == pytest.approx(
        [4 / 27, 8 / 27, 12 / 27, 16 / 27, 20 / 27, 24 / 27, 1.0]
    )
    # Uncertainty rises from stage to stage, and each stage logs under its own name as well.
    uncertainty = run.values("ual/uncertainty")
    assert max(uncertainty[:2]) < 1 / 3 < min(uncertainty[3:4]) < 2 / 3 < min(uncertainty[5:])
    assert run.values("ual/conservative/loss") == run.values("loss")[:2]
    assert run.values("ual/exploratory/uncertainty") == uncertainty[4:]
    assert sum(run.values("ual/tokens")) == run.values("tokens/trainable")[-1]
    said = {
        int(path.parent.name.partition("-")[2]): json.loads(path.read_text())
        for path in run.output.glob("checkpoint-*/ual_curriculum.json")
    }
    assert {step: record["stage"] for step, record in said.items()} == {
        2: "conservative",
        4: "moderate",
        7: "exploratory",
    }
    assert "conservative: 1 epoch(s), steps 1 to 2" in run.text
    assert "Total optimization steps = 7" in run.text or "7/7" in run.text


def test_prepared_data_serve_every_order(work: Path) -> None:
    """First without a curriculum, then by stage, then by a column that only the source has."""
    plain = sft(work, "prepared", max_steps=1)
    del plain["ual"]
    tiny.axolotl(plain, work / "prepared")
    staged = tiny.axolotl(sft(work, "prepared", max_steps=3), work / "prepared")
    assert staged.values("ual/stage") == [1, 1, 2]
    curriculum = {
        "mode": "phased",
        "by": "difficulty",
        "direction": "descending",
        "order": ["easy", "hard"],
        "shuffle": False,
    }
    run = tiny.axolotl(sft(work, "prepared", ual={"curriculum": curriculum}), work / "prepared")
    # Difficulty is 1 - uncertainty in these rows, so uncertainty rises all the way.
    uncertainty = run.values("ual/uncertainty")
    assert uncertainty == sorted(uncertainty)
    assert len(run.values("ual/easy/loss")) == 3 and len(run.values("ual/hard/loss")) == 4


def test_a_stage_that_no_row_has_stops_before_the_model_is_loaded(work: Path) -> None:
    curriculum = {"mode": "phased", "order": [*NAMES, "heroic"]}
    settings = sft(work, "refused", base_model_config=str(work / "model"))
    settings["ual"] = {"curriculum": curriculum}
    run = tiny.axolotl(settings, work / "refused", check=False)
    assert run.returncode != 0
    assert "no training row is in stage `heroic`" in run.text
    assert "Loading weights" not in run.text and "Loading model" not in run.text


@pytest.mark.parametrize("kind", ["plain", "packed", "dpo"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(work: Path, kind: str) -> None:
    # Interrupted inside the second stage, under dropout and a falling rate.
    overrides: dict[str, Any] = {
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 99,
        "lr_scheduler": "cosine",
        "ual": {
            "curriculum": {
                "mode": "phased",
                "epochs": [1, 2, 1],
                "learning_rate_scale": [1.0, 0.5, 2.0],
            }
        },
    }
    name = f"resume-{kind}"
    if kind == "dpo":
        overrides["ual"]["curriculum"]["refresh_reference"] = True
        settings = preference(work, name, **overrides)
    elif kind == "packed":
        packed = {"sample_packing": True, "sequence_len": 128, "micro_batch_size": 1}
        settings = sft(work, name, **packed, **overrides)
    else:
        settings = sft(work, name, **overrides)
    whole = tiny.axolotl(settings, work / name)
    losses, expected = whole.values("loss"), adapter(whole.output)
    step = second_stage(whole.output)
    kept = work / f"{name}-checkpoint"
    shutil.copytree(whole.output / f"checkpoint-{step}", kept)
    if kind == "dpo":
        assert (kept / "ual_reference.safetensors").is_file()
        assert not (whole.output / "checkpoint-1" / "ual_reference.safetensors").is_file()
    resumed = tiny.axolotl({**settings, "resume_from_checkpoint": str(kept)}, work / name)
    assert resumed.values("loss") == losses[step:]
    assert adapter(resumed.output) == expected
    changed = {**settings, "resume_from_checkpoint": str(kept), "seed": 8}
    refused = tiny.axolotl(changed, work / name, check=False)
    assert refused.returncode != 0
    assert "was trained in another order" in refused.text


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_two_processes_train_as_one_with_twice_the_accumulation(work: Path, kind: str) -> None:
    # 27 rows: the last step has 3 of 8 rows, so one process has one and is idle for a turn.
    make = sft if kind == "sft" else preference
    common: dict[str, Any] = {"lora_dropout": 0.0, "micro_batch_size": 1}
    if kind == "dpo":
        of_pairs = {"flips": "robust", "margin": {"mean": 0.5, "tau": 0.1}, "weighting": "wpo"}
        curriculum = {"mode": "phased", "refresh_reference": True}
        common["ual"] = {"curriculum": curriculum, "preference": of_pairs}
    one = tiny.axolotl(
        make(work, f"one-{kind}", gradient_accumulation_steps=8, **common), work / f"one-{kind}"
    )
    two = tiny.axolotl(
        make(work, f"two-{kind}", gradient_accumulation_steps=4, **common),
        work / f"two-{kind}",
        processes=2,
    )
    assert two.text.count("'train_runtime'") == 1, "the processes trained apart"
    assert len(one.values("loss")) == 4
    for key in ("loss", "grad_norm"):
        # One batch, cut otherwise; later steps begin from weights that were rounded otherwise.
        assert two.values(key)[0] == pytest.approx(one.values(key)[0], rel=1e-6), key
        assert two.values(key) == pytest.approx(one.values(key), rel=1e-5), key
    assert two.values("ual/tokens") == one.values("ual/tokens")
    assert two.values("ual/stage") == one.values("ual/stage")
    if kind == "dpo":
        assert "target margins of 27 training pairs are 0.5 on average" in one.text
        weights = one.values("ual/policy_weight")
        assert len(weights) == 4 and min(weights) > 0
        assert two.values("ual/policy_weight")[0] == pytest.approx(weights[0], rel=1e-6)
        assert two.values("ual/policy_weight") == pytest.approx(weights, rel=1e-5)
        # 10, 9 and 8 pairs in steps of 8: the second stage begins with step 2, the third with
        # step 3, and their policy is then the reference itself.
        for run in (one, two):
            assert run.values("ual/reference_step") == [0, 1, 2, 2]
            assert [margin == 0.0 for margin in run.values("rewards/margins")[1:]] == [1, 1, 0]
        assert "stage moderate: its reference is the model after 1 steps" in one.text


@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_transitions_are_written_down(work: Path, kind: str) -> None:
    curriculum = {"mode": "cumulative", "evaluate_at_boundary": True, "by": "ual_stage"}
    make = sft if kind == "sft" else preference
    name = f"transitions-{kind}"
    settings = make(
        work, name, val_set_size=0.3, eval_strategy="no", ual={"curriculum": curriculum}
    )
    run = tiny.axolotl(settings, work / name)
    with (run.output / "ual_transitions.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    assert [line["at"] for line in table] == [
        "start",
        "after conservative",
        "after moderate",
        "after exploratory",
    ]
    logged = run.values("eval_loss")
    assert [float(line["eval_loss"]) for line in table] == pytest.approx(logged)
    assert [float(line["eval_ece_width_15"]) for line in table] == pytest.approx(
        run.values("eval_ece_width_15")
    )
    assert logged[-1] < logged[0]
    for line in table:
        parts = [
            float(line[f"eval_{stage}_loss"])
            for stage in ("conservative", "moderate")
            if line[f"eval_{stage}_loss"]
        ]
        assert parts
        assert 0.0 <= float(line["eval_ece_width_15"]) <= 1.0


def rows_of(rl: str) -> list[dict[str, Any]]:
    """Preference data as Axolotl's types for ORPO and KTO want them."""
    rows = []
    for number in range(18):
        question = {"role": "user", "content": f"question {number}"}
        good, bad = (
            {"role": "assistant", "content": f"{kind} {number}"} for kind in ("good", "bad")
        )
        row: dict[str, Any] = {"chosen": [question, good], "rejected": [question, bad]}
        if rl == "kto":
            row = {"prompt": question["content"], "completion": "words", "label": number % 2 == 0}
        rows.append({**row, "ual_stage": NAMES[number % 3]})
    return rows


@pytest.mark.parametrize("rl", ["orpo", "kto", "simpo"])
def test_other_preference_losses_take_the_order(work: Path, rl: str) -> None:
    further: dict[str, Any] = {
        "orpo": {"orpo_alpha": 0.1},
        "simpo": {"simpo_gamma": 0.5, "rl_beta": 2.0},
        "kto": {"remove_unused_columns": False},
    }[rl]
    settings = preference(work, rl, rl, **further)
    if rl != "simpo":
        path = tiny.write_rows(work / f"{rl}.parquet", rows_of(rl))
        kind = {"field_prompt": "prompt"} if rl == "kto" else "chat_template.argilla"
        settings["datasets"] = [{"path": str(path), "type": kind, "split": "train"}]
    run = tiny.axolotl(settings, work / rl)
    assert "has no smoothing of pairs" in run.text
    stages = run.values("ual/stage")
    assert stages == sorted(stages) and set(stages) == {1.0, 2.0, 3.0}
