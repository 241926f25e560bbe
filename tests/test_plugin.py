"""The plugin's hooks in real `axolotl` runs: what is trained on, and what stops."""

from __future__ import annotations

import ast
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import pytest

import axolotl_ual.plugin
import tiny
from axolotl_ual.errors import UnsupportedError
from axolotl_ual.settings.rivals import rivals

pytestmark = pytest.mark.host
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
        ({"use_dft": True}, "use_dft: true: brings a loss of its own"),
        ({"ual": {"annotate": {"output": "gone", "judge": {"model": "m"}}}}, "no such folder"),
        (
            {"plugins": ["tiny_plugins.TorchSmoothing", PLUGIN]},
            f"`tiny_plugins.TorchSmoothing` and `{PLUGIN}` both bring a trainer",
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
    ours = {"axolotl_ual.host"}
    assert names == {"__future__", "typing", "axolotl.integrations.base", *ours}
    for name in ours:
        text = Path(sys.modules[name].__file__ or "").read_text()
        assert set(re.findall(r"^(?:from|import) (\w+)", text, re.M)) <= sys.stdlib_module_names


LIGER = "axolotl.integrations.liger.LigerPlugin"
CUT = "axolotl.integrations.cut_cross_entropy.CutCrossEntropyPlugin"
LM_EVAL = "axolotl.integrations.lm_eval.LMEvalPlugin"
FORK = "tiny_plugins.CutCrossEntropyFork"


@pytest.mark.slow
def test_beside_other_plugins_in_any_order(model: Path, tmp_path: Path) -> None:
    """Fused losses train as the model's own does, before the plugin or after it.

    Liger's kernels run in Triton's interpreter.
    """
    data = [{**row, "ual_smoothing": n / 20} for n, row in enumerate(rows(0.0))]
    tiny.write_rows(tmp_path / "data.jsonl", data)
    plain = tiny.axolotl(recipe(model, tmp_path), tmp_path)
    fused: dict[str, Any] = {"liger_fused_linear_cross_entropy": True}
    for plugins, settings, said in (
        ([LIGER, PLUGIN, LM_EVAL], fused, "Applying LIGER to llama"),
        ([LM_EVAL, PLUGIN, LIGER], fused, "Applying LIGER to llama"),
        ([FORK, CUT, PLUGIN], {}, "Applying Cut Cross Entropy to model type: llama"),
        ([PLUGIN, FORK, CUT], {}, "Applying Cut Cross Entropy to model type: llama"),
    ):
        run = tiny.axolotl(
            recipe(model, tmp_path, plugins=plugins, **settings),
            tmp_path,
            imports={"TRITON_INTERPRET": "1"},
        )
        assert said in run.text
        for key in ("loss", "loss/smoothing", "grad_norm"):
            assert run.values(key) == pytest.approx(plain.values(key), rel=1e-5), plugins


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Axolotl's plugin manager, without the plugins that other tests have left in it."""
    from axolotl.integrations.base import PluginManager

    monkeypatch.setattr(PluginManager, "_instance", None)
    manager = PluginManager.get_instance()
    manager.plugins.clear()
    return manager


@pytest.mark.parametrize("order", list(itertools.permutations([LIGER, CUT, LM_EVAL, PLUGIN])))
def test_hooks_give_the_same_in_any_order(manager: Any, order: tuple[str, ...]) -> None:
    from axolotl.utils.dict import DictDefault

    from axolotl_ual.training.sft import UALTrainer

    for name in order:
        manager.register(name)
    assert list(manager.plugins) == list(order)
    cfg = DictDefault({"plugins": list(order), "datasets": []})
    assert list(rivals(cfg, manager.plugins)) == []
    assert manager.get_trainer_cls(cfg) is UALTrainer
    assert manager.get_collator_cls_and_kwargs(cfg) is None
    assert manager.get_training_args(cfg) == {}
    assert "axolotl_ual.settings.ual.UALArgs" in manager.get_input_args()


DIFFUSION = "axolotl.integrations.diffusion.DiffusionPlugin"


@pytest.mark.parametrize("order", [(DIFFUSION, PLUGIN), (PLUGIN, DIFFUSION)])
def test_two_trainers_are_refused_in_any_order(manager: Any, order: tuple[str, ...]) -> None:
    from axolotl.utils.dict import DictDefault

    for name in order:
        manager.register(name)
    cfg = DictDefault({"plugins": list(order)})
    theirs = manager.plugins[DIFFUSION].get_trainer_cls(cfg).__name__
    with pytest.raises(UnsupportedError) as caught:
        manager.plugins[PLUGIN].load_datasets(cfg)
    assert caught.value.problem == (
        f"plugins: `{DIFFUSION}` and `{PLUGIN}` both bring a trainer ({theirs} and "
        "UALTrainer), and only one can train"
    )
    assert caught.value.fix == f"take `{DIFFUSION}` or `{PLUGIN}` out of `plugins:`"


@pytest.mark.slow
def test_compiled(model: Path, tmp_path: Path) -> None:
    tiny.write_rows(tmp_path / "data.jsonl", rows(0.2))
    plain = tiny.axolotl(recipe(model, tmp_path), tmp_path)
    settings = {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    compiled = tiny.axolotl(recipe(model, tmp_path, **settings), tmp_path)
    for key in ("loss", "loss/smoothing", "grad_norm"):
        assert compiled.values(key) == pytest.approx(plain.values(key), rel=1e-5)
