"""Real runs whose reference is the model before each stage, under engines that shard the model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import recipe_runs
from curriculum_data import pairs_entry, write_pairs

import tiny

pytestmark = pytest.mark.slow

ZERO: dict[str, str] = {"ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"}
REFERENCES = [0, 1, 1, 3, 3]
"""Steps of 4 pairs, of 6, 6 and 8: the second stage begins with step 2, the third with step 4."""
FSDP2: dict[str, Any] = {
    "fsdp_version": 2,
    "fsdp_config": {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
        "reshard_after_forward": True,
        "state_dict_type": "SHARDED_STATE_DICT",
    },
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("refreshed")
    tiny.make_model(folder / "model", initializer_range=0.3)
    write_pairs(folder / "pairs.parquet", (6, 6, 8))
    return folder


def settings(work: Path, name: str, **overrides: Any) -> dict[str, Any]:
    """Two processes of two pairs each."""
    given: dict[str, Any] = {
        "plugins": ["axolotl_ual.UALPlugin"],
        "rl": "dpo",
        "chat_template": "tokenizer_default",
        "max_steps": None,
        "micro_batch_size": 2,
        "learning_rate": 0.002,
        "save_strategy": "steps",
        "save_steps": 2,
        "ual": {"curriculum": {"mode": "phased", "refresh_reference": True}},
        **overrides,
    }
    return tiny.recipe(work / "model", work / name, [pairs_entry(work / "pairs.parquet")], **given)


ENGINES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "zero2": ("DeepSpeedOnCPU", {"deepspeed": str(recipe_runs.DEEPSPEED / "zero2.json")}, ZERO),
    "zero3": ("DeepSpeedOnCPU", {"deepspeed": str(recipe_runs.DEEPSPEED / "zero3.json")}, ZERO),
    "fsdp2": ("FSDPOnCPU", FSDP2, {}),
}


def train(work: Path, name: str, engine: str | None = None, **overrides: Any) -> tiny.Run:
    """On two processes; without an engine it is plain data parallelism."""
    launch = {key: overrides.pop(key) for key in ("check", "keep") if key in overrides}
    environment: dict[str, str] = {}
    if engine is not None:
        stand_in, further, environment = ENGINES[engine]
        plugins = [f"tiny_plugins.{stand_in}", "axolotl_ual.UALPlugin"]
        overrides = {"plugins": plugins, **further, **overrides}
    given = settings(work, name, **overrides)
    return tiny.axolotl(given, work / name, processes=2, environment=environment, **launch)


@pytest.fixture(scope="module")
def alone(work: Path) -> tiny.Run:
    """An adapter without an engine."""
    run = train(work, "ddp")
    assert run.values("ual/reference_step") == REFERENCES
    # A stage begins at its own reference, and leaves it.
    assert [margin == 0.0 for margin in run.values("rewards/margins")] == [1, 1, 0, 1, 0]
    return run


def adapter(run: tiny.Run) -> bytes:
    return (run.output / "adapter_model.safetensors").read_bytes()


def assert_equal_runs(found: tiny.Run, wanted: tiny.Run) -> None:
    assert found.values("ual/reference_step") == REFERENCES
    for key in ("loss", "rewards/chosen", "grad_norm"):
        expected = wanted.values(key)
        assert found.values(key) == pytest.approx(expected, rel=1e-4, abs=1e-5), key


def assert_part_of_each_process(checkpoint: Path) -> None:
    parts = [f"ual_reference-0000{number}-of-00002.safetensors" for number in (1, 2)]
    assert sorted(path.name for path in checkpoint.glob("ual_reference*")) == parts


def test_shards_of_fsdp2_have_the_reference_of_whole_parameters(
    work: Path, alone: tiny.Run
) -> None:
    """Then once more from inside the second stage, whose reference is of the first step."""
    whole = train(work, "fsdp2", "fsdp2")
    assert_equal_runs(whole, alone)
    kept = work / "kept" / "checkpoint-2"
    shutil.copytree(whole.output / "checkpoint-2", kept)
    assert_part_of_each_process(kept)
    resumed = train(work, "resumed", "fsdp2", resume_from_checkpoint=str(kept))
    assert resumed.values("loss") == whole.values("loss")[2:]
    assert adapter(resumed) == adapter(whole)


def test_shards_of_zero3_too_also_where_a_killed_run_goes_on(work: Path, alone: tiny.Run) -> None:
    """The second process is killed behind the third step, and the run started again."""
    whole = train(work, "zero3", "zero3")
    assert_equal_runs(whole, alone)
    killed = ["tiny_plugins.KilledOnce", "tiny_plugins.DeepSpeedOnCPU", "axolotl_ual.UALPlugin"]
    broken = train(work, "killed", "zero3", plugins=killed, check=False)
    assert broken.returncode != 0
    assert [path.name for path in broken.output.glob("checkpoint-*")] == ["checkpoint-2"]
    assert_part_of_each_process(broken.output / "checkpoint-2")
    last = str(broken.output / "checkpoint-2")
    again = train(work, "killed", "zero3", plugins=killed, keep=True, resume_from_checkpoint=last)
    assert again.values("loss")[-3:] == whole.values("loss")[2:]
    assert adapter(again) == adapter(whole)


def test_all_parameters_train_from_stage_to_stage_too(work: Path) -> None:
    """With ZeRO-2 and a reference model; and on one process without, its figures computed before.

    Later references are run in either case, so that the figures are the same.
    """
    every = {"adapter": None, "save_strategy": "no", "save_steps": None}
    with_model = train(work, "with-a-model", "zero2", **every)
    cut = {"precompute_ref_log_probs": True, "gradient_accumulation_steps": 2}
    before = tiny.axolotl(
        settings(work, "before", **cut, **every),
        work / "before",
        environment={"HF_DATASETS_CACHE": str(work / "cache")},
    )
    assert "Computing reference log probs" in before.text
    assert_equal_runs(before, with_model)
