"""`axolotl-ual annotate`, through the command line, with a tiny local model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result

import tiny
from axolotl_ual import columns
from axolotl_ual.columns import Manifest
from axolotl_ual.preprocess.cli import main
from axolotl_ual.settings.ual import parse_ual

ROWS = [
    {"instruction": f"Add {i} and 1.", "input": "", "output": f"{i + 1}", "id": i}
    for i in range(40)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_recipe(model: Path, entries: list[dict[str, Any]], **ual: Any) -> Path:
    settings = {"output": "out", "estimator": "perplexity", **ual.pop("annotate", {})}
    recipe = {
        "base_model": str(model),
        "datasets": entries,
        "learning_rate": 0.001,
        "micro_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "ual": {"annotate": settings, **ual},
    }
    path = Path("recipe.yaml")
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def read(path: str) -> datasets.Dataset:
    return datasets.Dataset.from_parquet(str(Path("out") / path))


def test_names_are_printed_as_they_are() -> None:
    data = tiny.write_rows(Path("data.jsonl"), ROWS)
    recipe = write_recipe(Path("m"), [{"path": str(data), "type": "alpaca"}])
    result = run("annotate", recipe, "--dry-run", "--output", "data [v1][/b] :key:")
    assert result.exit_code == 0, result.output
    assert "into data [v1][/b] :key:" in result.output


def test_a_path_that_is_read_as_a_pattern_is_told() -> None:
    Path("data[1]").mkdir()
    data = tiny.write_rows(Path("data[1]/data.jsonl"), ROWS)
    recipe = write_recipe(Path("m"), [{"path": str(data), "type": "alpaca"}])
    result = run("annotate", recipe, "--dry-run")
    assert result.exit_code == 1
    assert "data[1]/data.jsonl: cannot be loaded: in a path" in result.output


def test_rows_keep_their_columns_and_gain_ours(model: Path) -> None:
    tiny.write_rows(Path("data.jsonl"), ROWS)
    recipe = write_recipe(model, [{"path": "data.jsonl", "type": "alpaca"}])
    result = run("annotate", recipe)
    assert result.exit_code == 0, result.output
    table = read("train.parquet")
    assert table.column_names == [
        "instruction",
        "input",
        "output",
        "id",
        columns.UNCERTAINTY,
        columns.SMOOTHING,
        columns.STAGE,
    ]
    assert table.select_columns(["instruction", "input", "output", "id"]).to_list() == ROWS
    smoothing = np.array(table[columns.SMOOTHING], dtype=np.float64)
    assert smoothing.mean() == pytest.approx(0.1, rel=1e-6)
    # Ranks of 40 different scores: the stages are thirds as near as whole rows can be.
    assert sorted(table[columns.STAGE].count(stage) for stage in columns.STAGES) == [13, 13, 14]
    assert "40 rows: 40 scored" in result.output


def test_the_manifest_tells_what_was_done(model: Path) -> None:
    tiny.write_rows(Path("data.jsonl"), ROWS)
    recipe = write_recipe(model, [{"path": "data.jsonl", "type": "alpaca"}], smoothing={"max": 0.3})
    assert run("annotate", recipe).exit_code == 0
    manifest = Manifest.read("out")
    ual = parse_ual(yaml.safe_load(recipe.read_text())["ual"])
    assert manifest.settings == ual.result_settings(str(model))
    assert manifest.counts == {"rows": 40, "scored": 40, "missing": 0, "dropped": 0}
    assert manifest.sources[0].entry == {"path": "data.jsonl", "type": "alpaca"}
    assert sum(manifest.stages.values()) == 40
    assert manifest.estimator["name"] == "perplexity"
    assert {"python", "datasets", "torch", "transformers"} <= manifest.versions.keys()


def test_the_card_loads_with_datasets(model: Path) -> None:
    tiny.write_rows(Path("data.jsonl"), ROWS)
    run("annotate", write_recipe(model, [{"path": "data.jsonl", "type": "alpaca"}]))
    card = Path("out/README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["configs"][0]["data_files"] == [{"split": "train", "path": "train.parquet"}]
    assert len(datasets.load_dataset("out", split="train")) == 40


def test_the_mean_is_taken_over_all_datasets(model: Path) -> None:
    tiny.write_rows(Path("a.jsonl"), ROWS[:25])
    tiny.write_rows(Path("b.jsonl"), [{"text": f"Once upon {i} times."} for i in range(15)])
    entries = [{"path": "a.jsonl", "type": "alpaca"}, {"path": "b.jsonl", "type": "completion"}]
    assert run("annotate", write_recipe(model, entries)).exit_code == 0
    manifest = Manifest.read("out")
    tables = [read(source.file.path) for source in manifest.sources]
    assert [len(table) for table in tables] == [25, 15]
    assert tables[1].column_names[0] == "text"
    both = [value for table in tables for value in table[columns.SMOOTHING]]
    assert np.mean(both) == pytest.approx(0.1, rel=1e-6)


def test_a_second_run_gives_the_same_bytes(model: Path) -> None:
    tiny.write_rows(Path("data.jsonl"), ROWS)
    recipe = write_recipe(model, [{"path": "data.jsonl", "type": "alpaca"}])
    run("annotate", recipe)
    first = Path("out/train.parquet").read_bytes()
    assert run("annotate", recipe).exit_code == 0
    assert Path("out/train.parquet").read_bytes() == first


def test_limit_takes_the_first_rows_and_says_so(model: Path) -> None:
    tiny.write_rows(Path("data.jsonl"), ROWS)
    recipe = write_recipe(model, [{"path": "data.jsonl", "type": "alpaca"}])
    assert run("annotate", recipe, "--limit", "7", "--output", "try").exit_code == 0
    assert Manifest.read("try").limit == 7
    assert Manifest.read("try").counts["rows"] == 7
    assert not Path("out").exists()


def test_dry_run_writes_nothing(model: Path) -> None:
    tiny.write_rows(Path("data.jsonl"), ROWS)
    recipe = write_recipe(model, [{"path": "data.jsonl", "type": "alpaca"}])
    before = sorted(Path().iterdir())
    result = run("annotate", recipe, "--dry-run")
    assert result.exit_code == 0
    assert "would annotate 40 rows into out" in result.output
    assert "no requests, no cost" in result.output
    assert sorted(Path().iterdir()) == before


ALPACA = {"path": "data.jsonl", "type": "alpaca"}
CHAT = {"path": "data.jsonl", "type": "chat_template"}
GOOD_CHAT = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
}
NULL_MESSAGE = {
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": None}]
}


@pytest.mark.parametrize(
    ("entry", "lines", "ual", "words"),
    [
        pytest.param(ALPACA, [*ROWS, {"instruction": "x"}], {}, ["output", "40"], id="missing key"),
        pytest.param(
            ALPACA,
            [*ROWS[:3], {"instruction": "x", "input": "", "output": "  "}],
            {},
            ["output", "3"],
            id="empty response",
        ),
        pytest.param(ALPACA, [ROWS[0], "text"], {}, ["data.jsonl", "2"], id="row no object"),
        pytest.param(
            {"path": "data.jsonl", "type": "alpacca"}, ROWS, {}, ["alpacca", "alpaca"], id="type"
        ),
        pytest.param(
            ALPACA,
            [{"instruction": "a", "output": "b"}, {"instruction": {"t": 1}, "output": "b"}],
            {},
            ["instruction"],
            id="mixed schemas",
        ),
        pytest.param(CHAT, [GOOD_CHAT, NULL_MESSAGE], {}, ["content"], id="null message"),
        pytest.param(ALPACA, ROWS, {"smoothing": {"mean": 0.9}}, ["mean: 0.9", "max"], id="mean"),
        pytest.param(
            ALPACA,
            ROWS,
            {"annotate": {"estimator": "perplexty"}},
            ["estimator", "perplexty"],
            id="estimator",
        ),
        pytest.param(
            ALPACA,
            ROWS,
            {"annotate": {"perplexity": {"model": "./nowhere"}}},
            ["ual.annotate.perplexity.model", "nowhere"],
            id="no model",
        ),
        pytest.param(
            {"path": "other.jsonl", "type": "alpaca"}, ROWS, {}, ["other.jsonl"], id="no file"
        ),
    ],
)
def test_bad_input_is_named_and_nothing_is_written_over(
    model: Path, entry: dict[str, Any], lines: list[Any], ual: dict[str, Any], words: list[str]
) -> None:
    tiny.write_rows(Path("good.jsonl"), ROWS)
    run("annotate", write_recipe(model, [{"path": "good.jsonl", "type": "alpaca"}]))
    before = {path.name: path.read_bytes() for path in Path("out").iterdir()}
    Path("data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    result = run("annotate", write_recipe(model, [entry], **ual))
    assert result.exit_code == 1, result.output
    assert "error:" in result.output
    for word in words:
        assert word in result.output
    assert {path.name: path.read_bytes() for path in Path("out").iterdir()} == before
    assert not list(Path().glob(".out*"))


def test_the_recipe_must_ask_for_annotation(model: Path) -> None:
    tiny.write_rows(Path("data.jsonl"), ROWS)
    Path("recipe.yaml").write_text(
        yaml.safe_dump({"base_model": str(model), "datasets": [ALPACA], "ual": {}})
    )
    result = run("annotate", "recipe.yaml")
    assert result.exit_code == 1
    assert "ual.annotate" in result.output


def test_a_mean_that_few_uncertain_rows_cannot_reach(model: Path) -> None:
    # Two different scores among 40: ranks give one of them 0, so half of the rows are at 0 and the
    # largest reachable mean is 0.5 * max.
    same = [{"instruction": "Say it.", "input": "", "output": "one"}] * 20
    tiny.write_rows(Path("data.jsonl"), [*same, *({**row, "output": "two words"} for row in same)])
    smoothing = {"mean": 0.3, "max": 0.5}
    result = run("annotate", write_recipe(model, [ALPACA], smoothing=smoothing))
    assert result.exit_code == 1
    assert "20 of 40" in result.output and "0.25 or less" in result.output
    assert not Path("out").exists()
