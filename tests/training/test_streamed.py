"""`axolotl train` on streamed rows: the first step is that of the same rows read before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import tiny
from axolotl_ual.preprocess.cli import main
from reference.token_weights import weighted_sum

pytestmark = pytest.mark.slow

PLUGIN = "axolotl_ual.UALPlugin"
PARTS = ("loss", "loss/nll", "loss/smoothing", "grad_norm")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights are large, so that its predictions differ from token to token."""
    return tiny.make_model(tmp_path_factory.mktemp("model") / "model", initializer_range=0.3)


def rows() -> list[dict[str, Any]]:
    return [
        {
            "instruction": f"Question {n}?",
            "output": "perhaps it is so " * (1 + n % 3),
            "ual_smoothing": (n % 4) / 10,
            "w": float(n % 3),
        }
        for n in range(8)
    ]


def train(model: Path, folder: Path, entry: dict[str, Any], **recipe: Any) -> tiny.Run:
    launch = {key: recipe.pop(key) for key in ("processes", "check") if key in recipe}
    settings = {
        "plugins": [PLUGIN],
        "max_steps": 1,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "shuffle_merged_datasets": False,
        "micro_batch_size": 8,
        **recipe,
    }
    made = tiny.recipe(model, folder, [{"type": "alpaca", **entry}], **settings)
    return tiny.axolotl(made, folder, **launch)


def token_by_token(model: Path, run: tiny.Run) -> float:
    """The first loss of a run in float64, from its prepared data: its adapter changes nothing."""
    import torch
    from datasets import load_from_disk
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model).double()
    (prepared,) = (run.output.parent / "prepared").glob("*/*/dataset_info.json")
    total, mass = 0.0, 0.0
    for row in load_from_disk(prepared.parent):
        labels = torch.tensor(row["labels"][1:])
        with torch.no_grad():
            logits = base(input_ids=torch.tensor([row["input_ids"]])).logits[0, :-1]
        weight = torch.full(labels.shape, 1.0)
        smoothing = torch.full(labels.shape, row["ual_smoothing"])
        total += weighted_sum(logits, labels, smoothing, weight, "none").item()
        mass += weight[labels != -100].sum().item()
    return total / mass


def test_an_annotated_copy_is_streamed_and_packed(model: Path, tmp_path: Path) -> None:
    """All eight rows fit into one sequence, which is the micro-batch of the only step."""
    plain = [{key: row[key] for key in ("instruction", "output")} for row in rows()]
    entry = {"path": str(tiny.write_rows(tmp_path / "data.jsonl", plain))}
    annotate = {"output": str(tmp_path / "annotated"), "estimator": "perplexity"}
    ual = {"ual": {"annotate": annotate}}
    recipe = tmp_path / "recipe.yaml"
    datasets = [{"type": "alpaca", **entry}]
    recipe.write_text(yaml.safe_dump(tiny.recipe(model, tmp_path, datasets, **ual)))
    made = CliRunner().invoke(main, ["annotate", str(recipe), "--no-report"])
    assert made.exit_code == 0, made.output
    before = train(model, tmp_path / "before", entry, **ual)
    assert before.values("loss") == pytest.approx([token_by_token(model, before)], rel=1e-6)
    # The margin of a random model may have either sign; what tells rows apart is far above 1e-6.
    assert abs(before.values("loss/smoothing")[0]) > 1e-3
    streamed = train(
        model,
        tmp_path / "streamed",
        entry,
        **ual,
        streaming=True,
        sample_packing=True,
        dataset_prepared_path=None,
    )
    for key in PARTS:
        assert streamed.values(key) == pytest.approx(before.values(key), rel=1e-6, abs=1e-6), key
    assert "UAL: the training rows are streamed" in streamed.text


def test_weights_of_rows_on_two_processes(model: Path, tmp_path: Path) -> None:
    data = tiny.write_rows(tmp_path / "data.parquet", rows())
    loss = {"loss": {"weight": "w"}}
    entry = {"path": str(data)}
    before = train(model, tmp_path / "before", entry, ual=loss)
    streamed = train(
        model,
        tmp_path / "streamed",
        entry,
        ual=loss,
        streaming=True,
        micro_batch_size=2,
        gradient_accumulation_steps=2,
        accelerator_config={"dispatch_batches": False},
        processes=2,
    )
    for key in PARTS:
        assert streamed.values(key) == pytest.approx(before.values(key), rel=1e-6, abs=1e-6), key
