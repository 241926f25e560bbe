"""Pages: what is packed comes back, nothing is let in, and the same folder gives the same file."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

import output_folders
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.preprocess.report.build import Report, build_report
from axolotl_ual.preprocess.report.figure import Figure, decimals, number, plotly_text, share
from axolotl_ual.preprocess.report.overview import render_report
from axolotl_ual.preprocess.report.pack import BLOCK_BYTES, pack, pack_arrays, pack_blocks
from axolotl_ual.preprocess.report.page import PACKAGE, plotly, policy, static
from axolotl_ual.preprocess.report.section import present
from axolotl_ual.preprocess.report.table import make_table

BAD = "</script><script>document.title = 'broken'</script><img src=x onerror=alert(1)>"


def unpack(text: str) -> bytes:
    return gzip.decompress(base64.b64decode(text))


def test_arrays_lie_at_multiples_of_four() -> None:
    arrays = {
        "a": np.array([1, 2, 3], dtype=np.uint8),
        "b": np.array([0.5, np.nan], dtype=np.float32),
        "c": np.array([700], dtype=np.uint16),
    }
    data = unpack(pack_arrays(arrays))
    at = data.index(b"\n") + 1
    assert at % 4 == 0
    assert json.loads(data[:at]) == [["a", "u1", 3], ["b", "f4", 2], ["c", "u2", 1]]
    assert data[at : at + 4] == b"\1\2\3\0"
    assert np.frombuffer(data[at + 4 : at + 12], "<f4")[0] == 0.5
    assert data[at + 12 :] == b"\xbc\x02\0\0"


def test_records_are_found_in_their_blocks() -> None:
    records = [json.dumps({"n": i, "x": "y" * 9000}).encode() for i in range(20)]
    packed = pack_blocks(records)
    assert len(packed.blocks) == 3
    read = [json.loads(unpack(block)) for block in packed.blocks]
    assert [read[b][p]["n"] for b, p in zip(packed.block, packed.place, strict=True)] == list(
        range(20)
    )
    assert all(len(unpack(block)) < BLOCK_BYTES + 100 for block in packed.blocks)


def test_packing_has_no_clock_in_it() -> None:
    assert pack(b"abc") == pack(b"abc")
    assert base64.b64decode(pack(b"abc"))[4:8] == bytes(4)


def test_a_table_too_large_keeps_the_first_by_priority(tmp_path: Path) -> None:
    """Incompressible records: about half of them fit into half of the bytes."""
    rng = np.random.default_rng(0)
    folder = output_folders.judged(tmp_path / "out", rows=400)
    report = build_report(folder, SilentProgress())
    records = {i: json.dumps(rng.bytes(600).hex()).encode() for i in range(400)}
    whole = pack_blocks(list(records.values())).size
    priority = np.arange(400, dtype=np.uint64)[::-1].copy()
    table = make_table(report.folder, report.values, report.texts, records, priority, whole // 2)
    kept = table.rows_T.size
    assert table.blocks.size <= whole // 2
    assert 170 < kept < 200
    assert table.rows_T.tolist() == list(range(400 - kept, 400))


def test_the_policy_names_digests_and_allows_no_request() -> None:
    digest = base64.b64encode(hashlib.sha256(b"x").digest()).decode()
    text = policy(["x"])
    assert text.startswith(f"default-src 'none'; script-src 'sha256-{digest}';")
    assert "http" not in text and "*" not in text
    assert "unsafe-inline" not in text.split("style-src")[0]


def test_a_script_cannot_end_its_element() -> None:
    for name in ("base.js", "table.js", "rows.js", "report.js", "page.css", "report.css"):
        assert static(PACKAGE, name)


def test_plotly_comes_with_its_licence() -> None:
    assert "MIT license" in plotly()[:400]


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = tmp_path_factory.mktemp("h") / "out"
    tables = {"train": output_folders.alpaca(3), "b": output_folders.alpaca(2)}
    output_folders.write_annotated(
        folder,
        tables,
        {"train": [0.1, 0.2, 0.3], "b": [0.4, np.nan]},
        estimator={"name": BAD, "model": BAD},
        settings={"judge": {"model": BAD}},
        failures={BAD: 1},
    )
    manifest = json.loads((folder / "manifest.json").read_text())
    for source in manifest["sources"]:
        source["entry"]["path"] = BAD + source["file"]["path"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return build_report(folder, SilentProgress())


def test_names_from_outside_are_escaped(hostile: Report) -> None:
    page = render_report(hostile)
    assert "broken" in page
    assert BAD not in page and "<img" not in page
    # Those of the page itself: its data, and the one script that runs.
    kinds = re.findall(r"<script([^>]*)>", page)
    assert [kind for kind in kinds if "text/plain" not in kind] == [""]


def test_labels_of_charts_are_escaped(hostile: Report) -> None:
    """Plotly reads a little HTML in labels."""
    figures = [f for section in hostile.sections for f in section.figures]
    assert any("broken" in json.dumps(f.rows) for f in figures)
    for shown in figures:
        text = json.dumps([shown.traces, shown.layout])
        assert "<img" not in text and "<script" not in text and "</script" not in text


def test_the_page_asks_for_nothing(hostile: Report) -> None:
    """Nothing in it names an address; Plotly, which does, is packed and may not load any."""
    page = render_report(hostile)
    outside = re.sub(r'<script type="text/plain"[^>]*>[^<]*</script>', "", page)
    assert not re.findall(r"https?:|//\w+\.\w+|@import|url\(", outside)


def test_the_same_folder_gives_the_same_file(tmp_path: Path) -> None:
    folder = output_folders.judged(tmp_path / "out", rows=60)
    pages = [render_report(build_report(folder, SilentProgress())) for _ in range(2)]
    assert pages[0] == pages[1]


def test_none_stands_alone_in_half_a_line() -> None:
    """Half, half | half | wide | half, half | half: the third and the last become wide."""
    kinds = [False, False, False, True, False, False, False]
    figures = [Figure(str(i), "", [], {}, [], [], wide=wide) for i, wide in enumerate(kinds)]
    arranged = [figure.wide for figure in present([*figures, None])]
    assert arranged == [False, False, True, True, False, False, True]


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [
        (1, 3, "33.3 %"),
        (0, 5, "0.0 %"),
        (5, 5, "100.0 %"),
        (1, 100_000, "< 0.1 %"),
        (99_999, 100_000, "> 99.9 %"),
        (0, 0, "–"),
    ],
)
def test_shares(part: int, whole: int, text: str) -> None:
    assert share(part, whole) == text


def test_numbers() -> None:
    assert number(1234.5678, 2) == "1,234.57"
    assert number(float("nan")) == number(None) == "–"
    assert [decimals(step) for step in (50.0, 0.5, 0.02, 0.005)] == [0, 1, 2, 3]
    assert plotly_text("<a> & b") == "&lt;a&gt; &amp; b"
