"""The annotated copy is found through its manifest, and only where it still fits the recipe."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from project import ROWS, Project

import tiny
from axolotl_ual.columns import MANIFEST_FILE, Manifest
from axolotl_ual.data.annotated import locate, needed_column
from axolotl_ual.data.fingerprint import file_digest
from axolotl_ual.errors import AnnotationError, UnsupportedError
from axolotl_ual.settings.ual import parse_ual


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_each_entry_becomes_its_annotated_file(project: Project) -> None:
    project.recipe["datasets"][0].update({"field_output": "output", "split": "train[:3]"})
    project.recipe["datasets"][1].update({"shards": 2, "shards_idx": 1, "revision": "abc"})
    project.annotate()
    first, second = project.locate().entries
    shared = {"type": "alpaca", "ds_type": "parquet", "split": "train"}
    assert first == {
        **shared,
        "path": str(project.folder / "0.parquet"),
        "field_output": "output",
    }
    # What says which rows to read was done when they were annotated.
    assert second == {**shared, "path": str(project.folder / "1.parquet")}


def test_another_seed_makes_other_shards(project: Project) -> None:
    project.recipe["datasets"][1].update({"shards": 2})
    project.annotate()
    project.recipe["seed"] = 42  # what Axolotl takes by default
    assert len(project.locate().entries) == 2
    project.recipe["seed"] = 7
    with pytest.raises(AnnotationError, match=r"two\.jsonl.*`seed`.*has changed"):
        project.locate()


def test_a_list_of_names_is_several_entries(project: Project) -> None:
    names = [{**project.recipe["datasets"][0], "name": name} for name in ("a", "b")]
    spelled = [{**project.recipe["datasets"][0], "name": ["a", "b"]}]
    project.recipe["datasets"] = names
    project.annotate()
    project.recipe["datasets"] = spelled
    assert len(project.locate().entries) == 2


def cut_last_row(project: Project) -> None:
    path = project.folder / "0.parquet"
    pq.write_table(pq.read_table(path).slice(0, 2), path)


def rewrite_manifest(project: Project) -> None:
    """A manifest that describes the file, which holds fewer rows than it says."""
    cut_last_row(project)
    digest = file_digest(project.folder / "0.parquet")
    manifest = Manifest.read(project.folder)
    manifest.sources[0].file.sha256 = digest
    (project.folder / MANIFEST_FILE).write_text(manifest.model_dump_json())


def set_key(project: Project, key: str, value: Any) -> None:
    project.recipe["ual"][key] = value


STOPS: dict[str, tuple[Callable[[Project], Any], str]] = {
    "missing": (
        lambda p: p.recipe["ual"]["annotate"].update(output="elsewhere"),
        "ual.annotate.output: elsewhere: no such folder",
    ),
    "unfinished": (
        lambda p: (p.folder / MANIFEST_FILE).unlink(),
        "has no manifest.json, so its annotation was not finished",
    ),
    "broken manifest": (
        lambda p: (p.folder / MANIFEST_FILE).write_text("{"),
        "manifest.json cannot be read",
    ),
    "data changed": (
        lambda p: tiny.write_rows(p.data[1], ROWS[:1]),
        r"two.jsonl: has changed since .*annotated was made from it",
    ),
    "another dataset": (
        lambda p: p.recipe["datasets"][0].update(type="chat_template"),
        r"made from another `datasets:` entry than .*one.jsonl` \(`type` differ\)",
    ),
    "one more": (
        lambda p: p.recipe["datasets"].append(p.recipe["datasets"][0]),
        r"made from 2 dataset\(s\), and the recipe names 3",
    ),
    "a part": (lambda p: p.annotate(limit=3), r"only the first 3 rows were annotated \(--limit\)"),
    "pairs": (lambda p: p.annotate(kind="pairs"), "holds pairs, not annotated samples"),
    "other smoothing": (
        lambda p: set_key(p, "smoothing", {"mean": 0.2}),
        "annotated with other settings\n  ual.smoothing.mean: was 0.1, is 0.2",
    ),
    "another judge": (
        lambda p: p.recipe["ual"]["annotate"]["judge"].update(model="gpt-5"),
        'ual.judge.model: was "gpt-4o", is "gpt-5"',
    ),
    "file gone": (lambda p: (p.folder / "0.parquet").unlink(), r"0\.parquet: is missing"),
    "file damaged": (cut_last_row, r"0\.parquet: is not the file that the manifest describes"),
    "fewer rows": (rewrite_manifest, r"0\.parquet: does not hold what the manifest says"),
}


@pytest.mark.parametrize("name", STOPS)
def test_a_copy_that_does_not_fit_stops_and_names_the_command(project: Project, name: str) -> None:
    change, message = STOPS[name]
    change(project)
    with pytest.raises(AnnotationError, match=message) as caught:
        project.locate()
    assert "run `axolotl-ual annotate recipe.yaml`" in caught.value.fix


def test_settings_that_change_no_result_are_free(project: Project) -> None:
    project.recipe["ual"]["annotate"]["judge"]["max_concurrency"] = 3
    project.recipe["ual"]["loss"] = {"normalization": "micro_batch"}
    assert project.locate().entries


class TestWithoutAnnotate:
    """Datasets that bring the columns themselves."""

    def locate(self, path: Path) -> Any:
        recipe = {"datasets": [{"path": str(path), "type": "alpaca"}]}
        return locate(recipe, parse_ual(None), "recipe.yaml")

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_a_file_with_the_column_is_taken_as_it_is(self, tmp_path: Path, suffix: str) -> None:
        rows = [{**row, "ual_smoothing": 0.1} for row in ROWS]
        path = tiny.write_rows(tmp_path / f"data.{suffix}", rows)
        located = self.locate(path)
        assert located.entries == [{"path": str(path), "type": "alpaca"}]
        assert located.files == ()

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_a_file_without_it_stops(self, tmp_path: Path, suffix: str) -> None:
        path = tiny.write_rows(tmp_path / f"data.{suffix}", ROWS)
        with pytest.raises(AnnotationError, match="has no column `ual_smoothing`"):
            self.locate(path)

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_sentences_stop_a_recipe_that_cannot_use_them(
        self, tmp_path: Path, suffix: str
    ) -> None:
        given = [{"end": 3, "uncertainty": 0.1, "smoothing": 0.1}]
        rows = [{**row, "ual_smoothing": 0.1, "ual_sentences": given} for row in ROWS]
        path = tiny.write_rows(tmp_path / f"data.{suffix}", rows)
        assert self.locate(path).files == ()
        recipe = {"datasets": [{"path": str(path), "type": "alpaca"}], "streaming": True}
        with pytest.raises(UnsupportedError, match=rf"data\.{suffix} has the column `ual_sent"):
            locate(recipe, parse_ual(None), "recipe.yaml")

    def test_what_the_data_hold_tells_copies_apart(self, tmp_path: Path) -> None:
        found = set()
        for value in (0.1, 0.2, 0.2):
            rows = [{**row, "ual_smoothing": value} for row in ROWS]
            found.add(self.locate(tiny.write_rows(tmp_path / "data.jsonl", rows)).content)
        assert len(found) == 2


def test_the_column_that_a_recipe_needs() -> None:
    staged = parse_ual({"curriculum": {"mode": "phased"}})
    plain = parse_ual({"preference": {"smoothing": False}})
    assert needed_column({}, staged) == "ual_smoothing"
    assert needed_column({"rl": "dpo"}, staged) == "ual_smoothing"
    assert needed_column({"rl": "orpo"}, staged) == "ual_stage"
    assert needed_column({"rl": "dpo"}, plain) is None
    kept = parse_ual({"curriculum": {"keep": {"by": "pass_rate", "at_most": 0.9}}})
    assert needed_column({"rl": "grpo"}, kept) == "pass_rate"
    margins = {"smoothing": False, "margin": {"mean": 1, "tau": 1}}
    assert needed_column({"rl": "ipo"}, parse_ual({"preference": margins})) == "ual_gap"
    unsmoothed = parse_ual({"smoothing": {"mean": 0}, "loss": {"weight": "w"}})
    assert needed_column({}, unsmoothed) is None
    weighed = parse_ual({"preference": {"smoothing": False}, "loss": {"weight": "gap"}})
    assert needed_column({"rl": "dpo"}, weighed) == "ual_gap"
