"""The numbers of a report of annotated rows, all derived by hand from eight of them.

    row       uncertainty  spread  response   turns
    train:0   0.10         0.00    a             2
    train:1   0.20         0.10    bb            2
    train:2   0.30         0.20    ccc           2
    train:3   none         none    dddd          2
    chat:0    0.40         0.10    e             2
    chat:1    0.40         0.10    ff + gg       4
    chat:2    0.80         0.30    hhhhhhhh      2
    chat:3    0.80         0.00    iiiiiiii      2

The mean of the seven is 3.0 / 7. With a mean smoothing of 0.1 over them a = 0.7 / 3.0, and none
reaches the cap of 0.5. Thirds of 7 are at 2.33 and 4.67; values change after 1, 2, 3 and 5 rows, so
the stages are {.1, .2}, {.3, .4, .4} and {.8, .8}, and train:3 is moderate as it has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import output_folders
from axolotl_ual.columns import SMOOTHING, SPREAD, STAGE, STAGES, UNCERTAINTY, ManifestUsage
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.preprocess.report.build import Report, build_report
from axolotl_ual.preprocess.report.figure import Figure
from axolotl_ual.preprocess.report.names import meaning_of
from axolotl_ual.preprocess.report.overview import tiles

NAN = float("nan")
TRAIN = pa.table(
    {
        "instruction": ["q0", "q1", "q2", "q3"],
        "input": [""] * 4,
        "output": ["a", "bb", "ccc", "dddd"],
    }
)


def dialogue(*answers: str) -> list[dict[str, str]]:
    return [
        {"role": role, "content": text}
        for answer in answers
        for role, text in (("user", "q"), ("assistant", answer))
    ]


CHAT = pa.table(
    {
        "messages": [
            dialogue("e"),
            dialogue("ff", "gg"),
            dialogue("hhhhhhhh"),
            dialogue("iiiiiiii"),
        ]
    }
)


def write(folder: Path, **more: Any) -> Path:
    return output_folders.write_annotated(
        folder,
        {"train": TRAIN, "chat": CHAT},
        {"train": [0.1, 0.2, 0.3, NAN], "chat": [0.4, 0.4, 0.8, 0.8]},
        further={
            "train": {SPREAD: [0.0, 0.1, 0.2, NAN]},
            "chat": {SPREAD: [0.1, 0.1, 0.3, 0.0]},
        },
        types={"chat": "chat_template"},
        estimator={"name": "judge", "model": "m"},
        settings={"judge": {"model": "m", "repeats": 2}},
        failures={"refused": 1},
        **more,
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return build_report(write(tmp_path_factory.mktemp("r") / "out"), SilentProgress())


def figure(report: Report, name: str) -> Figure:
    return next(f for section in report.sections for f in section.figures if f.id == name)


def test_uncertainty(report: Report) -> None:
    """Sorted: .1 .2 .3 .4 .4 .8 .8; the quarters are at places 1.5 and 4.5."""
    found = report.facts["columns"][UNCERTAINTY]
    assert (found["rows"], found["missing"], found["distinct"]) == (7, 1, 5)
    assert found["mean"] == pytest.approx(3 / 7)
    assert (found["least"], found["median"], found["greatest"]) == pytest.approx((0.1, 0.4, 0.8))
    assert (found["q25"], found["q75"]) == pytest.approx((0.25, 0.6))
    edges, counts = found["histogram"]["edges"], found["histogram"]["counts"]
    filled = {round(edges[i], 2): n for i, n in enumerate(counts) if n}
    # The range is 0.7, so all of [0, 1] is shown, in steps of 0.02.
    assert len(counts) == 50
    assert filled == {0.1: 1, 0.2: 1, 0.3: 1, 0.4: 2, 0.8: 2}


def test_smoothing(report: Report) -> None:
    """eps = u * 0.7 / 3, and the mean 0.1 for the row without an uncertainty: so is the mean."""
    found = report.facts["columns"]["ual_smoothing"]
    assert found["mean"] == pytest.approx(0.1)
    assert found["greatest"] == pytest.approx(0.8 * 0.7 / 3)


def test_stages(report: Report) -> None:
    """Mean smoothing: .15, (.3 + .4 + .4 and the mean of the missing row) and .8, times a."""
    assert report.facts["stages"] == {"conservative": 2, "moderate": 4, "exploratory": 2}
    shown = figure(report, "stages")
    a = 0.7 / 3
    assert shown.rows == [
        ["conservative", "2", "25.0 %", "0.1000 to 0.2000", f"{0.15 * a:.4f}"],
        ["moderate", "4", "50.0 %", "0.3000 to 0.4000", f"{(1.1 * a + 0.1) / 4:.4f}"],
        ["exploratory", "2", "25.0 %", "0.8000 to 0.8000", f"{0.8 * a:.4f}"],
    ]
    assert [f[0] for f in shown.filters] == [{"column": "stage", "is": n} for n in range(3)]


def test_bars_of_uncertainty_are_parted_by_stage(report: Report) -> None:
    shown = figure(report, "histogram-ual-uncertainty")
    sums = {trace["name"]: sum(trace["y"]) for trace in shown.traces if trace["type"] == "bar"}
    # The row without an uncertainty is in no bar.
    assert sums == {"conservative": 2, "moderate": 3, "exploratory": 2}
    assert shown.rows[20] == ["0.40 to 0.42", "0", "2", "0", "28.6 %"]
    (condition,) = shown.filters[20]
    assert condition["column"] == UNCERTAINTY and not condition["last"]
    assert (condition["from"], condition["to"]) == (np.float32(0.4), np.float32(0.42))
    assert shown.filters[-1][0]["last"]


def test_lengths(report: Report) -> None:
    """Bins 1, 2, 3, 4 to 5, and 8 to 10: chat:1 has four characters in its two answers."""
    found = {(g["from"], g["below"]): g for g in report.facts["by_length"]}
    assert {key: g["scored"] for key, g in found.items()} == {
        (1, 2): 2,
        (2, 3): 1,
        (3, 4): 1,
        (4, 6): 1,
        (8, 11): 2,
    }
    assert found[(1, 2)]["mean"] == pytest.approx(0.25)
    assert found[(1, 2)]["q25"] == pytest.approx(0.175)
    assert found[(4, 6)]["median"] == pytest.approx(0.4)
    # Of the median's line nothing is drawn below five rows; the table has all.
    shown = figure(report, "ual-uncertainty-by-length")
    assert [row[0] for row in shown.rows] == ["1", "2", "3", "4 to 5", "6 to 7", "8 to 10"]
    assert [row[1] for row in shown.rows] == ["2", "1", "1", "1", "0", "2"]
    assert all(y is None for y in shown.traces[1]["y"])


def test_rank_correlation_with_length(report: Report) -> None:
    """Ranks of u (.1 .2 .3 .4 .4 .8 .8): 1 2 3 4.5 4.5 6.5 6.5; of lengths (1 2 3 1 4 8 8):
    1.5 3 4 1.5 5 6.5 6.5. Less their mean 4: products 7.5 + 2 + 0 - 1.25 + .5 + 6.25 + 6.25 =
    21.25; squares 9 + 4 + 1 + .25 + .25 + 6.25 + 6.25 = 27 and
    6.25 + 1 + 0 + 6.25 + 1 + 6.25 + 6.25 = 27. So 21.25 / 27 = 0.787.
    """
    assert "Rank correlation 0.79." in figure(report, "ual-uncertainty-by-length").note


def test_turns_and_sources(report: Report) -> None:
    """One dialogue has four turns. Medians of the sources: of .1 .2 .3, and of .4 .4 .8 .8."""
    assert [(g["turns"], g["scored"]) for g in report.facts["by_turns"]] == [(2, 6), (4, 1)]
    first, second = report.facts["sources"]
    assert (first["label"], first["rows"], first["scored"]) == ("train.jsonl", 4, 3)
    assert (first["median"], second["median"]) == pytest.approx((0.2, 0.6))
    assert figure(report, "ual-uncertainty-by-turns").filters[1] == [
        {"column": "turns", "from": 4.0, "to": 4.0, "last": True}
    ]


def test_the_map(report: Report) -> None:
    """A dot for each filled bin, on the line y = 0.7 / 3 x; the manifest's curve ends at u = 1."""
    curve, dots = figure(report, "map").traces
    a = 0.7 / 3
    assert curve["x"] == [0.0, 1.0, 1.0]
    assert curve["y"] == pytest.approx([0.0, a, a])
    assert dots["x"] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.8])
    assert dots["y"] == pytest.approx([a * x for x in dots["x"]])


def test_a_map_that_is_cut(tmp_path: Path) -> None:
    """With a cap of 0.15: the two of .8 are cut, a = (0.7 - 0.3) / 1.4 = 2 / 7; corner at .525."""
    report = build_report(write(tmp_path / "out", cap=0.15), SilentProgress())
    curve = figure(report, "map").traces[0]
    assert curve["x"] == pytest.approx([0.0, 0.525, 1.0])
    assert curve["y"] == pytest.approx([0.0, 0.15, 0.15])
    label, value, detail = list(tiles(report))[2]
    assert (label, value) == ("Mean label smoothing", "0.1000")
    assert detail == "asked for 0.1, largest 0.150 of 0.15 allowed, 25.0 % at that cap"
    assert any("25.0 % of the rows are smoothed by the most" in s for s in report.facts["findings"])


def test_agreement_of_repeats(report: Report) -> None:
    """MSW: (0 + .01 + .04 + .01 + .01 + .09 + 0) / 7 = .022857. The squares of u add up to
    .01 + .04 + .09 + .16 + .16 + .64 + .64 = 1.74; their variance is (1.74 - 9 / 7) / 6 = .075714,
    so MSB = .151429: single (.151429 - .022857) / (.151429 + .022857) = .7377, mean .8491.
    """
    found = report.facts["agreement"]["repeats"]
    assert (found["rows"], found["repeats"]) == (7, 2)
    assert found["single"] == pytest.approx(0.7377, abs=1e-4)
    assert found["mean"] == pytest.approx(0.8491, abs=1e-4)
    intro = next(s.intro for s in report.sections if s.id == "agreement")
    assert "2 answers to each row: agreement of single answers (ICC) 0.738" in intro


def test_extremes(report: Report) -> None:
    found = report.facts["extremes"]
    assert found["most_certain"][0] == {
        "file": "train.parquet",
        "row": 0,
        UNCERTAINTY: pytest.approx(0.1),
    }
    assert {row["row"] for row in found["most_uncertain"][:2]} == {2, 3}
    assert found["most_disputed"][0] == {
        "file": "chat.parquet",
        "row": 2,
        SPREAD: pytest.approx(0.3),
    }


def test_rows_beyond_one_batch(tmp_path: Path) -> None:
    """Arrays are filled batch by batch, each from where the one before it ended."""
    rows = 5000
    table = pa.table(
        {"instruction": ["q"] * rows, "output": ["a" * (1 + i % 7) for i in range(rows)]}
    )
    folder = output_folders.write_annotated(
        tmp_path / "out", {"train": table}, {"train": np.arange(rows) / rows}
    )
    report = build_report(folder, SilentProgress())
    stages = pq.read_table(folder / "train.parquet")[STAGE].to_pylist()
    assert report.facts["stages"] == {stage: stages.count(stage) for stage in STAGES}
    assert min(report.facts["stages"].values()) > 1600
    assert report.table.columns["stage"].tolist() == [STAGES.index(stage) for stage in stages]
    assert report.table.columns[UNCERTAINTY][4800] == np.float32(0.96)
    assert report.texts.length_N[4096:4110].tolist() == [1 + i % 7 for i in range(4096, 4110)]


def test_meanings_are_those_of_the_columns() -> None:
    assert meaning_of(SPREAD) == "Standard deviation of a judge's repeated scores."
    assert meaning_of(SMOOTHING) == "Label smoothing of the sample's trained tokens."
    assert meaning_of(SMOOTHING, pairs=True).startswith("Flip probability in the preference loss")
    assert meaning_of("of_ones_own") == ""


def test_the_bill(tmp_path: Path) -> None:
    usage = ManifestUsage(
        requests=16, cached=2, prompt_tokens=1600, completion_tokens=32, cost_usd=0.0312
    )
    report = build_report(write(tmp_path / "out", usage=usage), SilentProgress())
    found = {label: (value, detail) for label, value, detail in tiles(report)}
    assert found["Requests"] == ("16", "2 further answers from the cache")
    assert found["Cost of this run"] == (
        "0.0312 USD",
        "1,600 + 32 tokens, prompt and completion",
    )


def test_failures(report: Report) -> None:
    shown = figure(report, "without-an-uncertainty")
    assert shown.rows == [["refused", "1", "100.0 %"]]
    assert shown.filters == [[{"column": UNCERTAINTY, "missing": True}]]


def test_the_head(report: Report) -> None:
    found = {label: (value, detail) for label, value, detail in tiles(report)}
    assert found["Rows"] == ("8", "7 scored, 1 without an uncertainty")
    assert found["Mean uncertainty"] == ("0.429", "median 0.400, middle half 0.250 to 0.600")
    assert "Requests" not in found


def test_all_rows_are_in_the_table(report: Report) -> None:
    table = report.table
    assert table.rows_T.tolist() == list(range(8))
    assert table.columns["source"].tolist() == [0] * 4 + [1] * 4
    assert table.columns["number"].tolist() == [0, 1, 2, 3] * 2
    assert table.columns["length"].tolist() == [1, 2, 3, 4, 1, 4, 8, 8]
    assert table.columns["stage"].tolist() == [0, 0, 1, 1, 1, 1, 2, 2]


def test_an_ensemble(tmp_path: Path) -> None:
    """Two members over four rows: ranks 1 2 3 4 and 2 1 4 3 give rho = 1 - 6 * 4 / (4 * 15) = 0.6;
    the differences .1 .1 .2 .2 have the mean .15. Standard deviations are half of them, so the last
    two are disputed most.
    """
    folder = output_folders.write_annotated(
        tmp_path / "out",
        {"train": TRAIN},
        {"train": [0.1, 0.2, 0.3, 0.4]},
        further={
            "train": {"ual_judge": [0.1, 0.2, 0.5, 0.8], "ual_perplexity": [0.2, 0.1, 0.7, 0.6]}
        },
        estimator={"name": "ensemble", "members": {"judge": {}, "perplexity": {}}},
    )
    report = build_report(folder, SilentProgress())
    (pair,) = report.facts["agreement"]["estimators"]
    assert (pair["one"], pair["other"], pair["rows"]) == ("ual_judge", "ual_perplexity", 4)
    assert pair["correlation"] == pytest.approx(0.6)
    assert pair["difference"] == pytest.approx(0.15)
    assert figure(report, "estimators").traces[0]["z"] == [
        [1.0, pytest.approx(0.6)],
        [pytest.approx(0.6), 1.0],
    ]
    disputed = report.facts["extremes"]["most_disputed"]
    assert {row["row"] for row in disputed[:2]} == {2, 3}
    assert disputed[0]["spread_of_estimators"] == pytest.approx(0.1)


def test_a_panel(tmp_path: Path) -> None:
    folder = output_folders.write_annotated(
        tmp_path / "out",
        {"train": TRAIN},
        {"train": [0.1, 0.2, 0.3, 0.4]},
        further={"train": {"ual_disagreement": [0.0, 0.3, 0.1, NAN]}},
        estimator={"name": "panel", "judges": [{"model": "a"}, {"model": "b"}]},
    )
    report = build_report(folder, SilentProgress())
    assert report.facts["columns"]["ual_disagreement"]["mean"] == pytest.approx(0.4 / 3)
    assert report.facts["extremes"]["most_disputed"][0]["row"] == 1
    assert figure(report, "histogram-ual-disagreement").filters
