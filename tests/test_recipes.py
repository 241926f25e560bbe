"""Every recipe of the package: commented, checked, and trained with a tiny model of its family."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import recipe_runs
import yaml
from click.testing import CliRunner

from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.data.shipped import Shipped, find, shipped
from axolotl_ual.recipes.math_answers import correct
from axolotl_ual.settings.ual import parse_ual

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "examples" / "recipes"
RECIPES = shipped()
EACH = pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)


def test_there_are_recipes() -> None:
    assert {recipe.name for recipe in RECIPES} == {path.stem for path in FOLDER.glob("*.yaml")}
    readme = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"^\| `([\w.-]+)`", readme, re.M)) | {"sft-then-dpo-2-dpo"} == {
        recipe.name for recipe in RECIPES
    }


@EACH
def test_every_key_of_ual_has_a_comment(recipe: Shipped) -> None:
    lines = recipe.text.splitlines()
    first = lines.index("ual:") + 1
    block = [line for line in lines[first:] if line][: _length(lines[first:])]
    assert block and all(re.search(r"\S +# \S", line) for line in block)
    assert parse_ual(recipe.raw["ual"])


def _length(lines: list[str]) -> int:
    return next(number for number, line in enumerate(lines) if not line.startswith(" "))


@EACH
def test_it_says_what_it_is_and_how_to_run_it(recipe: Shipped) -> None:
    assert 20 < len(recipe.title) < 98 and recipe.title != recipe.name
    made = next((one for one in ("annotate", "pairs") if one in recipe.raw["ual"]), "check")
    for command in (
        f"axolotl-ual recipes copy {recipe.name}",
        f"axolotl-ual {made} {recipe.name}.yaml",
        f"axolotl train {recipe.name}.yaml",
    ):
        assert f"\n#   {command}\n" in recipe.text
    assert recipe.raw["output_dir"] == f"outputs/{recipe.name}"


@pytest.mark.parametrize("name", ["ual-llama-2-7b", "ual-mistral-7b"])
def test_the_papers_settings(name: str) -> None:
    recipe = find(name).raw
    named = [recipe[key] for key in ("adapter", "lora_r", "lora_alpha", "lora_dropout")]
    assert named == ["lora", 8, 16, 0.1]
    assert parse_ual(recipe["ual"]).smoothing.mean == 0.1


def test_deepspeed_files_are_what_their_names_say() -> None:
    found = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("deepspeed/*.json")}
    assert found.keys() == {f"zero{n}{o}" for n in (1, 2, 3) for o in ("", "_offload")}
    for name, config in found.items():
        zero = config["zero_optimization"]
        assert zero["stage"] == int(name[4])
        offloads = {key for key in zero if key.startswith("offload_")}
        parameters = {"offload_param"} if name == "zero3_offload" else set()
        assert offloads == ({"offload_optimizer"} | parameters if "_" in name else set())


def test_the_reward_of_grpo_is_whether_a_response_ends_at_the_answer() -> None:
    asked, right = ["12 * 12?"] * 4, ["144", "1,440", "144", "7"]
    said: list[Any] = [
        "First 12 * 10 is 120, then 24 more: 144.",
        [{"role": "assistant", "content": "It is 1440"}],
        r"\boxed{144} or \boxed{145}",
        "I do not know",
    ]
    # The last box counts, spaces and commas do not; what has no number ends nowhere.
    assert correct(asked, said, right, pass_rate=[0.5] * 4) == [1, 1, 0, 0]


def test_every_file_is_in_the_wheel() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    (patterns,) = re.findall(r'^"axolotl_ual\.recipes" = (\[.*\])$', text, re.M)
    files = [path.relative_to(FOLDER) for path in FOLDER.rglob("*.*") if path.suffix != ".pyc"]
    named = [str(path) for path in files if path.suffix != ".py"]
    assert all(any(fnmatch(n, p) for p in yaml.safe_load(patterns)) for n in named)


@pytest.mark.slow
def test_each_passes_check_as_it_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for recipe in RECIPES:
        assert CliRunner().invoke(main, ["recipes", "copy", recipe.name]).exit_code == 0
    names = [f"{recipe.name}.yaml" for recipe in RECIPES]
    result = CliRunner().invoke(main, ["recipes", "check", *names])
    assert result.exit_code == 0, result.output
    accepted = "Axolotl imports the plugin and accepts the recipe"
    found = re.sub(r"\s+", " ", result.output)
    made = [one for one in RECIPES if {"annotate", "pairs"} & one.raw["ual"].keys()]
    assert found.count("nothing is wrong; next: axolotl-ual") == len(made)
    assert found.count(accepted) == len(RECIPES)
    assert found.count("prompts, which carry no label smoothing") == 1


@pytest.fixture(scope="module")
def asked() -> Iterator[recipe_runs.Servers]:
    with recipe_runs.servers() as running:
        yield running


@pytest.mark.slow
@EACH
def test_trains_with_its_own_settings(
    recipe: Shipped,
    asked: recipe_runs.Servers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = recipe_runs.swapped(recipe, tmp_path, asked)
    recipe_runs.make(settings, tmp_path)
    run = recipe_runs.train(settings, tmp_path)
    assert run.values("loss")
    card = CliRunner().invoke(main, ["recipes", "from-card", str(run.output)])
    if settings.get("rl"):
        stages = run.values("ual/stage")
        trained = zip((1.0, 2.0, 3.0), settings["ual"]["curriculum"]["epochs"], strict=True)
        assert stages == sorted(stages)
        assert set(stages) == {stage for stage, epochs in trained if epochs}
    else:
        assert len(run.values("loss/smoothing")) == 2
        assert all(value > 0.0 for value in run.values("loss/nll"))
        assert card.output == (tmp_path / "recipe.yaml").read_text()
