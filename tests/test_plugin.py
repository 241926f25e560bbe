"""The plugin's hooks in real `axolotl` runs: what is trained on, and what stops."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest

import axolotl_ual.plugin
import tiny

PLUGIN = "axolotl_ual.UALPlugin"


def rows(smoothing: float, count: int = 8) -> list[dict[str, Any]]:
    return [
        {"instruction": f"Question {n}?", "output": f"Answer {n}.", "ual_smoothing": smoothing}
        for n in range(count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(Path(tmp_path_factory.mktemp("model")))


def recipe(model: Path, folder: Path, **settings: Any) -> dict[str, Any]:
    entry = {"path": str(folder / "data.jsonl"), "type": "alpaca"}
    return tiny.recipe(model, folder, [entry], **{"plugins": [PLUGIN], "max_steps": 2, **settings})


@pytest.mark.slow
def test_changed_annotations_are_not_served_from_the_cache(model: Path, tmp_path: Path) -> None:
    settings = recipe(model, tmp_path)
    for value, shown in ((0.1, "0.1000"), (0.3, "0.3000")):
        tiny.write_rows(tmp_path / "data.jsonl", rows(value))
        prepared = tiny.axolotl(settings, tmp_path, command="preprocess")
        trained = tiny.axolotl(settings, tmp_path)
        line = f"UAL: 8 of 8 training rows carry smoothing, mean {shown}"
        assert line in prepared.text
        assert line in trained.text
        # What `preprocess` wrote is what `train` reads.
        assert "Loading prepared dataset from disk" in trained.text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ual": {"smoothing": {"meen": 0.1}}}, "ual.smoothing.meen: unknown key; did you mean"),
        ({"use_eaft": True}, "use_eaft: true: brings a loss of its own"),
        ({"ual": {"annotate": {"output": "gone", "judge": {"model": "m"}}}}, "no such folder"),
        (
            {"plugins": ["axolotl.integrations.diffusion.DiffusionPlugin", PLUGIN]},
            f"`axolotl.integrations.diffusion.DiffusionPlugin` and `{PLUGIN}` both bring a trainer",
        ),
    ],
    ids=["unknown key", "unsupported", "no annotations", "another trainer"],
)
def test_a_wrong_recipe_stops_before_the_model_is_loaded(
    model: Path, tmp_path: Path, settings: dict[str, Any], message: str
) -> None:
    tiny.write_rows(tmp_path / "data.jsonl", rows(0.1))
    run = tiny.axolotl(recipe(model, tmp_path, **settings), tmp_path, check=False)
    assert run.returncode == 1
    assert message in run.text
    assert "Loading weights" not in run.text


@pytest.mark.slow
def test_an_entry_without_the_column_is_named(model: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "data.jsonl", rows(0.1))
    plain = [{"instruction": "Why?", "output": "So."}]
    tiny.write_rows(tmp_path / "folder" / "plain.jsonl", plain)
    settings = recipe(model, tmp_path)
    settings["datasets"].append({"path": str(tmp_path / "folder"), "type": "alpaca"})
    run = tiny.axolotl(settings, tmp_path, check=False)
    assert run.returncode == 1
    assert f"datasets: `{tmp_path / 'folder'}` has no column `ual_smoothing`" in run.text


def test_nothing_is_imported_that_could_be_missing() -> None:
    """Axolotl goes on without a plugin that raises ImportError, so the module must not."""
    source = Path(axolotl_ual.plugin.__file__).read_text()
    top = [
        node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))
    ]
    names = {node.module for node in top if isinstance(node, ast.ImportFrom)}
    assert all(isinstance(node, ast.ImportFrom) for node in top)
    assert names == {"__future__", "typing", "axolotl.integrations.base", "axolotl_ual.errors"}


@pytest.mark.slow
def test_beside_liger_and_lm_eval(model: Path, tmp_path: Path) -> None:
    """Liger's fused loss (in Triton's interpreter) trains as the model's own does."""
    data = [{**row, "ual_smoothing": n / 20} for n, row in enumerate(rows(0.0))]
    tiny.write_rows(tmp_path / "data.jsonl", data)
    plain = tiny.axolotl(recipe(model, tmp_path), tmp_path)
    liger = recipe(
        model,
        tmp_path,
        plugins=[
            "axolotl.integrations.liger.LigerPlugin",
            PLUGIN,
            "axolotl.integrations.lm_eval.LMEvalPlugin",
        ],
        liger_fused_linear_cross_entropy=True,
    )
    fused = tiny.axolotl(liger, tmp_path, launcher="python", environment={"TRITON_INTERPRET": "1"})
    assert "Applying LIGER to llama" in fused.text
    for key in ("loss", "loss/smoothing", "grad_norm"):
        assert fused.values(key) == pytest.approx(plain.values(key), rel=1e-5)


@pytest.mark.slow
def test_compiled(model: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "data.jsonl", rows(0.2))
    plain = tiny.axolotl(recipe(model, tmp_path), tmp_path)
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    compiled = tiny.axolotl(recipe(model, tmp_path, **settings), tmp_path)
    for key in ("loss", "loss/smoothing", "grad_norm"):
        assert compiled.values(key) == pytest.approx(plain.values(key), rel=1e-5)
