"""`axolotl train` on streamed rows: the first step is that of the same rows read before."""

from __future__ import annotations

import itertools
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
    if "pretraining_dataset" in made:
        del made["datasets"]
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


def texts() -> list[dict[str, Any]]:
    """Short rows, several of which share a sequence, and two that are longer than a sequence."""
    short = [
        {"text": f"Text {n} says: {'perhaps ' * (1 + n % 3)}", "ual_smoothing": (n % 4) / 10}
        for n in range(16)
    ]
    numbers = [" ".join(str(n) for n in range(first, first + 150)) for first in (0, 500)]
    return [*short, *({"text": text, "ual_smoothing": 0.45} for text in numbers)]


def packed_token_by_token(model: Path, run: tiny.Run) -> float:
    """The loss in float64 of the packed batches of a step, as Axolotl has packed them.

    A text in a sequence starts where positions do. Its first token is predicted after the end of
    the text before it, as Axolotl trains on it, and smoothed as the text that it belongs to.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(model).double()
    tokenizer = AutoTokenizer.from_pretrained(model)
    known = [(tokenizer(row["text"])["input_ids"], row["ual_smoothing"]) for row in texts()]
    total, mass, seen = 0.0, 0, set()
    for path in sorted(run.output.glob("batch-*.pt")):
        batch = torch.load(path)
        ids, places = batch["input_ids"][0], batch["position_ids"][0]
        given = {key: batch[key] for key in ("input_ids", "position_ids", "attention_mask")}
        with torch.no_grad():
            logits = base(**given).logits[0, :-1]
        starts = [*(places == 0).nonzero().flatten().tolist(), len(ids)]
        smoothing: list[float] = []
        for start, end in itertools.pairwise(starts):
            text = ids[start : end - 1].tolist()
            own = next((eps for tokens, eps in known if within(text, tokens)), 0.0)
            smoothing += [own] * (end - start)
            seen.add(own)
        labels = batch["labels"][0][1:]
        smoothing_T = torch.tensor(smoothing[1:])
        ones = torch.ones(len(labels))
        total += weighted_sum(logits, labels, smoothing_T, ones, "none").item()
        mass += int((labels != -100).sum())
    assert {0.1, 0.2, 0.3, 0.45} <= seen
    return total / mass


def within(part: list[int], whole: list[int]) -> bool:
    """Whether a text, without the mark of its end, is a part of another."""
    return any(part == whole[n : n + len(part)] for n in range(len(whole) - len(part) + 1))


def test_bare_text_is_streamed_and_packed(model: Path, tmp_path: Path) -> None:
    """Several sequences in one step, short texts side by side and long ones cut."""
    data = tiny.write_rows(tmp_path / "corpus.jsonl", texts())
    corpus = {"path": "json", "data_files": str(data), "type": "pretrain", "split": "train"}
    run = train(
        model,
        tmp_path / "run",
        {"path": "left out"},
        ual={},
        pretraining_dataset=[corpus],
        sample_packing=True,
        pretrain_multipack_attn=True,
        sequence_len=128,
        micro_batch_size=1,
        gradient_accumulation_steps=5,
        plugins=[PLUGIN, "tiny_plugins.BatchWriter"],
    )
    assert run.values("loss") == pytest.approx([packed_token_by_token(model, run)], rel=1e-6)
    assert abs(run.values("loss/smoothing")[0]) > 1e-3


def test_bare_text_without_smoothing_stops(model: Path, tmp_path: Path) -> None:
    data = tiny.write_rows(tmp_path / "corpus.jsonl", [{"text": "bare"}])
    corpus = {"path": "json", "data_files": str(data), "type": "pretrain", "split": "train"}
    run = train(
        model,
        tmp_path / "run",
        {"path": "left out"},
        pretraining_dataset=[corpus],
        sample_packing=True,
        check=False,
    )
    assert run.returncode
    assert f"pretraining_dataset: `{data}` has no column `ual_smoothing`" in run.text


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
