"""Every recipe in `examples/lima`: annotated, checked and trained, with a tiny model in its place.

The dataset is swapped for a few rows of the same shape, the judge's address for a local server, and
what needs a GPU is switched off; all else is the recipe as it stands.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner

import judge_server
import tiny
from axolotl_ual.preprocess.cli import main
from axolotl_ual.settings.ual import parse_ual

pytestmark = pytest.mark.host
ROOT = Path(__file__).resolve().parents[1]
RECIPES = sorted((ROOT / "examples" / "lima").glob("*.yaml"))
ON_A_CPU: dict[str, Any] = {
    "bf16": False,
    "attn_implementation": "sdpa",
    "gradient_checkpointing": False,
    "lora_mlp_kernel": False,
    "lora_qkv_kernel": False,
    "lora_o_kernel": False,
    "sequence_len": 256,
    "max_steps": 2,
    "dataset_num_proc": 1,
    "special_tokens": {"pad_token": "<pad>"},
}
LIMA = [
    {
        "id": i,
        "conversations": [
            {"from": "human", "value": f"Tell me about the number {i}."},
            {"from": "gpt", "value": f"The number {i} comes after {i - 1}. " * (1 + i % 3)},
        ],
    }
    for i in range(48)
]


@pytest.fixture(scope="module")
def server() -> Iterator[judge_server.Running]:
    with judge_server.running() as running:
        yield running


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


def test_there_are_recipes() -> None:
    assert {path.stem for path in RECIPES} == {
        "llama-2-7b",
        "llama-2-7b-perplexity",
        "llama-2-7b-vllm-judge",
        "mistral-7b",
    }


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_as_it_stands_it_only_lacks_the_annotations(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(main, ["check", str(path)])
    assert result.exit_code == 1
    assert "1 problem\n" in result.output
    assert f"axolotl-ual annotate {path}" in result.output


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_papers_settings(path: Path) -> None:
    recipe = yaml.safe_load(path.read_text())
    assert [recipe[key] for key in ("adapter", "lora_r", "lora_alpha", "lora_dropout")] == [
        "lora",
        8,
        16,
        0.1,
    ]
    assert parse_ual(recipe["ual"]).smoothing.mean == 0.1
    assert (ROOT / recipe["deepspeed"]).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_annotate_check_and_train(
    path: Path,
    model: Path,
    server: judge_server.Running,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = yaml.safe_load(path.read_text())
    recipe["datasets"][0]["path"] = str(tiny.write_rows(tmp_path / "lima.jsonl", LIMA))
    recipe = {**recipe, **ON_A_CPU, "base_model": str(model), "output_dir": str(tmp_path / "out")}
    del recipe["deepspeed"]
    annotate = recipe["ual"]["annotate"]
    annotate["cache"] = str(tmp_path / "cache")
    if "judge" in annotate:
        annotate["judge"]["base_url"] = server.base_url
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    for command in ("annotate", "check"):
        result = CliRunner().invoke(main, [command, "recipe.yaml"])
        assert result.exit_code == 0, result.output
    run = tiny.axolotl(recipe, tmp_path)
    assert len(run.values("loss/smoothing")) == 2
    assert all(value > 0.0 for value in run.values("loss/nll"))
