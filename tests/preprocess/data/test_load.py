"""Loading datasets: the rows Axolotl would train on, and clear words where they cannot be had."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import http.server
import json
import lzma
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.errors import DataError
from axolotl_ual.preprocess.data.json_files import check_json, read_rows
from axolotl_ual.preprocess.data.load import load_entry, local_files
from axolotl_ual.preprocess.data.recipe import Entry, Recipe
from axolotl_ual.preprocess.data.rows import read_samples
from axolotl_ual.settings.ual import UALConfig

ROWS = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(25)]


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def entry_of(path: Path | str, **raw: Any) -> Entry:
    raw = {"path": str(path), "type": "alpaca", **raw}
    return Entry(0, raw, str(path), raw["type"], Path(str(path)).name)


def load(path: Path | str, **raw: Any) -> list[dict[str, Any]]:
    return load_entry(entry_of(path, **raw), seed=42).to_list()


def problem(path: Path | str, **raw: Any) -> str:
    with pytest.raises(DataError) as caught:
        load(path, **raw)
    return str(caught.value)


def write(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def by_axolotl(path: Path | str, **raw: Any) -> list[dict[str, Any]]:
    """The rows that Axolotl itself reads, before it tokenises them."""
    from axolotl.utils.data.shared import load_dataset_with_config
    from axolotl.utils.dict import DictDefault

    entry = DictDefault({"path": str(path), **raw})
    table = load_dataset_with_config(entry, use_auth_token=False)
    if isinstance(table, datasets.DatasetDict):
        table = table[entry.split if entry.split in table else "train"]
    if entry.shards:
        table = table.shuffle(seed=42).shard(entry.shards, entry.get("shards_idx", 0))
    rows: list[dict[str, Any]] = table.to_list()
    return rows


# --- every kind of place ---------------------------------------------------------------------

Place = tuple[Path, dict[str, Any]]


def make_places(folder: Path) -> dict[str, Place]:
    """The same rows in every format, each with the further keys of its entry."""
    table = datasets.Dataset.from_list(ROWS)
    lines = write(folder / "a.jsonl", ROWS)
    (folder / "a.json").write_text(json.dumps(ROWS), encoding="utf-8")
    (folder / "indented.json").write_text(json.dumps(ROWS, indent=2), encoding="utf-8")
    (folder / "bom.jsonl").write_bytes(b"\xef\xbb\xbf" + lines.read_bytes())
    blank = lines.read_text(encoding="utf-8").replace("\n", "\n\n  \n")
    (folder / "blank.jsonl").write_text(blank, encoding="utf-8")
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(lines.read_bytes()))
    (folder / "a.jsonl.bz2").write_bytes(bz2.compress(lines.read_bytes()))
    (folder / "a.jsonl.xz").write_bytes(lzma.compress(lines.read_bytes()))
    shutil.copy(lines, folder / "rows.data")
    table.to_parquet(folder / "a.parquet")
    table.to_csv(folder / "a.csv")
    table.save_to_disk(folder / "saved")
    datasets.DatasetDict({"train": table, "other": table}).save_to_disk(folder / "splits")
    shutil.copy(next((folder / "saved").glob("*.arrow")), folder / "a.arrow")
    write(folder / "folder" / "train.jsonl", ROWS)
    write(folder / "folder" / "test.jsonl", ROWS[:3])
    table.to_parquet(folder / "parquets" / "part-0.parquet")
    files = ["a.jsonl", "a.json", "indented.json", "bom.jsonl", "blank.jsonl"]
    files += ["a.jsonl.gz", "a.jsonl.bz2", "a.jsonl.xz", "a.parquet", "a.csv", "a.arrow"]
    part = str(folder / "folder" / "train.jsonl")
    return {
        **{name: (folder / name, {}) for name in files},
        "ds_type": (folder / "rows.data", {"ds_type": "json"}),
        "a slice": (folder / "a.jsonl", {"split": "train[3:9]"}),
        "folder": (folder / "folder", {}),
        "folder of Parquet": (folder / "parquets", {}),
        "split of a folder": (folder / "folder", {"split": "test"}),
        "saved": (folder / "saved", {}),
        "saved with splits": (folder / "splits", {}),
        "split of saved": (folder / "splits", {"split": "other"}),
        "data_files": (folder / "folder", {"data_files": [part, str(folder / "a.jsonl")]}),
        "a pattern of data_files": (folder, {"data_files": str(folder / "folder" / "t*.jsonl")}),
        "shard": (folder / "a.jsonl", {"shards": 4, "shards_idx": 1}),
        "first shard": (folder / "a.jsonl", {"shards": 3}),
        "preprocess_shards": (folder / "a.jsonl", {"preprocess_shards": 3}),
    }


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Place]:
    return make_places(tmp_path_factory.mktemp("places"))


NUMBER_OF_ROWS = {
    "a slice": 6,
    "split of a folder": 3,
    "data_files": 50,
    "a pattern of data_files": 28,
    # 25 rows in 4 shards are 7, 6, 6, 6; in 3 shards 9, 8, 8.
    "shard": 6,
    "first shard": 9,
}
PLACES = [
    *("a.jsonl", "a.json", "indented.json", "bom.jsonl", "blank.jsonl", "a.jsonl.gz"),
    *("a.jsonl.bz2", "a.jsonl.xz", "a.parquet", "a.csv", "a.arrow", "ds_type", "folder"),
    *("folder of Parquet", "saved", "saved with splits", "split of saved", "preprocess_shards"),
    *NUMBER_OF_ROWS,
]


@pytest.mark.parametrize("name", PLACES)
def test_the_rows_are_those_of_axolotl_in_its_order(name: str, places: dict[str, Place]) -> None:
    path, raw = places[name]
    rows = load(path, **raw)
    assert rows == by_axolotl(path, **raw)
    assert len(rows) == NUMBER_OF_ROWS.get(name, len(ROWS))
    if name not in NUMBER_OF_ROWS:
        assert rows == ROWS


def test_a_shard_depends_on_the_seed(places: dict[str, Place]) -> None:
    path, raw = places["shard"]
    entry = entry_of(path, **raw)
    assert load_entry(entry, seed=1).to_list() != load_entry(entry, seed=2).to_list()


def test_text_files_are_rows_of_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    assert load(tmp_path / "a.txt") == [{"text": "one"}, {"text": "two"}]


def test_a_list_of_texts_is_rows_with_a_text(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('["one", "two"]')
    assert load(tmp_path / "a.json") == [{"text": "one"}, {"text": "two"}]


def test_the_rows_are_mapped_from_disk(places: dict[str, Place]) -> None:
    assert load_entry(entry_of(places["a.jsonl"][0]), seed=42).cache_files


def test_changed_files_are_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    assert len(load(path)) == len(ROWS)
    write(path, ROWS[:4])
    assert load(path) == ROWS[:4]


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def test_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    write(tmp_path / "a.jsonl", ROWS)
    with served(tmp_path) as url:
        assert load(f"{url}/a.jsonl") == ROWS
        assert problem(f"{url}/b.jsonl").startswith(f"{url}/b.jsonl: cannot be read: ")


def test_a_file_system_of_fsspec(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", ROWS)
    assert load(f"file://{path}") == ROWS
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert load(f"file://{tmp_path / 'saved'}") == ROWS
    # fsspec knows this one, and names the packages that it needs.
    assert "dropboxdrivefs" in problem("dropbox://bucket/a.jsonl")


# --- bad input -------------------------------------------------------------------------------


def test_files_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "train.jsonl", ROWS)
    assert f"did you mean {tmp_path / 'train.jsonl'}?" in problem(tmp_path / "trian.jsonl")
    monkeypatch.chdir(tmp_path)
    assert "no such file or folder" in problem("data/rows.parquet")
    assert "did you mean train.jsonl?" in problem("train.json")
    assert "write the path out" in problem("~/train.jsonl")
    assert "write the path out" in problem("$HOME/train.jsonl")
    named = problem(tmp_path, data_files=[str(tmp_path / "none.jsonl")])
    assert "none.jsonl" in named and "no such file" in named


def test_a_name_on_the_hub_that_cannot_be_had() -> None:
    message = problem("no-such-person/no-such-data")
    assert "no-such-person/no-such-data: no such file or folder here, and not to be had" in message
    assert "HF_HUB_OFFLINE" in message


def test_a_split_that_is_not_there(places: dict[str, Place]) -> None:
    assert "no split 'dev'; there are 'train', 'other'" in problem(
        places["saved with splits"][0], split="dev"
    )
    assert "dev" in problem(places["a.jsonl"][0], split="dev")
    # Axolotl would train on all of it.
    assert "one saved dataset without splits" in problem(places["saved"][0], split="dev")


def test_a_folder_without_a_train_split(tmp_path: Path) -> None:
    write(tmp_path / "f" / "test.jsonl", ROWS)
    message = problem(tmp_path / "f")
    assert "no split 'train'; there are 'test'" in message
    assert "split: test" in message


def test_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n \n")
    assert f"{tmp_path / 'a.jsonl'}: holds no rows" in problem(tmp_path / "a.jsonl")
    (tmp_path / "a.json").write_text("[]")
    assert "holds no rows" in problem(tmp_path / "a.json")
    datasets.Dataset.from_dict({"a": []}).save_to_disk(tmp_path / "saved")
    assert "saved dataset has no rows" in problem(tmp_path / "saved")
    (tmp_path / "folder").mkdir()
    assert "doesn't contain any data files" in problem(tmp_path / "folder")
    write(tmp_path / "b.jsonl", ROWS)
    assert "has no rows" in problem(tmp_path / "b.jsonl", split="train[25:]")
    (tmp_path / "a.csv").write_text("instruction,output\n")
    assert "has no rows" in problem(tmp_path / "a.csv")


GOOD = '{"instruction": "a", "output": "b"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            f"{GOOD}\n\n{GOOD[:-1]}\n",
            "row 1 (line 3): is not JSON: unexpected end of data, at column 35",
        ),
        ("{'a': 1}\n", "row 0 (line 1): is not JSON: "),
        (f'{GOOD}\n"text"\n', "row 1 (line 2): is a string and not an object: 'text'"),
        (f"{GOOD}\n[1, 2]\n", "row 1 (line 2): is a list and not an object: [1, 2]"),
        (f"[1, 2]\n{GOOD}\n", "row 0 (line 1): is a list and not an object: [1, 2]"),
        (f"{GOOD}\nnull\n", "row 1 (line 2): is null and not an object"),
        (f'[{GOOD}, "text"]', "row 1: is a string and not an object: 'text'"),
        (f"[{GOOD},\n{GOOD}", "row 0 (line 1): is not JSON: "),
        (
            '{"a": "x"}\n{"a": null}\n{"a": {"b": 1}}\n',
            "row 2 (line 3): `a` is an object, and in {path}: row 0 (line 1) it is a string",
        ),
        (
            '{"a": [1], "b": 1}\n{"b": "x"}\n{"a": 5}\n',
            "row 2 (line 3): `a` is a number, and in {path}: row 0 (line 1) it is a list",
        ),
    ],
)
def test_a_broken_row_is_named_with_file_row_and_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(text)
    assert problem(path).startswith(f"{path}: {message.format(path=path)}")


@pytest.mark.parametrize(
    ("data", "fix"),
    [
        (b"\xef\xbb\xbf\xef\xbb\xbf" + GOOD.encode(), "without a byte order mark"),
        (GOOD.encode() + b"\n\xef\xbb\xbf" + GOOD.encode(), "without a byte order mark"),
        (f"{GOOD}\n{GOOD}".encode("utf-16"), "without a byte order mark"),
        ('{"a": "caf\u00e9"}'.encode("latin-1"), "is not UTF-8: convert it"),
        (f"{GOOD},\n{GOOD}\n".encode(), "take the comma at the end of each line out"),
        (f"{{\n{GOOD[1:]}\n{{\n{GOOD[1:]}".encode(), "by `jq -c .`"),
        (b'{"a": \n', "fix: write one JSON object per line"),
    ],
)
def test_a_broken_file_comes_with_its_cure(tmp_path: Path, data: bytes, fix: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(data)
    assert fix in problem(tmp_path / "a.jsonl")


def test_lines_that_end_as_on_windows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n{GOOD}\r\n".encode())
    assert [row["output"] for row in load(tmp_path / "a.jsonl")] == ["b", "b"]


def test_kinds_are_compared_across_files(tmp_path: Path) -> None:
    first, second = write(tmp_path / "a.jsonl", [{"a": "x"}]), tmp_path / "b.jsonl"
    write(second, [{"a": ["x"]}])
    message = problem(tmp_path, data_files=[str(first), str(second)])
    assert f"{second}: row 0 (line 1): `a` is a list, and in {first}: row 0 (line 1)" in message


def test_bytes_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": "caf\xe9"}\n')
    assert "row 0 (line 1): is not JSON" in problem(tmp_path / "a.jsonl")


def test_a_file_of_another_format(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", ROWS)
    message = problem(path)
    assert "cannot be loaded" in message and "ds_type" in message


# --- where a bad row lies --------------------------------------------------------------------


def check(path: Path, **raw: Any) -> str:
    entry = entry_of(path, **raw)
    recipe = Recipe(Path("r.yaml"), {}, None, 42, UALConfig(), [entry])
    with pytest.raises(DataError) as caught:
        read_samples(load_entry(entry, seed=42), entry, recipe).check()
    return str(caught.value)


BAD_ROWS: list[Any] = [*ROWS[:5], {"instruction": "a", "output": ""}, *ROWS[5:]]


def test_a_bad_row_of_lines_has_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in BAD_ROWS))
    # Every other line is empty, so row 5 is line 11.
    assert f"{path}: row 5 (line 11): `output` is an empty response" in check(path)


def test_a_bad_row_is_found_in_its_file(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", ROWS)
    second = write(tmp_path / "b.jsonl", BAD_ROWS)
    message = check(tmp_path, data_files=[str(first), str(second)])
    assert f"{second}: row 5 (line 6): " in message
    tables = [datasets.Dataset.from_list(rows) for rows in (ROWS, BAD_ROWS)]
    for number, table in enumerate(tables):
        table.to_parquet(tmp_path / "p" / f"part-{number}.parquet")
    assert f"{tmp_path / 'p' / 'part-1.parquet'}: row 5: " in check(tmp_path / "p")


def test_a_bad_row_of_a_csv_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('instruction,output\nq,a\n"q\n2",\n')
    message = check(tmp_path / "a.csv")
    assert f"{tmp_path / 'a.csv'}: row 1: `output` is missing or null" in message


def test_a_missing_cell_of_a_csv_file_is_explained(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("instruction,output\nWhat is the code of Namibia?,NA\n")
    assert "`NA`, `null` and `None` are read as missing" in check(path)


def test_a_row_of_a_shard_has_its_number_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"instruction": "a", "output": ""}] * 4)
    assert "    row 0 of shard 1: `output`" in check(path, shards=2, shards_idx=1)
    assert "    row 0: `output`" in check(path, split="train[2:]")


def test_files_of_saved_and_of_distant_data_are_not_known(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    assert local_files(entry_of(tmp_path / "saved")) == ("", [])
    assert local_files(entry_of("https://example.org/a.jsonl")) == ("", [])


# --- JSON files ------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(st.text(max_size=3), VALUES, min_size=1), min_size=1, max_size=5)


@given(OBJECTS, st.sampled_from(["lines", "list", "indented"]))
def test_rows_come_back_as_they_were_written(rows: list[Mapping[str, Any]], form: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.json"
        if form == "lines":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            path.write_text(json.dumps(rows, indent=2 if form == "indented" else None))
        assert [row for _, row in read_rows(path)] == rows


def test_not_a_number_is_read_as_datasets_reads_it(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"a": NaN, "b": "x"}\n{"a": -Infinity, "b": "y"}\n')
    check_json([tmp_path / "a.jsonl"])
    assert [row["b"] for row in load(tmp_path / "a.jsonl")] == ["x", "y"]


def test_zstandard_is_left_to_datasets(tmp_path: Path) -> None:
    import zstandard

    lines = write(tmp_path / "a.jsonl", ROWS).read_bytes()
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines))
    assert load(tmp_path / "a.jsonl.zst") == ROWS
