"""`axolotl-ual report`, and the report that `annotate` and `pairs` leave."""

from __future__ import annotations

import json
import webbrowser
from pathlib import Path
from typing import Any

import pytest
import tiny_nli
import yaml
from click.testing import CliRunner, Result

import output_folders
import tiny
from axolotl_ual.columns import Manifest
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.commands import report as command


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def facts_of(folder: Path) -> dict[str, Any]:
    result = run("report", folder, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that is annotated by perplexity."""
    folder = tmp_path_factory.mktemp("recipe")
    rows = [
        {"instruction": f"Add {i} and 1.", "input": "", "output": f"{i + 1}"} for i in range(40)
    ]
    data = tiny.write_rows(folder / "data.jsonl", rows)
    settings = {
        "base_model": str(tiny.make_model(folder / "model")),
        "datasets": [{"path": str(data), "type": "alpaca"}],
        "ual": {"annotate": {"output": str(folder / "out"), "estimator": "perplexity"}},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def test_annotate_leaves_a_report(recipe: Path) -> None:
    result = run("annotate", recipe)
    assert result.exit_code == 0, result.output
    out = recipe.parent / "out"
    assert f"wrote {out / 'report.html'} (" in result.output
    assert "all 40 rows in its table" in result.output
    assert result.output.rstrip().endswith(f"next: axolotl train {recipe}")
    page = (out / "report.html").read_text(encoding="utf-8")
    assert '<span class="value">40</span><span class="detail">40 scored</span>' in page
    facts, manifest = facts_of(out), Manifest.read(out)
    assert facts["rows"] == 40
    assert facts["stages"] == manifest.stages
    # Answers are "1" to "40": nine of one character, 31 of two.
    assert facts["columns"]["length"]["mean"] == pytest.approx((9 + 31 * 2) / 40)
    # Ranks of 40 scores: their mean is 1/2, and that of eps 0.1, whatever the scores are.
    assert facts["columns"]["ual_uncertainty"]["mean"] == pytest.approx(0.5, abs=1e-6)
    assert facts["columns"]["ual_smoothing"]["mean"] == pytest.approx(0.1, abs=1e-6)
    # What `annotate` said at its end stands in the report as well.
    (remark,) = manifest.estimator["remarks"]
    assert f"{remark[:1].upper()}{remark[1:]}." in facts["findings"]


def test_no_report_where_none_is_wanted(recipe: Path, tmp_path: Path) -> None:
    result = run("annotate", recipe, "--no-report", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert "report.html" not in result.output
    assert not (tmp_path / "out" / "report.html").exists()


@pytest.mark.parametrize("error", [RuntimeError("no room"), KeyboardInterrupt()])
def test_data_stay_when_the_report_fails(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def fail(*_: Any) -> None:
        raise error

    monkeypatch.setattr(command, "render_report", fail)
    out = tmp_path / "out"
    result = run("annotate", recipe, "--output", out)
    assert result.exit_code == 0, result.output
    why = "RuntimeError: no room" if isinstance(error, RuntimeError) else "interrupted"
    assert f"the data are complete, but not their report: {why}" in result.output
    assert f"to make it: axolotl-ual report {out}" in result.output
    assert f"next: axolotl train {recipe}" in result.output
    assert Manifest.read(out).counts["rows"] == 40
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "manifest.json",
        "train.parquet",
    ]


def test_pairs_leave_a_report(tmp_path: Path) -> None:
    rule = tiny_nli.make_rule_model(tmp_path / "rule")
    answers = ("m1", "the m1", "m2", "no")
    rows = [{"prompt": f"q{i}", "response": text} for i in range(3) for text in answers]
    responses = tiny.write_rows(tmp_path / "responses.jsonl", rows)
    nli = {"model": str(rule), "device": "cpu", "max_length": 128}
    classifier = {**nli, "labels": {"contradiction": 1.0}}
    value = {"method": "classifier", "classifier": classifier}
    pairs = {"output": str(tmp_path / "out"), "cache": str(tmp_path / "c"), "nli": nli}
    settings = {"base_model": "none", "rl": "dpo", "ual": {"pairs": {**pairs, "value": value}}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(settings))
    result = run("pairs", recipe, "--from-responses", responses)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "out" / "report.html").exists()
    facts = facts_of(tmp_path / "out")
    assert facts["kind"] == "pairs"
    assert facts["rows"] == Manifest.read(tmp_path / "out").counts["pairs"] == 3
    assert facts["responses"]["statuses"] == {"usable": 12}
    result = run("pairs", recipe, "--from-responses", responses, "--no-report")
    assert result.exit_code == 0, result.output
    assert not (tmp_path / "out" / "report.html").exists()


def test_the_file_can_be_named_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = output_folders.judged(tmp_path / "out", rows=60)
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: bool(shown.append(url)))
    result = run("report", folder, "--output", tmp_path / "page.html", "--rows", "50", "--open")
    assert result.exit_code == 0, result.output
    assert shown == [(tmp_path / "page.html").as_uri()]
    assert "50 of 60 rows in its table" in result.output
    assert "no browser could be started: open the file yourself" in result.output
    assert not (folder / "report.html").exists()


def test_numbers_alone_write_no_file(tmp_path: Path) -> None:
    folder = output_folders.judged(tmp_path / "out", rows=60)
    before = sorted(folder.iterdir())
    assert facts_of(folder)["rows"] == 60
    assert sorted(folder.iterdir()) == before
    result = run("report", folder, "--json", "--open")
    assert result.exit_code == 2
    assert "--json prints and writes no file: leave out --output and --open" in result.output


def test_what_is_no_output_folder_is_named(tmp_path: Path) -> None:
    for path, said in (
        (tmp_path / "none", "none: no such folder"),
        (tmp_path, "no manifest.json and no Parquet file with the column `ual_uncertainty`"),
    ):
        result = run("report", path)
        assert result.exit_code == 1
        assert said in result.output
    folder = output_folders.judged(tmp_path / "out", rows=60)
    (folder / "manifest.json").write_text("{}")
    result = run("report", folder)
    assert "manifest.json: is not a manifest that this version reads" in result.output
    (folder / "manifest.json").unlink()
    (folder / "train.parquet").write_text("not Parquet")
    result = run("report", folder)
    assert "train.parquet: cannot be read" in result.output


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    folder = output_folders.judged(tmp_path / "out", rows=60)
    (folder / "report.html").mkdir()
    result = run("report", folder)
    assert result.exit_code == 1
    assert "report.html: cannot be written" in result.output
    assert "name another file with --output" in result.output
    assert not (folder / ".report.html.partial").exists()
