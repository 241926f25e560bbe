"""`axolotl-ual check`, with Axolotl's own word on the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import tiny
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.commands import check as module
from axolotl_ual.preprocess.commands.check import examine

pytestmark = pytest.mark.host
ROWS = [{"instruction": f"Say {i}.", "input": "", "output": f"{i}!"} for i in range(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(model: Path, **overrides: Any) -> Path:
    tiny.write_rows(Path("data.jsonl"), ROWS)
    recipe = tiny.recipe(
        model,
        Path("run"),
        [{"path": "data.jsonl", "type": "alpaca"}],
        **{
            "plugins": ["axolotl_ual.UALPlugin"],
            "ual": {"annotate": {"output": "out", "estimator": "perplexity"}},
            **overrides,
        },
    )
    path = Path("recipe.yaml")
    if "pretraining_dataset" in recipe:
        del recipe["datasets"]
    path.write_text(yaml.safe_dump(recipe))
    return path


def annotate(path: Path) -> None:
    result = CliRunner().invoke(main, ["annotate", str(path)])
    assert result.exit_code == 0, result.output


@pytest.mark.slow
def test_a_recipe_that_can_train(model: Path) -> None:
    path = write(model)
    annotate(path)
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 0, result.output
    assert "12 rows carry label smoothing, mean 0.100000" in result.output
    assert "conservative 4, moderate 4, exploratory 4" in result.output
    assert "Axolotl imports the plugin and accepts the recipe" in result.output


@pytest.mark.slow
def test_what_axolotl_refuses_is_told_beside_our_own_problems(model: Path) -> None:
    path = write(model, plugins=["axolotl_ual.UALPlugin", "no_such.Plugin"], micro_batch_size="two")
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 1
    for words in ("micro_batch_size", "no_such.Plugin", "out: no such folder", "3 problems"):
        assert words in result.output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rival", "said"),
    [
        ("axolotl.integrations.diffusion.DiffusionPlugin", "trains to fill masked tokens in"),
        ("tiny_plugins.TorchSmoothing", "and `axolotl_ual.UALPlugin` both bring a trainer"),
    ],
)
def test_another_trainer_is_refused_once(
    model: Path, monkeypatch: pytest.MonkeyPatch, rival: str, said: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(tiny.__file__).parent))
    path = write(model, plugins=[rival, "axolotl_ual.UALPlugin"])
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 1
    text = " ".join(result.output.split())
    assert text.count(f"plugins: `{rival}` {said}") == 1
    assert text.count(f"take `{rival}` or `axolotl_ual.UALPlugin` out of `plugins:`") == 1


def test_before_annotation(model: Path) -> None:
    (problem,) = examine(write(model)).problems
    assert "axolotl-ual annotate recipe.yaml" in problem


def test_changed_data_are_noticed(model: Path) -> None:
    path = write(model)
    annotate(path)
    tiny.write_rows(Path("data.jsonl"), [*ROWS, ROWS[0]])
    (problem,) = examine(path).problems
    assert "data.jsonl" in problem and "changed" in problem


def test_changed_settings_are_noticed(model: Path) -> None:
    annotate(write(model))
    path = write(
        model,
        ual={
            "annotate": {"output": "out", "estimator": "perplexity"},
            "smoothing": {"mean": 0.2},
        },
    )
    (problem,) = examine(path).problems
    assert "smoothing.mean: was 0.1, is 0.2" in problem


def test_training_keys_leave_annotations_valid(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(write(model))
    path = write(model, learning_rate=0.5, num_epochs=9)
    assert not examine(path).problems


def test_every_problem_is_told_at_once(model: Path) -> None:
    path = write(model, push_dataset_to_hub="me/d", use_dft=True, ual={"smoothng": {}})
    problems = "\n".join(examine(path).problems)
    for words in ("push_dataset_to_hub", "use_dft", "did you mean `smoothing`"):
        assert words in problems


@pytest.mark.slow
def test_bare_text_is_streamed(model: Path) -> None:
    corpus = [{"path": "parquet", "data_files": "corpus.parquet", "type": "pretrain"}]
    stream = {"pretraining_dataset": corpus, "sample_packing": True, "max_steps": 2}
    path = write(model, ual={}, **stream)
    result = CliRunner().invoke(main, ["check", str(path)])
    assert "pretraining_dataset: streamed, each row with the column ual_smoothing" in result.output
    assert "this key is needed" not in result.output
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("loaded", [False, True])
def test_the_line_is_needed_where_axolotl_does_not_load_the_plugin_by_itself(
    model: Path, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    monkeypatch.setattr(module, "runs_without_a_line", lambda: loaded)
    found = examine(write(model, plugins=[]))
    problems = "\n".join(found.problems)
    assert ("plugins: does not list axolotl_ual.UALPlugin" in problems) != loaded
    assert any("loads the plugin by itself" in fact for fact in found.facts) == loaded
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    del recipe["ual"]
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    problems = "\n".join(examine(Path("recipe.yaml")).problems)
    assert "plugins: does not list axolotl_ual.UALPlugin" in problems


def test_a_missing_recipe_and_one_that_is_no_mapping(tmp_path: Path) -> None:
    assert CliRunner().invoke(main, ["check", "nowhere.yaml"]).exit_code == 2
    Path("list.yaml").write_text("- 1\n")
    result = CliRunner().invoke(main, ["check", "list.yaml"])
    assert result.exit_code == 1
    assert "list.yaml" in result.output
