"""What deserves a look is said at its threshold and not below it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import output_folders
from axolotl_ual.columns import SPREAD
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.preprocess.report.build import build_report

NAN = float("nan")


def findings(folder: Path, uncertainty: Any, **more: Any) -> str:
    table = output_folders.alpaca(len(uncertainty))
    output_folders.write_annotated(folder, {"train": table}, {"train": uncertainty}, **more)
    return "\n".join(build_report(folder, SilentProgress()).facts["findings"])


def distinct(rows: int = 40) -> np.ndarray:
    """Values in an order that has nothing to do with the rows' lengths."""
    return np.random.default_rng(5).permutation(np.linspace(0.05, 0.95, rows))


def test_nothing_to_say(tmp_path: Path) -> None:
    assert findings(tmp_path / "out", distinct()) == ""


@pytest.mark.parametrize(("same", "said"), [(19, False), (20, True)])
def test_a_constant(tmp_path: Path, same: int, said: bool) -> None:
    values = distinct()
    values[:same] = 0.2
    text = findings(tmp_path / "out", values)
    assert ("50.0 % of the rows have the same uncertainty, 0.20" in text) is said


@pytest.mark.parametrize(("levels", "said"), [(6, True), (7, False)])
def test_few_values(tmp_path: Path, levels: int, said: bool) -> None:
    text = findings(tmp_path / "out", np.arange(42) % levels / 10 + 0.1)
    assert (f"only {levels} different values of uncertainty" in text) is said


@pytest.mark.parametrize(("missing", "said"), [(1, False), (2, True)])
def test_missing_rows(tmp_path: Path, missing: int, said: bool) -> None:
    values = distinct()
    values[:missing] = NAN
    text = findings(tmp_path / "out", values)
    assert (f"{missing} rows (5.0 %) have no uncertainty" in text) is said


def test_uncertainty_that_follows_length(tmp_path: Path) -> None:
    table = output_folders.alpaca(40)
    lengths = np.array([len(text) for text in table["output"].to_pylist()])
    ranks = lengths.argsort().argsort() / 50 + 0.1
    assert "Uncertainty rises with response length (rank correlation 1.00)" in findings(
        tmp_path / "up", ranks
    )
    assert "Uncertainty falls with response length" in findings(tmp_path / "down", 1 - ranks)


@pytest.mark.parametrize(("spread", "said"), [(0.2, False), (0.3, True)])
def test_repeats_that_do_not_agree(tmp_path: Path, spread: float, said: bool) -> None:
    """Means 0.05 to 0.95 evenly over 40 rows have the variance .0727: MSB of two is .1455. MSW .04
    gives (.1455 - .04) / .1455 = .725, and MSW .09 gives .38.
    """
    text = findings(
        tmp_path / "out",
        distinct(),
        further={"train": {SPREAD: np.full(40, spread)}},
        estimator={"name": "judge", "model": "m"},
        settings={"judge": {"repeats": 2}},
    )
    assert ("mean of 2 answers has an agreement (ICC) of 0.38" in text) is said


def test_a_trial(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    findings(folder, distinct())
    path = folder / "manifest.json"
    path.write_text(path.read_text().replace('"limit": null', '"limit": 40'))
    found = build_report(folder, SilentProgress()).facts["findings"]
    assert found == ["A trial: made with --limit 40, not from the whole data."]


def test_a_mean_that_drifted(tmp_path: Path) -> None:
    """The rows are smoothed by 0.1 on average; the manifest says that 0.12 was asked for."""
    folder = tmp_path / "out"
    findings(folder, distinct())
    path = folder / "manifest.json"
    settings = '"mean": 0.1,\n      "max": 0.5'
    assert settings in path.read_text()
    path.write_text(path.read_text().replace(settings, settings.replace("0.1", "0.12")))
    found = build_report(folder, SilentProgress()).facts["findings"]
    assert found == ["The mean smoothing of the rows here is 0.1000, and 0.12 was asked for."]
    # What is trained may be others than these rows.
    for mean, said in ((0.12, []), (0.13, ["The mean smoothing of what is trained is 0.1300"])):
        manifest = json.loads(path.read_text())
        manifest["trained"] = {"mean_smoothing": mean}
        path.write_text(json.dumps(manifest))
        found = build_report(folder, SilentProgress()).facts["findings"]
        assert [sentence.partition(",")[0] for sentence in found] == said
