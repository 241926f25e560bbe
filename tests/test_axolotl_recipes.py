"""How the outcome of a trained recipe is read, and what the rows of its datasets become."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.host
BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield importlib.import_module
    for name in ("axolotl_rows", "axolotl_tiny", "axolotl_train"):
        sys.modules.pop(name, None)


def test_the_last_error_tells_how_a_run_ended(module: Any) -> None:
    reason = module("axolotl_train")._reason
    ours = "ValueError: first\naxolotl_ual.errors.DataError: a row\n  fix: mend it"
    assert reason(ours, 1) == {"outcome": "refused", "why": "axolotl_ual.errors.DataError: a row"}
    assert reason("Traceback\nKeyError: 'x'\n", 1)["outcome"] == "failed"
    invalid = "pydantic.ValidationError: 1 error\n  Value error, too many\n"
    assert reason(invalid, 1)["why"] == "pydantic.ValidationError: Value error, too many"
    assert reason("half a line", -11)["why"] == "status -11: half a line"


def test_rows_have_the_names_that_a_dataset_reads(module: Any) -> None:
    rows = module("axolotl_rows").rows
    names = {"role": "from", "content": "value"}
    entry = {"type": "chat_template", "field_messages": "c", "message_property_mappings": names}
    row = rows(entry)[1]
    assert [turn["from"] for turn in row["c"]] == ["human", "gpt"]
    assert row["ual_smoothing"] == 0.05
    assert rows({"type": "alpaca:chat"})[0].keys() >= {"instruction", "output"}
    assert rows({"type": "pretrain", "text_column": "t"})[0]["t"]
    assert rows({"type": None})[0].keys() >= {"input_ids", "labels", "ual_smoothing"}
    # Its transform leaves all other columns in a row, and the trainer makes tensors of them.
    assert rows({"type": "ebft_pretrain.transform"})[0].keys() == {"question", "answer"}
    assert rows({"type": "rwd.gsm8k_transform"})[0].keys() >= {"question", "ual_stage"}


def test_formats_of_which_no_rows_are_made_are_named(module: Any, tmp_path: Path) -> None:
    unknown = module("axolotl_rows").unknown_formats
    known = [{"type": "alpaca:chat"}, {"type": None}, {"path": "p"}]
    assert unknown({"datasets": known, "pretraining_dataset": "text"}) == []
    recipe = {"datasets": [*known, {"type": "unheard_of.transform"}]}
    assert unknown(recipe) == ["unheard_of.transform"]
    assert module("axolotl_train")._tried(tmp_path / "r.yaml", recipe, 1)["outcome"] == "untried"


ATTENTION = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.experts.down_proj"]


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"lora_target_modules": ["q_proj"]}, ["q_proj"]),
        ({"lora_target_modules": ["Wqkv"]}, None),
        (
            {"lora_target_modules": r"model.language_model.layers.[\d]+.self_attn.(q|k)_proj"},
            r"model.layers.[\d]+.self_attn.(q|k)_proj",
        ),
        ({"lora_target_parameters": ["mlp.experts.down_proj"]}, None),
    ],
)
def test_an_adapter_is_where_the_tiny_model_has_it(
    module: Any, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], wanted: Any
) -> None:
    tiny_model = module("axolotl_tiny")
    monkeypatch.setattr(tiny_model, "_parameters", lambda _: ATTENTION)
    small = {"adapter": "lora", **given}
    small.update(tiny_model._modules(small, Path()))
    assert small.get("lora_target_modules") == wanted
    named = wanted or small.get("lora_target_parameters")
    assert small.get("lora_target_linear", False) is (not named)


@pytest.mark.slow
def test_what_a_run_leaves_running_is_ended(
    module: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A dataloader's worker lives on where the run's process ends without cleaning up."""
    train = module("axolotl_train")

    def leave_one(recipe: Any, folder: Path, *_: Any) -> int:
        worker = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        (folder / "worker").write_text(str(worker.pid))
        return 0

    monkeypatch.setattr(train, "_run", leave_one)
    train._in_a_fork({}, tmp_path / "run", 60, plugin=True)
    worker = int((tmp_path / "run" / "worker").read_text())
    for _ in range(1000):
        state = Path(f"/proc/{worker}/stat")
        if not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z":
            return
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    raise AssertionError("the worker still runs")


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Qwen/Qwen3.5-35B-A3B", "qwen3_5_moe_text"), ("google/gemma-2-9b", "gemma2"), ("x", "llama")],
)
def test_architectures_are_told_by_name(module: Any, name: str, kind: str) -> None:
    assert module("axolotl_tiny").family(name) == kind
