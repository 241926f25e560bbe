"""Where data and output lie: inside one another, behind patterns, changed after they were read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

import tiny
from axolotl_ual.data.annotated import Located, locate
from axolotl_ual.errors import AnnotationError
from axolotl_ual.preprocess.cli import main
from axolotl_ual.settings.ual import parse_ual

ROWS = [{"instruction": f"Add {n} and 1.", "output": f"{n + 1}"} for n in range(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write_recipe(model: Path, entry: dict[str, Any], output: str) -> Path:
    recipe = {
        "base_model": str(model),
        "datasets": [{"type": "alpaca", **entry}],
        "ual": {"annotate": {"output": output, "estimator": "perplexity"}},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    return Path("recipe.yaml")


def annotate(recipe: Path) -> Result:
    return CliRunner().invoke(main, ["annotate", str(recipe)])


def located(recipe: Path) -> Located:
    """What the plugin trains on; it raises where the data are not those that were annotated."""
    raw = yaml.safe_load(recipe.read_text())
    return locate(raw, parse_ual(raw["ual"]), str(recipe))


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    tiny.write_rows(Path(path), rows)


# Files of the data folder, the entry, the output inside it, and the rows that are trained.
INSIDE: dict[str, tuple[dict[str, list[dict[str, Any]]], dict[str, Any], str]] = {
    "beside a file": ({"data/lima.jsonl": ROWS}, {"path": "data"}, "data/lima-ual"),
    "beside named splits": (
        {"data/train.jsonl": ROWS, "data/test.jsonl": ROWS[:2]},
        {"path": "data"},
        "data/made/ual",
    ),
    "in a folder that is a split": (
        {"data/train/a.jsonl": ROWS[:5], "data/train/b.jsonl": ROWS[5:]},
        {"path": "data"},
        "data/train/ual",
    ),
    "beside shards": (
        {
            "data/data/train-00000-of-00002.parquet": ROWS[:7],
            "data/data/train-00001-of-00002.parquet": ROWS[7:],
        },
        {"path": "data"},
        "data/data/train-ual",
    ),
    "beside files that are no data": (
        {"data/lima.jsonl": ROWS, "data/.hidden/x.jsonl": ROWS[:1]},
        {"path": "data", "split": "train"},
        "data/lima-ual",
    ),
    "where a pattern searches": (
        {"data/a.parquet": ROWS[:5], "data/deep/b.parquet": ROWS[5:]},
        {"path": "data", "ds_type": "parquet", "data_files": "data/**/*.parquet"},
        "data/ual",
    ),
}


@pytest.mark.parametrize("name", INSIDE)
def test_an_output_inside_the_data_is_no_data(model: Path, name: str) -> None:
    files, entry, output = INSIDE[name]
    for path, rows in files.items():
        write(path, rows)
    Path("data/LICENSE").write_text("none")
    recipe = write_recipe(model, entry, output)
    assert annotate(recipe).exit_code == 0
    first = (Path(output) / "train.parquet").read_bytes()
    # The data are what they were: training finds the copy, and another run makes the same one.
    [found] = located(recipe).entries
    assert found["path"] == f"{output}/train.parquet"
    again = annotate(recipe)
    assert again.exit_code == 0, again.output
    assert (Path(output) / "train.parquet").read_bytes() == first
    assert pq.read_table(Path(output) / "train.parquet")["instruction"].to_pylist() == [
        row["instruction"] for row in ROWS
    ]
    # And what a killed run leaves beside it is none either.
    write(f"{output}.partial-1/train.parquet".replace("data/", "data/.", 1), ROWS[:1])
    assert located(recipe).entries == [found]


def test_a_second_output_beside_the_first_changes_nothing(model: Path) -> None:
    write("data/lima.jsonl", ROWS)
    other = write_recipe(model, {"path": "data"}, "data/other")
    assert annotate(other).exit_code == 0
    recipe = write_recipe(model, {"path": "data"}, "data/lima-ual")
    assert annotate(recipe).exit_code == 0
    assert located(recipe).entries[0]["path"] == "data/lima-ual/train.parquet"
    other = write_recipe(model, {"path": "data"}, "data/other")
    assert located(other).entries[0]["path"] == "data/other/train.parquet"


def test_a_manifest_of_somebody_else_is_data_as_any_other(model: Path) -> None:
    write("data/sub/train.jsonl", ROWS)
    Path("data/sub/manifest.json").write_text(json.dumps({"name": "app"}))
    recipe = write_recipe(model, {"path": "data", "data_files": "data/sub/*.jsonl"}, "out")
    assert annotate(recipe).exit_code == 0
    assert pq.read_table("out/train.parquet").num_rows == len(ROWS)


def rewrite(path: str) -> Callable[[], None]:
    return lambda: write(path, [*ROWS, ROWS[0]])


CHANGED: dict[str, tuple[dict[str, Any], Callable[[], None]]] = {
    "alone": ({"path": "data", "data_files": "data/*.jsonl"}, rewrite("data/a.jsonl")),
    "in a list": (
        {"path": "data", "data_files": ["data/b.jsonl", "data/a*.jsonl"]},
        rewrite("data/a.jsonl"),
    ),
    "beside a plain file": (
        {"path": "data/b.jsonl", "data_files": ["data/?.jsonl"]},
        rewrite("data/a.jsonl"),
    ),
    "outside of path": (
        {"path": "data", "data_files": "elsewhere/**/*.jsonl"},
        rewrite("elsewhere/deep/c.jsonl"),
    ),
    "a file more": ({"path": "data", "data_files": "data/*.jsonl"}, rewrite("data/new.jsonl")),
    "a file less": (
        {"path": "data", "data_files": "data/*.jsonl"},
        lambda: Path("data/b.jsonl").unlink(),
    ),
    "a class of characters": (
        {"path": "data", "data_files": "data/[ab].jsonl"},
        rewrite("data/b.jsonl"),
    ),
    "by the name of a format": (
        {"path": "json", "data_files": "data/*.jsonl"},
        rewrite("data/a.jsonl"),
    ),
    "an absolute pattern": (
        {"path": "data", "data_files": "{here}/data/*.jsonl"},
        rewrite("data/a.jsonl"),
    ),
}


@pytest.mark.parametrize("name", CHANGED)
def test_data_changed_behind_a_pattern_are_noticed(model: Path, name: str) -> None:
    entry, change = CHANGED[name]
    for path in ("data/a.jsonl", "data/b.jsonl", "elsewhere/deep/c.jsonl"):
        write(path, ROWS)
    named = entry["data_files"]
    if isinstance(named, str):
        entry = {**entry, "data_files": named.replace("{here}", str(Path.cwd()))}
    recipe = write_recipe(model, entry, "out")
    result = annotate(recipe)
    assert result.exit_code == 0, result.output
    assert located(recipe).entries[0]["path"] == "out/train.parquet"
    # What no pattern names may change.
    write("data/c.txt", ROWS)
    located(recipe)
    change()
    with pytest.raises(AnnotationError, match="has changed since out was made from it"):
        located(recipe)
