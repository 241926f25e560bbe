"""How the outcome of a trained recipe is read, and what the rows of its datasets become."""

from __future__ import annotations

import importlib
import sys
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


def test_formats_of_which_no_rows_are_made_are_named(module: Any, tmp_path: Path) -> None:
    unknown = module("axolotl_rows").unknown_formats
    known = [{"type": "alpaca:chat"}, {"type": None}, {"path": "p"}]
    assert unknown({"datasets": known, "pretraining_dataset": "text"}) == []
    recipe = {"datasets": [*known, {"type": "unheard_of.transform"}]}
    assert unknown(recipe) == ["unheard_of.transform"]
    assert module("axolotl_train")._tried(tmp_path / "r.yaml", recipe, 1)["outcome"] == "untried"


@pytest.mark.parametrize(
    ("name", "kind"),
    [("Qwen/Qwen3.5-35B-A3B", "qwen3_5_moe_text"), ("google/gemma-2-9b", "gemma2"), ("x", "llama")],
)
def test_architectures_are_told_by_name(module: Any, name: str, kind: str) -> None:
    assert module("axolotl_tiny").family(name) == kind
