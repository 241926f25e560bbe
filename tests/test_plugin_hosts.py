"""What differs from one Axolotl to the next, in real `axolotl train` runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny
from axolotl_ual import plugin as module
from axolotl_ual.host import describe, host, runs_without_a_line

pytestmark = pytest.mark.host
PLUGIN = "axolotl_ual.UALPlugin"
TRAINED = ("loss", "grad_norm")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


def recipe(model: Path, folder: Path, smoothing: float | None, **settings: Any) -> dict[str, Any]:
    """Eight rows, each longer than the one before it."""
    annotated = {} if smoothing is None else {"ual_smoothing": smoothing}
    rows = [
        {"instruction": f"Question {n}?", "output": " ".join(["word"] * (n + 1)), **annotated}
        for n in range(8)
    ]
    tiny.write_rows(folder / "data.jsonl", rows)
    entry = {"path": str(folder / "data.jsonl"), "type": "alpaca"}
    return tiny.recipe(model, folder, [entry], **{"max_steps": 3, **settings})


@pytest.mark.slow
def test_a_recipe_that_does_not_ask_is_left_alone(model: Path, tmp_path: Path) -> None:
    """Bit for bit the run of an Axolotl beside which nothing is installed."""
    # Without an adapter, which not every host seeds.
    settings = recipe(model, tmp_path, None, plugins=[], adapter=None)
    beside = tiny.axolotl(settings, tmp_path)
    loaded = (beside.output / "plugins.json").read_text()
    weights = (beside.output / "model.safetensors").read_bytes()
    prepared = sorted(path.name for path in (tmp_path / "prepared").iterdir())
    alone = tiny.axolotl(settings, tmp_path, imports={"TINY_HIDES_PLUGINS": "1"})
    assert (PLUGIN in json.loads(loaded)) == runs_without_a_line()
    assert PLUGIN not in json.loads((alone.output / "plugins.json").read_text())
    assert len(alone.values("loss")) == 3
    for key in (*TRAINED, "learning_rate"):
        assert beside.values(key) == alone.values(key)
    assert weights == (alone.output / "model.safetensors").read_bytes()
    assert prepared == sorted(path.name for path in (tmp_path / "prepared").iterdir())


@pytest.mark.slow
def test_a_ual_block_is_enough_where_installed_plugins_are_loaded(
    model: Path, tmp_path: Path
) -> None:
    """Also an empty one, which validation drops, and under the plugin's longer name."""
    named = tiny.axolotl(recipe(model, tmp_path, 0.2, plugins=[PLUGIN]), tmp_path)
    longer = recipe(model, tmp_path, 0.2, plugins=["axolotl_ual.plugin.UALPlugin"])
    unnamed = {**recipe(model, tmp_path, 0.2, plugins=[]), "ual": None}
    for settings in [longer, *([unnamed] if runs_without_a_line() else [])]:
        run = tiny.axolotl(settings, tmp_path)
        assert len(run.values("loss/smoothing")) == 3
        for key in (*TRAINED, "loss/smoothing"):
            assert run.values(key) == named.values(key)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_balanced_labels(model: Path, tmp_path: Path, packed: bool) -> None:
    """Rows come in the order that Axolotl's own trainer takes them in, or the run stops."""
    settings = {"balance_labels": True, "sample_packing": packed, "pad_to_sequence_len": False}
    if packed:
        settings["sequence_len"] = 128
    ours = tiny.axolotl(
        recipe(model, tmp_path, 0.0, plugins=[PLUGIN], **settings), tmp_path, check=False
    )
    if "balance_labels" in host().lacks:
        assert ours.returncode == 1
        assert f"balance_labels: true: Axolotl {host().version} does not have" in ours.text
        return
    stock = tiny.axolotl(recipe(model, tmp_path, None, plugins=[], **settings), tmp_path)
    plain = tiny.axolotl(
        recipe(model, tmp_path, None, plugins=[], **{**settings, "balance_labels": False}), tmp_path
    )
    assert ours.returncode == 0, ours.text[-3000:]
    assert stock.values("loss") != plain.values("loss")
    for key in TRAINED:
        assert ours.values(key) == pytest.approx(stock.values(key), rel=1e-5)


@pytest.mark.slow
def test_full_determinism_and_no_evaluation_at_the_start(model: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"plugins": [PLUGIN], "val_set_size": 2, "eval_steps": 3}
    changed = {"full_determinism": True, "eval_on_start": False}
    plain = tiny.axolotl(recipe(model, tmp_path, 0.2, **settings), tmp_path)
    assert [entry["step"] for entry in plain.log if "eval_loss" in entry] == [0, 3]
    runs = [
        tiny.axolotl(recipe(model, tmp_path, 0.2, **settings, **changed), tmp_path, check=False)
        for _ in range(2)
    ]
    if host().lacks:
        assert runs[0].returncode == 1
        assert f"Axolotl {host().version} does not have this setting" in runs[0].text
        return
    for run in runs:
        assert run.returncode == 0, run.text[-3000:]
        assert [entry["step"] for entry in run.log if "eval_loss" in entry] == [3]
        for key in (*TRAINED, "loss/smoothing"):
            assert run.values(key) == runs[0].values(key)
            assert run.values(key) == pytest.approx(plain.values(key), rel=1e-5)


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Axolotl's plugin manager, without the plugins that other tests have left in it."""
    from axolotl.integrations.base import PluginManager

    monkeypatch.setattr(PluginManager, "_instance", None)
    manager = PluginManager.get_instance()
    manager.plugins.clear()
    return manager


def test_of_two_instances_one_acts(manager: Any) -> None:
    """The recipe's own spelling may be another than that of the installed package."""
    names = [PLUGIN, "axolotl_ual.plugin.UALPlugin"]
    for name in names:
        manager.register(name)
    assert [manager.plugins[name]._acts({"plugins": names[1:]}) for name in names] == [True, False]
    assert not manager.plugins[PLUGIN]._acts({"plugins": ["other.Plugin"]})


def test_an_untested_host_is_warned_of(manager: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    manager.register(PLUGIN)
    said: list[str] = []
    logger = type("Logger", (), {"warning": staticmethod(said.append)})
    monkeypatch.setattr("axolotl.utils.logging.get_logger", lambda name: logger)
    for version in ("0.21.0", "0.22.0"):
        monkeypatch.setattr(module, "host", lambda version=version: describe(version))
        manager.plugins[PLUGIN].register({"plugins": [PLUGIN]})
    assert [line[:35] for line in said] == ["Axolotl 0.22.0 is newer than 0.21, "]
