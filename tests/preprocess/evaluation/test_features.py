from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from held_out import ROWS, make_world, write_recipe

from axolotl_ual.evaluation.clustering import silhouettes
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.models.local.causal import LocalModel


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world")).parent


def run(here: Path, monkeypatch: pytest.MonkeyPatch, **clustering: Any) -> Result:
    monkeypatch.chdir(here)
    section = {"generation": {"rows": 1, "max_tokens": 2}, "clustering": clustering}
    write_recipe(here, here / "held-out.jsonl", section)
    arguments = ["evaluate", "recipe.yaml", "--runs", "base,copy,tuned=adapter-1"]
    return CliRunner().invoke(main, arguments)


def evaluate(here: Path, monkeypatch: pytest.MonkeyPatch, **clustering: Any) -> dict[str, Any]:
    result = run(here, monkeypatch, **clustering)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(Path("results/evaluation.json").read_text())
    return found


def slow_features(folder: Path, pool: str) -> np.ndarray:
    """Of every row, one forward pass each."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for row in ROWS:
        prompt = tokenizer.apply_chat_template(row["messages"][:1], tokenize=False)
        before = tokenizer(prompt + "<|assistant|>\n", add_special_tokens=False)["input_ids"]
        after = tokenizer(row["messages"][1]["content"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            hidden = model.model(torch.tensor([before + after])).last_hidden_state[0]
        part = hidden[len(before) :]
        found.append((part[-1] if pool == "last" else part.mean(0)).numpy())
    return np.stack(found)


@pytest.mark.parametrize("pool", ["last", "mean"])
def test_silhouettes_of_hidden_states(
    here: Path, monkeypatch: pytest.MonkeyPatch, pool: str
) -> None:
    document = evaluate(here, monkeypatch, by="kind", pool=pool, pictures=False)
    (result,) = (
        r for r in document["results"] if (r["measure"], r["group"]) == ("silhouette", "all")
    )
    labels = [str(row["kind"]) for row in ROWS]
    expected = silhouettes(slow_features(here / "base", pool), labels).mean()
    assert result["values"]["base"] == pytest.approx(expected, abs=1e-4)
    assert result["values"]["copy"] == result["values"]["base"] != result["values"]["tuned"]
    assert document["clustering"]["pictures"] == {}


def test_states_by_the_token_that_follows(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against one plain forward pass a row: the state at position p - 1 belongs to token p."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(here / "base")
    tokenizer = AutoTokenizer.from_pretrained(here / "base")
    states, tokens, numbers = [], [], []
    for number, row in enumerate(ROWS):
        prompt = tokenizer.apply_chat_template(row["messages"][:1], tokenize=False)
        before = tokenizer(prompt + "<|assistant|>\n", add_special_tokens=False)["input_ids"]
        after = tokenizer(row["messages"][1]["content"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            hidden = model.model(torch.tensor([before + after])).last_hidden_state[0]
        states += [hidden[len(before) - 1 + place] for place in range(len(after))]
        tokens += after
        numbers += [number] * len(after)
    frequent = sorted(set(tokens), key=lambda token: (-tokens.count(token), token))[:3]
    kept = [place for place, token in enumerate(tokens) if token in frequent]
    labels = [repr(tokenizer.decode([tokens[place]])) for place in kept]
    expected = silhouettes(torch.stack([states[place] for place in kept]).numpy(), labels).mean()

    document = evaluate(here, monkeypatch, by="token", tokens=3, pictures=False)
    (result,) = (
        r for r in document["results"] if (r["measure"], r["group"]) == ("silhouette", "all")
    )
    assert result["values"]["base"] == pytest.approx(expected, abs=1e-4)
    clusters = document["clustering"]
    assert clusters["of"] == "tokens" and clusters["labels"] == labels
    assert clusters["rows"] == [numbers[place] for place in kept]
    drawn = evaluate(here, monkeypatch, by="token", tokens=3, rows=15, pictures=False)
    assert len(drawn["clustering"]["labels"]) == 15
    assert set(drawn["clustering"]["labels"]) <= set(labels)


@pytest.mark.slow
def test_a_sample_of_stated_size_and_its_pictures(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = evaluate(here, monkeypatch, by="kind", rows=12)
    clusters = document["clustering"]
    assert len(clusters["rows"]) == 12 == len(set(clusters["rows"]))
    assert clusters["labels"] == [ROWS[row]["kind"] for row in clusters["rows"]]
    places = np.array(clusters["pictures"]["base"]["t-SNE"])
    assert places.shape == (12, 2) and np.isfinite(places).all()
    page = Path("results/evaluation.html").read_text()
    assert "Hidden states by kind" in page and "tuned, t-SNE" in page

    def load(*_: Any, **__: Any) -> LocalModel:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LocalModel, "load", load)
    again = evaluate(here, monkeypatch, by="kind", rows=12)
    assert again["clustering"] == clusters


def test_mistakes(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = run(here, monkeypatch, by="king")
    assert result.exit_code == 1 and "have no column `king`" in result.output
    result = run(here, monkeypatch, by="messages")
    assert result.exit_code == 1 and "make no groups" in result.output
