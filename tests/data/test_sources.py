"""Data are looked for when they are loaded, and then stand in the place of the recipe's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from project import ROWS, Project

import tiny
from axolotl_ual.data.sources import RECIPE, remember, trained_sources
from axolotl_ual.errors import AnnotationError
from axolotl_ual.settings.ual import parse_ual


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def validated(recipe: dict[str, Any], **filled_in: Any) -> dict[str, Any]:
    """A recipe as Axolotl's validation hands it on: with what it fills in and without extras."""
    cfg = {**recipe, "datasets": [dict(entry) for entry in recipe["datasets"]], **filled_in}
    remember(cfg)
    for entry in cfg["datasets"]:
        entry.update(chat_template="tokenizer_default")
        entry.pop("note", None)
    return cfg


def inside(cfg: dict[str, Any]) -> dict[str, Any]:
    """What Axolotl loads."""
    with trained_sources(cfg, parse_ual(cfg["ual"]), "recipe.yaml"):
        return {**cfg}


def test_remembering_reads_nothing(tmp_path: Path) -> None:
    entry = {"path": "gone.jsonl", "type": "alpaca", "note": "spelled by hand"}
    ual = {"annotate": {"output": str(tmp_path / "gone"), "judge": {"model": "m"}}}
    cfg: dict[str, Any] = {"datasets": [entry], "seed": 3, "base_model": "b", "ual": ual}
    remember(cfg)
    assert cfg["datasets"] == [entry]
    assert cfg[RECIPE] == {"datasets": [entry], "seed": 3, "base_model": "b"}
    again = {**cfg, "datasets": [{"path": "gone.jsonl", "chat_template": "filled in"}]}
    remember(again)
    assert again[RECIPE] == cfg[RECIPE]


def test_annotated_files_stand_in_for_the_datasets_while_they_are_loaded(project: Project) -> None:
    for entry in project.recipe["datasets"]:
        entry.update(note="nothing that the schema knows", revision="main")
    project.annotate()
    cfg = validated(project.recipe)
    before = [dict(entry) for entry in cfg["datasets"]]
    loaded = inside(cfg)
    assert loaded["datasets"] == [
        {
            "path": str(project.folder / f"{index}.parquet"),
            "type": "alpaca",
            "ds_type": "parquet",
            "split": "train",
            "chat_template": "tokenizer_default",
        }
        for index in range(2)
    ]
    assert cfg["datasets"] == before
    assert cfg["dataset_prepared_path"] == loaded["dataset_prepared_path"]


def test_an_annotated_copy_that_is_gone_stops_there(project: Project) -> None:
    project.recipe["ual"]["annotate"]["output"] = "elsewhere"
    cfg = validated(project.recipe)
    with pytest.raises(AnnotationError, match="no such folder") as caught:
        inside(cfg)
    assert caught.value.fix == "run `axolotl-ual annotate recipe.yaml`"


def test_changed_annotations_get_another_prepared_folder(project: Project) -> None:
    first = inside(validated(project.recipe))["dataset_prepared_path"]
    assert re.fullmatch(r"last_run_prepared/ual-[0-9a-f]{12}", first)
    again = validated(project.recipe, dataset_prepared_path=first)
    assert inside(again)["dataset_prepared_path"] == first
    project.annotate(smoothing=0.2)
    other = inside(validated(project.recipe, dataset_prepared_path="cache"))
    assert re.fullmatch(r"cache/ual-[0-9a-f]{12}", other["dataset_prepared_path"])
    assert Path(other["dataset_prepared_path"]).name != Path(first).name


def test_a_column_of_ones_own_is_prepared_apart(project: Project) -> None:
    plain = inside(validated(project.recipe))["dataset_prepared_path"]
    project.recipe["ual"]["curriculum"] = {"mode": "phased", "by": "length"}
    assert inside(validated(project.recipe))["dataset_prepared_path"] != plain


@pytest.mark.parametrize("damage", ["source", "file"])
def test_bytes_are_read_by_one_process_of_a_machine(
    project: Project, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    cfg = validated(project.recipe)
    if damage == "source":
        tiny.write_rows(project.data[1], ROWS[:1])
    else:
        tiny.write_rows(project.folder / "1.parquet", [{**ROWS[3], "ual_smoothing": 0.5}])
    monkeypatch.setenv("LOCAL_RANK", "1")
    other = inside(cfg)["dataset_prepared_path"]
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(AnnotationError):
        inside(cfg)
    assert Path(other).parent == Path("last_run_prepared")


def preference(tmp_path: Path, kind: str, **keys: Any) -> dict[str, Any]:
    rows = [{"messages": [], "chosen": {}, "rejected": {}, "ual_smoothing": 0.1}]
    path = str(tiny.write_rows(tmp_path / "pairs.jsonl", rows))
    cfg = {"rl": "dpo", "datasets": [{"path": path, "type": kind}], "ual": None, **keys}
    remember(cfg)
    return cfg


@pytest.mark.parametrize("kind", ["chat_template", "chat_template.default"])
def test_answers_of_a_chat_template_are_rendered_exactly(tmp_path: Path, kind: str) -> None:
    test = {"path": "test.jsonl", "type": kind}
    cfg = preference(tmp_path, kind, test_datasets=[test])
    loaded = inside(cfg)
    assert [entry["type"] for entry in loaded["datasets"]] == ["axolotl_ual.pairs"]
    assert loaded["test_datasets"] == [{**test, "type": "axolotl_ual.pairs"}]
    assert cfg["datasets"][0]["type"] == kind
    assert cfg["test_datasets"] == [test]


def test_other_types_of_pairs_are_left_alone(tmp_path: Path) -> None:
    loaded = inside(preference(tmp_path, "chatml.intel"))
    assert [entry["type"] for entry in loaded["datasets"]] == ["chatml.intel"]
