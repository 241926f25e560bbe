"""Commands of Axolotl that do not train read the recipe, and none of its annotations."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from project import Project

import tiny

PLUGIN = "axolotl_ual.UALPlugin"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(Path(tmp_path_factory.mktemp("model")))


def recipe_of(project: Project, model: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    known = {"plugins": [PLUGIN], "ual": project.recipe["ual"], "max_steps": 2, **settings}
    return tiny.recipe(model, folder, project.recipe["datasets"], **known)


@pytest.mark.slow
def test_after_training_the_annotated_folder_may_go(model: Path, tmp_path: Path) -> None:
    project = Project(tmp_path)
    project.annotate(smoothing=0.25)
    settings = recipe_of(project, model, tmp_path, val_set_size=0.25)
    settings["quantization"] = {"weight_dtype": "int4", "activation_dtype": "int8"}
    trained = tiny.axolotl(settings, tmp_path)
    assert "UAL: 3 of 3 training rows carry smoothing, mean 0.2500" in trained.text
    # The card names what the recipe names, not the copy.
    card = (trained.output / "README.md").read_text()
    assert str(project.data[0]) in card and "0.parquet" not in card
    shutil.rmtree(project.folder)

    def run(command: str, typed: str = "", **changes: Any) -> tiny.Run:
        given = {**settings, **changes}
        return tiny.axolotl(given, tmp_path, command=command, keep=True, typed=typed)

    merged = trained.output / "merged"
    run("merge-lora")
    assert (merged / "model.safetensors").is_file()
    run("quantize", base_model=str(merged), output_dir=str(merged))
    assert json.loads((merged / "quantized" / "config.json").read_text())["quantization_config"]
    answered = run("inference", "What is red?", lora_model_dir=str(trained.output))
    assert "What is red?" in answered.text.split("Give me an instruction")[1]
    evaluated = run("evaluate", lora_model_dir=str(trained.output)).text
    (loss,) = (line for line in evaluated.splitlines() if "eval_loss:" in line)
    assert math.isfinite(float(loss.rpartition("eval_loss:")[2].split()[0]))
    again = tiny.axolotl(settings, tmp_path, command="preprocess", check=False)
    assert again.returncode != 0
    assert f"{project.folder}: no such folder" in again.text
    assert f"run `axolotl-ual annotate {tmp_path / 'recipe.yaml'}`" in again.text


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Axolotl's plugin manager, without the plugins that other tests have left in it."""
    from axolotl.integrations.base import PluginManager

    monkeypatch.setattr(PluginManager, "_instance", None)
    return PluginManager.get_instance()


COMMANDS = {
    "train": {},
    "merge-lora": {"merge_lora": True, "load_in_4bit": False, "fsdp_config": None},
    "inference": {"inference": True, "rl": None},
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["annotated", "pairs", "orpo"])
def test_every_command_reads_the_recipe_without_the_data(
    model: Path, tmp_path: Path, manager: Any, command: str, kind: str
) -> None:
    """What `merge-lora` and `inference` change in a recipe; others take it as `train` does."""
    from axolotl.cli.config import prepare_plugins
    from axolotl.utils.config import validate_config
    from axolotl.utils.dict import DictDefault

    gone, datasets = str(tmp_path / "gone"), [{"path": "gone.jsonl", "type": "alpaca"}]
    settings: dict[str, Any] = {
        "annotated": {"ual": {"annotate": {"output": gone, "judge": {"model": "m"}}}},
        "pairs": {
            "rl": "dpo",
            "ual": {"pairs": {"output": gone, "value": {"method": "none"}}},
        },
        "orpo": {"rl": "orpo", "orpo_alpha": 0.1, "ual": {"curriculum": {"mode": "phased"}}},
    }[kind]
    recipe = tiny.recipe(model, tmp_path, datasets, plugins=[PLUGIN], **settings)
    read = DictDefault({**recipe, **COMMANDS[command]})
    prepare_plugins(read)
    cfg = validate_config(read)
    assert cfg.ual_recipe.datasets == datasets
    expected = f"{gone}/train.parquet" if kind == "pairs" and cfg.rl else "gone.jsonl"
    assert [entry["path"] for entry in cfg.datasets] == [expected]
