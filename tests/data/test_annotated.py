"""The annotated copy is found through its manifest, and only where it still fits the recipe."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import tiny
from axolotl_ual.columns import MANIFEST_FILE, Manifest, ManifestFile, ManifestSource
from axolotl_ual.data.annotated import locate, prepare
from axolotl_ual.data.fingerprint import file_digest, fingerprint
from axolotl_ual.errors import AnnotationError
from axolotl_ual.settings.ual import parse_ual

ROWS = [{"instruction": f"i{n}", "output": f"o{n}"} for n in range(4)]


class Project:
    """A recipe of two datasets with its annotated copy, as `annotate` leaves them."""

    def __init__(self, folder: Path) -> None:
        self.data = [
            tiny.write_rows(folder / "one.jsonl", ROWS[:3]),
            tiny.write_rows(folder / "two.jsonl", ROWS[3:]),
        ]
        self.folder = folder / "annotated"
        self.recipe: dict[str, Any] = {
            "base_model": "tiny",
            "datasets": [{"path": str(path), "type": "alpaca"} for path in self.data],
            "ual": {"annotate": {"output": str(self.folder), "judge": {"model": "gpt-4o"}}},
        }
        self.annotate()

    def annotate(self, smoothing: float = 0.1, **changes: Any) -> Manifest:
        sources = []
        for index, (entry, count) in enumerate(zip(self.recipe["datasets"], (3, 1), strict=True)):
            name = f"{index}.parquet"
            rows = [{**row, "ual_smoothing": smoothing} for row in ROWS[:count]]
            path = tiny.write_rows(self.folder / name, rows)
            file = ManifestFile(path=name, rows=count, sha256=file_digest(path))
            sources.append(
                ManifestSource(entry=entry, fingerprint=fingerprint(entry), rows=count, file=file)
            )
        settings = parse_ual(self.recipe["ual"]).result_settings(self.recipe["base_model"])
        known: dict[str, Any] = {
            "package_version": "0",
            "versions": {},
            "created": "2026-01-01T00:00:00Z",
            "estimator": {},
            "settings": settings,
            "sources": sources,
            "counts": {},
        }
        manifest = Manifest(**{**known, **changes})
        (self.folder / MANIFEST_FILE).write_text(manifest.model_dump_json())
        return manifest

    def locate(self) -> Any:
        return locate(self.recipe, parse_ual(self.recipe["ual"]), "recipe.yaml")

    def prepared(self) -> dict[str, Any]:
        recipe = {key: value for key, value in self.recipe.items()}
        prepare(recipe, "recipe.yaml")
        return recipe


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


def test_changed_annotations_get_another_prepared_folder(project: Project) -> None:
    first = project.prepared()["dataset_prepared_path"]
    assert re.fullmatch(r"last_run_prepared/ual-[0-9a-f]{12}", first)
    assert project.prepared()["dataset_prepared_path"] == first
    project.annotate(smoothing=0.2)
    assert project.prepared()["dataset_prepared_path"] != first


def test_preparing_twice_changes_nothing(project: Project) -> None:
    project.recipe["dataset_prepared_path"] = "cache"
    once = project.prepared()
    project.recipe = once
    assert project.prepared() == once


class TestWithoutAnnotate:
    """Datasets that bring the columns themselves."""

    def recipe(self, path: Path) -> dict[str, Any]:
        return {"datasets": [{"path": str(path), "type": "alpaca"}]}

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_a_file_with_the_column_is_taken_as_it_is(self, tmp_path: Path, suffix: str) -> None:
        rows = [{**row, "ual_smoothing": 0.1} for row in ROWS]
        recipe = self.recipe(tiny.write_rows(tmp_path / f"data.{suffix}", rows))
        before = [dict(entry) for entry in recipe["datasets"]]
        prepare(recipe, "recipe.yaml")
        assert recipe["datasets"] == before
        assert "/ual-" in recipe["dataset_prepared_path"]

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_a_file_without_it_stops(self, tmp_path: Path, suffix: str) -> None:
        recipe = self.recipe(tiny.write_rows(tmp_path / f"data.{suffix}", ROWS))
        with pytest.raises(AnnotationError, match="has no column `ual_smoothing`"):
            prepare(recipe, "recipe.yaml")

    def test_changed_content_gets_another_prepared_folder(self, tmp_path: Path) -> None:
        found = set()
        for value in (0.1, 0.2, 0.2):
            rows = [{**row, "ual_smoothing": value} for row in ROWS]
            recipe = self.recipe(tiny.write_rows(tmp_path / "data.jsonl", rows))
            prepare(recipe, "recipe.yaml")
            found.add(recipe["dataset_prepared_path"])
        assert len(found) == 2

    def test_preparing_twice_changes_nothing(self, tmp_path: Path) -> None:
        rows = [{**row, "ual_smoothing": 0.1} for row in ROWS]
        recipe = self.recipe(tiny.write_rows(tmp_path / "data.jsonl", rows))
        prepare(recipe, "recipe.yaml")
        once = dict(recipe)
        prepare(recipe, "recipe.yaml")
        assert recipe == once
