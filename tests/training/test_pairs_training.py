"""From prompts to a staged preference run: one recipe, two commands."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny_nli
import yaml
from click.testing import CliRunner

import tiny
from axolotl_ual.data.annotated import locate
from axolotl_ual.data.sources import remember, trained_sources
from axolotl_ual.errors import AnnotationError
from axolotl_ual.preprocess.cli import main
from axolotl_ual.settings.ual import parse_ual

PROMPTS = 24


def pairs_recipe(folder: Path, rule: Path, **overrides: Any) -> dict[str, Any]:
    pairs = {
        "output": str(folder / "pairs"),
        "cache": str(folder / "cache"),
        "nli": {"model": str(rule), "device": "cpu", "max_length": 128},
        "value": {"method": "none"},
    }
    settings: dict[str, Any] = {
        "plugins": ["axolotl_ual.UALPlugin"],
        "rl": "dpo",
        "chat_template": "tokenizer_default",
        "max_steps": None,
        "save_strategy": "no",
        "ual": {"pairs": pairs, "curriculum": {"mode": "phased"}},
        **overrides,
    }
    entry = {"path": str(folder / "prompts.jsonl"), "type": "chat_template.default"}
    return tiny.recipe(folder / "model", folder / "run", [entry], **settings)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with prompts, a recipe, and the pairs that the command made from it."""
    folder = tmp_path_factory.mktemp("made")
    rule = tiny_nli.make_rule_model(folder / "rule")
    prompts = [{"prompt": f"question {number} ?"} for number in range(PROMPTS)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts))
    rng = random.Random(0)
    words = [*tiny_nli.MEANINGS[:3], "it", "is", "the", "no"]
    rows = [
        {**prompt, "response": " ".join(rng.choices(words, k=3))}
        for prompt in prompts
        for _ in range(6)
    ]
    (folder / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny.make_model(folder / "model")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(pairs_recipe(folder, rule)))
    arguments = ["pairs", str(path), "--from-responses", str(folder / "responses.jsonl")]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return folder


def recipe_of(folder: Path) -> dict[str, Any]:
    recipe: dict[str, Any] = yaml.safe_load((folder / "recipe.yaml").read_text())
    return recipe


@pytest.mark.slow
def test_the_recipe_trains_on_its_pairs_in_stages(made: Path) -> None:
    table = pq.read_table(made / "pairs" / "train.parquet")
    run = tiny.axolotl(recipe_of(made), made / "train")
    mean = table["ual_smoothing"].to_numpy().mean()
    assert f"{table.num_rows} training pairs carry smoothing, {mean:.4f} on average" in run.text
    stages = table["ual_stage"].to_pylist()
    assert len(set(stages)) == 3
    # Stages are logged as 1, 2, 3, in this order, and none runs back.
    logged = run.values("ual/stage")
    assert logged == sorted(logged) and set(logged) == {1.0, 2.0, 3.0}
    assert len(run.values("loss")) == -(-table.num_rows // 2)


ENTRY = {"ds_type": "parquet", "split": "train", "type": "axolotl_ual.pairs"}


@pytest.mark.parametrize("prompts", [True, False], ids=["with prompts", "responses from elsewhere"])
def test_the_pairs_take_the_place_of_the_prompts(made: Path, prompts: bool) -> None:
    cfg = recipe_of(made)
    if not prompts:
        del cfg["datasets"]
    remember(cfg)
    entry = {"path": str(made / "pairs" / "train.parquet"), **ENTRY}
    assert cfg["datasets"] == [entry]
    again = dict(cfg)
    remember(again)
    assert again == cfg
    with trained_sources(cfg, parse_ual(cfg["ual"]), "recipe.yaml"):
        assert cfg["datasets"] == [entry]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"policy": "median"}, 'ual.pairs.policy: was "worst", is "median"'),
        ({"weights": {"semantic": 2.0}}, "ual.pairs.weights.semantic: was 1.0, is 2.0"),
        ({"output": "elsewhere"}, "elsewhere: no such folder"),
    ],
)
def test_pairs_that_do_not_fit_the_recipe_are_refused(
    made: Path, change: dict[str, Any], said: str
) -> None:
    recipe = recipe_of(made)
    recipe["ual"]["pairs"].update(change)
    with pytest.raises(AnnotationError, match=r"run `axolotl-ual pairs recipe\.yaml`") as caught:
        locate(recipe, parse_ual(recipe["ual"]), "recipe.yaml")
    assert said in str(caught.value)


def test_operational_settings_may_change(made: Path) -> None:
    recipe = recipe_of(made)
    recipe["ual"]["pairs"]["nli"]["batch_tokens"] = 99
    recipe["ual"]["pairs"]["cache"] = "other"
    assert locate(recipe, parse_ual(recipe["ual"]), "recipe.yaml").entries
