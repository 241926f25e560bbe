"""The numbers of a report of pairs, derived by hand from three prompts of three responses.

prompt  response  cluster  semantic  factual  value   u     text   used as
0       0         0        1/3       0.1      0.2     0.2   aa     chosen
0       1         0        1/3       0.3      0.2     0.3   bbbb
0       2         1        2/3       0.8      0.3     0.6   c      rejected
1       0         0        0         0.1      0.1     0.1   dd     chosen
1       1         0        0         0.2      0.1     0.2   eeeee
1       2         0        0         0.4      none    none  ffff   rejected (a made up gap)
2       -         no pair: two empty responses and one failed
"""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import output_folders
from axolotl_ual.columns import (
    FACTUAL,
    GAP,
    SEMANTIC,
    SMOOTHING,
    STAGE,
    UNCERTAINTY,
    UNCERTAINTY_CHOSEN,
    UNCERTAINTY_REJECTED,
    VALUE,
)
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.preprocess.report.build import Report, build_report
from axolotl_ual.preprocess.report.figure import Figure
from axolotl_ual.preprocess.report.responses import clusters_of_prompts

RESPONSES = [
    (0, 0, 0, 1 / 3, 0.1, 0.2, 0.2, "aa", "usable", "chosen"),
    (0, 1, 0, 1 / 3, 0.3, 0.2, 0.3, "bbbb", "usable", None),
    (0, 2, 1, 2 / 3, 0.8, 0.3, 0.6, "c", "usable", "rejected"),
    (1, 0, 0, 0.0, 0.1, 0.1, 0.1, "dd", "usable", "chosen"),
    (1, 1, 0, 0.0, 0.2, 0.1, 0.2, "eeeee", "usable", None),
    (1, 2, 0, 0.0, 0.4, None, None, "ffff", "usable", "rejected"),
    (2, 0, None, None, None, None, None, "", "empty", None),
    (2, 1, None, None, None, None, None, "", "empty", None),
    (2, 2, None, None, None, None, None, "", "failed", None),
]
NAMES = ("prompt_id", "response_id", "cluster", SEMANTIC, FACTUAL, VALUE, UNCERTAINTY)


def turns(prompt: int) -> list[dict[str, str]]:
    system = [{"role": "system", "content": "s"}] if prompt else []
    return [*system, {"role": "user", "content": f"question {prompt}"}]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs")
    pairs = [
        (0, turns(0), said("aa"), said("c"), 0.2, 0.6, 0.4, 0.08, "conservative"),
        (1, turns(1), said("dd"), said("ffff"), 0.1, 0.3, 0.2, 0.12, "exploratory"),
    ]
    names = ("prompt_id", "messages", "chosen", "rejected", UNCERTAINTY_CHOSEN)
    names += (UNCERTAINTY_REJECTED, GAP, SMOOTHING, STAGE)
    rows = [dict(zip(names, pair, strict=True)) for pair in pairs]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train.parquet")
    names = (*NAMES, "response", "status", "used_as")
    found = [dict(zip(names, row, strict=True)) for row in RESPONSES]
    for row in found:
        row["semantic_entropy"] = {0: 0.5794, 1: 0.0}.get(row["prompt_id"])
    pq.write_table(pa.Table.from_pylist(found), folder / "responses.parquet")
    return folder


@pytest.fixture(scope="module")
def report(folder: Path) -> Report:
    return build_report(folder, SilentProgress())


def figure(report: Report, name: str) -> Figure:
    return next(f for section in report.sections for f in section.figures if f.id == name)


def test_a_folder_without_a_manifest_is_known_by_its_columns(report: Report) -> None:
    assert report.facts["kind"] == "pairs"
    assert report.facts["rows"] == 2
    assert any("no manifest.json" in sentence for sentence in report.facts["findings"])


def test_gap_and_flip_probability(report: Report) -> None:
    columns = report.facts["columns"]
    assert columns[GAP]["mean"] == pytest.approx(0.3)
    assert columns[SMOOTHING]["mean"] == pytest.approx(0.1)
    dots = figure(report, "map").traces[0]
    assert dots["x"] == pytest.approx([0.2, 0.4])
    assert dots["y"] == pytest.approx([0.12, 0.08])
    assert report.facts["stages"] == {"conservative": 1, "moderate": 0, "exploratory": 1}


def test_lengths_of_both_sides(report: Report) -> None:
    """Chosen 2 and 2, rejected 1 and 4 characters: +1 and -2."""
    columns = report.facts["columns"]
    assert (columns["length"]["mean"], columns["rejected_length"]["mean"]) == (2, 2.5)
    assert columns["length_difference"]["mean"] == pytest.approx(-0.5)
    assert report.facts["agreement"]["chosen_longer"] == 1
    assert report.facts["agreement"]["chosen_shorter"] == 1
    note = figure(report, "histogram-length-difference").note
    assert "longer in 50.0 % and shorter in 50.0 % of the pairs; median -0" in note


def test_turns_of_prompts(report: Report) -> None:
    """A system message is a turn."""
    assert [(g["turns"], g["scored"]) for g in report.facts["by_turns"]] == [(1, 1), (2, 1)]


def test_responses(report: Report) -> None:
    found = report.facts["responses"]
    assert (found["rows"], found["prompts"]) == (9, 3)
    assert found["statuses"] == {"usable": 6, "empty": 2, "failed": 1}
    assert found["columns"][FACTUAL]["mean"] == pytest.approx(1.9 / 6)
    assert (found["columns"][VALUE]["rows"], found["columns"][VALUE]["missing"]) == (5, 4)
    assert figure(report, "statuses").rows[0] == ["usable", "6", "66.7 %"]


def test_entropy_counts_each_prompt_once(report: Report) -> None:
    shown = figure(report, "histogram-semantic-entropy")
    assert sum(shown.traces[0]["y"]) == 2
    assert "Mean 0.2897, median 0.2897. 1 of 3 prompts have none." in shown.note


def test_meanings_of_prompts(report: Report) -> None:
    """Two clusters in prompt 0, one in prompt 1, none in prompt 2."""
    assert figure(report, "clusters").rows == [
        ["1 cluster", "1", "50.0 %"],
        ["2 clusters", "1", "50.0 %"],
    ]
    prompts = np.array([7, 7, 9, 9, 9])
    clusters = np.array([3, 3, 0, np.nan, 5], dtype=np.float32)
    assert clusters_of_prompts(prompts, clusters).tolist() == [1, 2]


def test_agreement_of_dimensions(report: Report) -> None:
    """Semantic and factual, six responses: ranks 4.5 4.5 6 2 2 2 and 1.5 4 6 1.5 3 5. Less 3.5:
    1 1 2.5 -1.5 -1.5 -1.5 and -2 .5 2.5 -2 -.5 1.5; products -2 + .5 + 6.25 + 3 + .75 - 2.25 =
    6.25; squares 15 and 17; 6.25 / sqrt(255) = 0.3914.
    """
    first = report.facts["agreement"]["dimensions"][0]
    assert (first["one"], first["other"], first["rows"]) == (SEMANTIC, FACTUAL, 6)
    assert first["correlation"] == pytest.approx(0.3914, abs=1e-4)
    # |1/3 - .1|, |1/3 - .3|, |2/3 - .8|, .1, .2, .4: 1.1 / 6.
    assert first["difference"] == pytest.approx(1.1 / 6)


def test_calls_of_tools_are_shown(folder: Path, tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "look", "arguments": {}}}]}
    asked = [*turns(0), {**call, "content": None}, {"role": "tool", "content": "42"}]
    chat = json.dumps({"messages": asked, "chosen": {**call, "content": ""}})
    out = tmp_path / "out"
    out.mkdir()
    for name, column, values in (
        ("train", "chat", [chat, None]),
        ("responses", "response_chat", [json.dumps(call), *[None] * 8]),
    ):
        table = pq.read_table(folder / f"{name}.parquet")
        table = table.append_column(column, pa.array(values, pa.string()))
        pq.write_table(table, out / f"{name}.parquet")
    blocks = build_report(out, SilentProgress()).table.blocks.blocks
    first, second = json.loads(gzip.decompress(base64.b64decode(blocks[0])))
    shown = '{"name":"look","arguments":{}}'
    assert [turn[:2] for turn in first["t"]] == [
        ["user", "question 0"],
        ["assistant", shown],
        ["tool", "42"],
    ]
    assert (first["c"], first["r"]) == ([shown, 0], ["c", 0])
    assert first["s"][0][:6] == [0, "chosen", "usable", 0, shown, 0]
    assert second["c"] == ["dd", 0]


def test_a_dimension_from_outside(tmp_path: Path) -> None:
    report = build_report(output_folders.paired(tmp_path / "out", prompts=30), SilentProgress())
    assert report.scores == [UNCERTAINTY, SEMANTIC, FACTUAL, VALUE, output_folders.STYLE]
    counts = figure(report, "histogram-ual-style").traces[0]["y"]
    assert sum(counts) == 30 * 6
    together = {(p["one"], p["other"]) for p in report.facts["agreement"]["dimensions"]}
    assert (VALUE, output_folders.STYLE) in together


def test_extremes(report: Report) -> None:
    found = report.facts["extremes"]
    assert [row["row"] for row in found["clearest"]] == [0, 1]
    assert [row["row"] for row in found["most_disputed"]] == [1, 0]
    assert [row["row"] for row in found["most_certain"]] == [1, 0]
    assert [row["row"] for row in found["most_uncertain"]] == [0, 1]


def test_pairs_where_one_side_is_mostly_longer(tmp_path: Path) -> None:
    """26 of 40 chosen responses are longer: 65 %."""
    rows = [
        {
            "messages": turns(0),
            "chosen": said("aaa" if i < 26 else "a"),
            "rejected": said("aa"),
            GAP: 0.1 + i / 100,
            SMOOTHING: 0.1,
        }
        for i in range(40)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    findings = build_report(tmp_path, SilentProgress()).facts["findings"]
    assert any("longer one in 65.0 % of the pairs" in sentence for sentence in findings)
    rows[0]["chosen"] = said("a")
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "train.parquet")
    findings = build_report(tmp_path, SilentProgress()).facts["findings"]
    assert not any("longer one" in sentence for sentence in findings)
