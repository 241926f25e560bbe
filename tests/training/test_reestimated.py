"""Real runs whose later stages are smoothed by the model in training."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import recipe_runs
from curriculum_data import NAMES
from scipy.stats import spearmanr

import tiny

pytestmark = pytest.mark.slow

FILE = "ual_reestimated.safetensors"
WORDS = ("red", "blue", "green", "five", "cat")
MEAN, MAX = 0.1, 0.3
RHO = "ual/reestimated_rank_correlation"
ENGINES: dict[str, tuple[str, dict[str, Any], dict[str, str]]] = {
    "zero3": (
        "DeepSpeedOnCPU",
        {"deepspeed": str(recipe_runs.DEEPSPEED / "zero3.json")},
        {"ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"},
    ),
    "fsdp2": (
        "FSDPOnCPU",
        {
            "fsdp_version": 2,
            "fsdp_config": {
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
                "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
                "reshard_after_forward": True,
                "state_dict_type": "SHARDED_STATE_DICT",
            },
        },
        {},
    ),
}


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reestimated")
    # Far from uniform predictions: rows differ in their scores by much more than rounding.
    tiny.make_model(folder / "model", initializer_range=0.3)
    draw = np.random.default_rng(0)
    rows = []
    # Steps of 4 rows, of 8 a stage: the second begins with step 2, the third with step 4.
    for number in range(24):
        stage = number // 8
        uncertainty = (number + 0.5) / 24
        rows.append(
            {
                "instruction": f"question {number}",
                "output": " ".join(draw.choice(WORDS, size=draw.integers(2, 13))),
                "ual_uncertainty": uncertainty,
                "ual_smoothing": 0.2 * uncertainty,
                "ual_stage": NAMES[stage],
            }
        )
    tiny.write_rows(folder / "rows.jsonl", rows)
    return folder


def settings(work: Path, name: str, **overrides: Any) -> dict[str, Any]:
    given: dict[str, Any] = {
        "plugins": ["axolotl_ual.UALPlugin"],
        "max_steps": None,
        "micro_batch_size": 1,
        "eval_batch_size": 5,
        "gradient_accumulation_steps": 4,
        "save_strategy": "steps",
        "save_steps": 1,
        "save_total_limit": 99,
        "dataset_prepared_path": str(work / "prepared"),
        "ual": {
            "curriculum": {"mode": "phased", "shuffle": False},
            "smoothing": {"mean": MEAN, "max": MAX},
            "reestimate": {"every": "stage", "estimator": "perplexity", "mapping": "minmax"},
        },
        **overrides,
    }
    entry = {"path": str(work / "rows.jsonl"), "type": "alpaca"}
    return tiny.recipe(work / "model", work / name, [entry], **given)


@pytest.fixture(scope="module")
def whole(work: Path) -> tiny.Run:
    return tiny.axolotl(settings(work, "whole", lora_dropout=0.1), work / "whole")


def estimated(output: Path, step: int) -> dict[str, Any]:
    from safetensors.numpy import load_file

    found: dict[str, Any] = load_file(output / f"checkpoint-{step}" / FILE)
    return found


def prepared(folder: Path) -> Any:
    """The training rows as they were tokenised."""
    from datasets import load_from_disk

    (found,) = {path.parent for path in folder.rglob("state.json")}
    return load_from_disk(str(found))


def logits(work: Path, checkpoint: Path, row: Any) -> Any:
    """(T, V) at the positions before the trained tokens, and these: one row, float64, no cache."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    key = str(checkpoint)
    if key not in _MODELS:
        base = AutoModelForCausalLM.from_pretrained(work / "model", dtype=torch.float64)
        _MODELS[key] = PeftModel.from_pretrained(base, checkpoint).double().eval()
    with torch.no_grad():
        found = _MODELS[key](torch.tensor([row["input_ids"]])).logits[0, :-1]
    labels = torch.tensor(row["labels"])[1:]
    return found[labels != -100], labels[labels != -100]


_MODELS: dict[str, Any] = {}


def reference_smoothing(scores: Any) -> Any:
    """min(a u, max) by bisection for a, with u the scores between their extremes."""
    uncertainty = (scores - scores.min()) / (scores.max() - scores.min())
    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        if np.minimum(middle * uncertainty, MAX).mean() < MEAN:
            low = middle
        else:
            high = middle
    return uncertainty, np.minimum(low * uncertainty, MAX)


def test_later_stages_are_smoothed_by_the_model_that_a_stage_left(
    work: Path, whole: tiny.Run
) -> None:
    from torch.nn import functional as F

    rows = list(prepared(work / "prepared"))
    before = np.array([row["ual_uncertainty"] for row in rows])
    assert not (whole.output / "checkpoint-2" / FILE).exists()
    logged = ["", "_max"]
    for turn, step in enumerate((2, 4)):
        checkpoint = whole.output / f"checkpoint-{step}"
        pairs = [logits(work, checkpoint, row) for row in rows]
        scores = np.array([F.cross_entropy(*pair).item() for pair in pairs])
        uncertainty, smoothing = reference_smoothing(scores)
        found = estimated(whole.output, step + 1)
        assert found["uncertainty"] == pytest.approx(uncertainty, abs=1e-5)
        assert found["smoothing"] == pytest.approx(smoothing, abs=1e-5)
        values = [whole.values(f"ual/reestimated_smoothing{end}")[turn] for end in logged]
        assert values == pytest.approx([MEAN, smoothing.max()], abs=1e-5)
        of_stage = [row["ual_stage"] == NAMES[turn + 1] for row in rows]
        mean = whole.values("ual/reestimated_stage_smoothing")[turn]
        assert mean == pytest.approx(smoothing[of_stage].mean(), abs=1e-5)
        rho = whole.values(RHO)[turn]
        assert rho == pytest.approx(spearmanr(before, uncertainty).statistic, abs=1e-9)
        before = found["uncertainty"]
    # From the boundary of one stage to the next the table stays.
    assert estimated(whole.output, 3)["smoothing"].tobytes() == (
        estimated(whole.output, 4)["smoothing"].tobytes()
    )
    assert (
        "stage moderate: smoothing estimated again by the model after 2 steps (perplexity, mapped "
        "by minmax): mean 0.1000 over all 24 rows, "
    ) in whole.text


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(work: Path, whole: tiny.Run) -> None:
    """From a boundary, where rows are scored again; and from inside a stage, where they are not."""
    losses = whole.values("loss")
    adapter = (whole.output / "adapter_model.safetensors").read_bytes()
    given = settings(work, "resumed", lora_dropout=0.1)
    kept = work / "kept"
    for step in (4, 3):
        shutil.rmtree(kept, ignore_errors=True)
        shutil.copytree(whole.output / f"checkpoint-{step}", kept)
        run = tiny.axolotl({**given, "resume_from_checkpoint": str(kept)}, work / "resumed")
        assert run.values("loss") == losses[step:]
        assert run.values("loss/smoothing") == whole.values("loss/smoothing")[step:]
        assert run.values(RHO) == whole.values(RHO)[1:]
        assert (run.output / "adapter_model.safetensors").read_bytes() == adapter
    record = json.loads((kept / "ual_curriculum.json").read_text())
    assert record["reestimate"] == "perplexity, mapped by minmax"
    (kept / FILE).unlink()
    refused = tiny.axolotl(
        {**given, "resume_from_checkpoint": str(kept)}, work / "resumed", check=False
    )
    assert "has the smoothing of 0 of 24 training rows" in refused.text


BY_ENTROPY: dict[str, Any] = {
    # Without a rate all stages score alike, and whatever engine trains.
    "learning_rate": 0.0,
    "ual": {
        "curriculum": {"mode": "phased", "shuffle": False},
        "smoothing": {"mean": MEAN, "max": MAX},
        "reestimate": {"estimator": "entropy", "mapping": "minmax"},
    },
}


@dataclass(frozen=True)
class Expected:
    """Of each row: its stage, entropy as uncertainty, smoothing, and what it adds to a loss."""

    stages: list[str]
    uncertainty: Any
    smoothing: Any
    pairs: list[Any]

    def loss(self, numbers: list[int]) -> float:
        """Smoothed cross entropy a token."""
        from torch.nn import functional as F

        total = sum(
            F.cross_entropy(
                *self.pairs[n], label_smoothing=float(self.smoothing[n]), reduction="sum"
            ).item()
            for n in numbers
        )
        return total / sum(len(self.pairs[n][1]) for n in numbers)

    def check(self, run: tiny.Run, step: int, numbers: list[int]) -> None:
        """A step, counted from 0, that trained on these rows."""
        assert run.values("loss")[step] == pytest.approx(self.loss(numbers), rel=1e-5)
        mean = self.uncertainty[numbers].mean()
        assert run.values("ual/uncertainty")[step] == pytest.approx(mean, rel=1e-4)


@pytest.fixture(scope="module")
def packed(work: Path) -> tiny.Run:
    """Each stage is one sequence, and so one step."""
    given = {
        "sample_packing": True,
        "sequence_len": 2048,
        "gradient_accumulation_steps": 1,
        "dataset_prepared_path": str(work / "packed" / "prepared"),
        **BY_ENTROPY,
    }
    return tiny.axolotl(settings(work, "packed", **given), work / "packed")


@pytest.fixture(scope="module")
def expected(work: Path, packed: tiny.Run) -> Expected:
    import torch

    rows = list(prepared(work / "packed" / "prepared"))
    pairs = [logits(work, packed.output / "checkpoint-1", row) for row in rows]
    entropies = [
        torch.distributions.Categorical(logits=logit).entropy().mean().item() for logit, _ in pairs
    ]
    stages = [row["ual_stage"] for row in rows]
    return Expected(stages, *reference_smoothing(np.array(entropies)), pairs)


def test_packed_rows_are_scored_apart_and_trained_with_what_is_theirs(
    packed: tiny.Run, expected: Expected
) -> None:
    found = estimated(packed.output, 2)
    assert found["uncertainty"] == pytest.approx(expected.uncertainty, abs=1e-5)
    assert found["smoothing"] == pytest.approx(expected.smoothing, abs=1e-5)
    assert len(packed.values("loss")) == len(NAMES)
    for step in (1, 2):
        numbers = [n for n, stage in enumerate(expected.stages) if stage == NAMES[step]]
        expected.check(packed, step, numbers)


@pytest.mark.parametrize("engine", ["none", "zero3", "fsdp2"])
def test_two_processes_estimate_as_one(
    work: Path, packed: tiny.Run, expected: Expected, engine: str
) -> None:
    """Five batches of up to 5 rows: in the last round the second process has none of its own."""
    given = {"gradient_accumulation_steps": 2, "save_steps": 3, **BY_ENTROPY}
    environment: dict[str, str] = {}
    if engine != "none":
        stand_in, further, environment = ENGINES[engine]
        plugins = [f"tiny_plugins.{stand_in}", "axolotl_ual.UALPlugin"]
        given |= {"plugins": plugins, "save_strategy": "no", "save_steps": None, **further}
    given = settings(work, engine, **given)
    run = tiny.axolotl(given, work / engine, processes=2, environment=environment)
    assert run.text.count("'train_runtime'") == 1, "the processes trained apart"
    if engine == "none":
        found = estimated(run.output, 3)
        for key, values in estimated(packed.output, 2).items():
            assert values.tobytes() == found[key].tobytes()
    # Rows of a stage come in the order that they are in: step 3 trains on rows 8 to 11.
    numbers = [n for n, stage in enumerate(expected.stages) if stage == NAMES[1]]
    expected.check(run, 2, numbers[:4])
