from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from held_out import make_world, write_recipe

from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.models.local.causal import LocalModel
from tiny import write_rows

TASK = {
    "task": "sums",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "QUESTIONS"}},
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "{{choices}}",
    "doc_to_target": "{{answer}}",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
QUESTIONS = [
    {"question": f"What is {a} plus {b}?", "choices": [" a", " b", " c"], "answer": (a + b) % 3}
    for a in range(4)
    for b in range(3)
]
TEXTS = ["The sky is wide.", "Water runs down hill.\nAlways.", "Three birds sat on a wall."]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_world(tmp_path_factory.mktemp("world")).parent
    write_rows(folder / "tasks" / "questions.jsonl", QUESTIONS)
    task = {
        **TASK,
        "dataset_kwargs": {"data_files": {"test": str(folder / "tasks" / "questions.jsonl")}},
    }
    (folder / "tasks" / "sums.yaml").write_text(yaml.safe_dump(task))
    (folder / "neutral.txt").write_text("\n\n".join(TEXTS))
    return folder


@pytest.fixture
def here(world: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(world)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return world


def settings(here: Path, **forgetting: Any) -> None:
    section = {"generation": {"max_tokens": 2, "rows": 2}, "forgetting": forgetting}
    write_recipe(here, here / "held-out.jsonl", section)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", "recipe.yaml", "--limit", "4", *arguments])


def evaluate(*arguments: str) -> dict[str, Any]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(Path("results/evaluation.json").read_text())["forgetting"]
    return found


def slow_choices(model_folder: Path) -> list[int]:
    """The likeliest choice of each question, one forward pass a choice."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    found = []
    for row in QUESTIONS:
        before = tokenizer(row["question"])["input_ids"]
        scores = []
        for choice in row["choices"]:
            whole = tokenizer(row["question"] + choice)["input_ids"]
            with torch.no_grad():
                logp = model(torch.tensor([whole])).logits[0].log_softmax(-1)
            scores.append(sum(float(logp[t - 1, whole[t]]) for t in range(len(before), len(whole))))
        found.append(int(np.argmax(scores)))
    return found


@pytest.mark.slow
def test_tasks_of_ones_own_offline(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings(here, tasks=["sums"], include_path="tasks")
    found = evaluate("--runs", "base,copy,tuned=adapter-1")
    (result,) = (r for r in found["results"] if r["measure"] == "sums: acc")
    right = np.mean(
        [c == q["answer"] for c, q in zip(slow_choices(here / "base"), QUESTIONS, strict=True)]
    )
    assert result["rows"] == 12 and result["values"]["base"] == pytest.approx(right)
    # A model against itself forgets exactly nothing, and the interval holds 0.
    copy, tuned = result["differences"]
    assert (copy["arm"], copy["difference"], copy["both"]) == ("copy", 0, [0, 0])
    assert tuned["difference"] == pytest.approx(result["values"]["tuned"] - right)
    page = Path("results/evaluation.html").read_text()
    assert ">Forgetting</h2>" in page and "sums: acc" in page
    assert "# Forgetting" in Path("results/evaluation.md").read_text()

    def load(*_: Any, **__: Any) -> LocalModel:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LocalModel, "load", load)
    assert evaluate("--runs", "base,copy,tuned=adapter-1")["results"] == found["results"]


def slow_divergence(here: Path, adapter: Path) -> float:
    """Nats a token, text by text, in fp64."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base: Any = AutoModelForCausalLM.from_pretrained(here / "base", dtype=torch.float64)
    other: Any = AutoModelForCausalLM.from_pretrained(here / "base", dtype=torch.float64)
    other = PeftModel.from_pretrained(other, adapter)
    tokenizer = AutoTokenizer.from_pretrained(here / "base")
    total, tokens = 0.0, 0
    for text in TEXTS:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text)["input_ids"]]])
        with torch.no_grad():
            p = base(ids).logits[0, :-1].log_softmax(-1)
            q = other(ids).logits[0, :-1].log_softmax(-1)
        total += float((p.exp() * (p - q)).sum())
        tokens += ids.shape[1] - 1
    return total / tokens


def test_divergence_on_neutral_text(here: Path) -> None:
    settings(here, neutral="neutral.txt")
    found = evaluate("--runs", "base,copy,tuned=adapter-1")
    (result,) = found["results"]
    assert result["values"]["base"] == 0 and result["values"]["copy"] == 0
    assert result["values"]["tuned"] == pytest.approx(
        slow_divergence(here, here / "adapter-1"), rel=1e-4
    )
    assert result["values"]["tuned"] > 0 and result["rows"] == 3


@pytest.mark.parametrize(
    ("forgetting", "runs", "said"),
    [
        ({"tasks": ["sums"]}, "tuned=adapter-1", "add `base` to --runs"),
        ({"tasks": ["no_such_task"]}, "base", "has no such task"),
        ({"neutral": "nowhere.txt"}, "base", "neutral: nowhere.txt: no such file"),
        ({"tasks": ["sums"], "include_path": "nowhere"}, "base", "include_path: nowhere: no such"),
    ],
)
def test_mistakes(here: Path, forgetting: dict[str, Any], runs: str, said: str) -> None:
    settings(here, **forgetting)
    result = run("--runs", runs)
    assert result.exit_code == 1 and said in result.output, result.output


def test_neutral_rows(tmp_path: Path) -> None:
    from axolotl_ual.errors import DataError
    from axolotl_ual.preprocess.evaluation.forgetting import read_neutral

    rows = write_rows(tmp_path / "a.jsonl", [{"text": "one"}, {"text": ""}, {"text": "two"}])
    assert read_neutral(rows) == ["one", "two"]
    broken = write_rows(tmp_path / "b.jsonl", [{"text": "one"}, {"words": "two"}])
    with pytest.raises(DataError, match="line 2: is no JSON object with `text`"):
        read_neutral(broken)
    (tmp_path / "c.txt").write_text(" \n\n \n")
    with pytest.raises(DataError, match="holds no text"):
        read_neutral(tmp_path / "c.txt")
