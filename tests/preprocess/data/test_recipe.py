"""Recipes: what is read from them, and what is wrong with them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.data.recipe import Recipe, load_recipe

ENTRY = {"path": "data.jsonl", "type": "alpaca"}


def recipe_of(tmp_path: Path, settings: Any) -> Recipe:
    path = tmp_path / "recipe.yaml"
    text = settings if isinstance(settings, str) else yaml.safe_dump(settings)
    path.write_text(text, encoding="utf-8")
    return load_recipe(path)


def problem_of(tmp_path: Path, settings: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        recipe_of(tmp_path, settings)
    return str(caught.value)


def test_a_recipe(tmp_path: Path) -> None:
    recipe = recipe_of(
        tmp_path,
        {
            "base_model": "meta-llama/Llama-2-7b-hf",
            "seed": 7,
            "datasets": [{**ENTRY, "split": "train", "whatever": [1]}],
            "ual": {"annotate": {"output": "out", "judge": {"model": "gpt-4o"}}},
            "hf_use_auth_token": True,
            "a_key_of_tomorrow": {"x": 1},
        },
    )
    assert (recipe.base_model, recipe.seed) == ("meta-llama/Llama-2-7b-hf", 7)
    assert recipe.ual.annotate is not None
    assert recipe.ual.annotate.output == "out"
    assert recipe.raw["a_key_of_tomorrow"] == {"x": 1}
    (entry,) = recipe.entries
    assert (entry.index, entry.path, entry.type) == (0, "data.jsonl", "alpaca")
    assert entry.raw == {**ENTRY, "split": "train", "whatever": [1]}
    assert entry.token is True


@pytest.mark.parametrize("seed", ["", "seed:", "seed: null"])
def test_the_seed_is_42_where_none_is_set(tmp_path: Path, seed: str) -> None:
    recipe = recipe_of(tmp_path, f"{seed}\ndatasets: [{{path: a.jsonl, type: alpaca}}]\n")
    assert recipe.seed == 42


def test_a_list_of_names_is_several_entries(tmp_path: Path) -> None:
    spelled = {"path": "org/data", "name": ["en", "de"], "type": "alpaca", "preprocess_shards": 4}
    recipe = recipe_of(tmp_path, {"datasets": [ENTRY, spelled]})
    assert [entry.index for entry in recipe.entries] == [0, 1, 2]
    assert [entry.raw.get("name") for entry in recipe.entries] == [None, "en", "de"]
    assert [entry.label for entry in recipe.entries] == ["data.jsonl", "org/data:en", "org/data:de"]


def test_preprocess_shards_are_one_entry(tmp_path: Path) -> None:
    # Axolotl tokenises the whole dataset shard by shard, and does so with the annotated copy.
    recipe = recipe_of(tmp_path, {"datasets": [{**ENTRY, "preprocess_shards": 4}]})
    assert [entry.raw for entry in recipe.entries] == [{**ENTRY, "preprocess_shards": 4}]


def test_names_expand_as_in_axolotl(tmp_path: Path) -> None:
    from axolotl.utils.data.shared import datasets_with_name_generator
    from axolotl.utils.dict import DictDefault

    spelled = [ENTRY, {"path": "org/data", "name": ["en", "de"], "type": "alpaca"}]
    recipe = recipe_of(tmp_path, {"datasets": spelled})
    theirs = datasets_with_name_generator([DictDefault(entry) for entry in spelled])
    assert [entry.raw for entry in recipe.entries] == [entry.to_dict() for entry in theirs]


@pytest.mark.parametrize(
    ("path", "label"),
    [
        ("GAIR/lima", "GAIR/lima"),
        ("/data/sets/rows.jsonl", "rows.jsonl"),
        ("data/sets/rows.jsonl", "rows.jsonl"),
        ("./folder/", "folder"),
        ("s3://bucket/a/rows.parquet", "rows.parquet"),
        ("lima", "lima"),
    ],
)
def test_labels_are_short(tmp_path: Path, path: str, label: str) -> None:
    recipe = recipe_of(tmp_path, {"datasets": [{"path": path, "type": "alpaca"}]})
    assert recipe.entries[0].label == label


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("", "is empty, and a recipe is a mapping"),
        ("- a\n- b\n", "holds a list, and a recipe is a mapping"),
        ("just text", "holds a str, and a recipe is a mapping"),
        ("datasets:\n  - path: [a\n    type: b\n", "line 3, column 9: expected ',' or ']'"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
        ({"base_model": "m"}, "datasets: this key is needed"),
        ({"datasets": []}, "datasets: must be a list of at least one dataset, not []"),
        ({"datasets": {"path": "a"}}, "datasets: must be a list of at least one dataset"),
        ({"datasets": ["data.jsonl"]}, "datasets[0]: must be a mapping with `path` and `type`"),
        ({"datasets": [ENTRY, {"type": "alpaca"}]}, "datasets[1].path: this key is needed"),
        ({"datasets": [{**ENTRY, "path": 3}]}, "datasets[0].path: must be a text, not 3"),
        ({"datasets": [{**ENTRY, "type": 3}]}, "datasets[0].type: must be a name or a mapping"),
        ({"datasets": [{**ENTRY, "shards": "x"}]}, "datasets[0].shards: must be a whole number"),
        (
            {"datasets": [{**ENTRY, "shards": 4, "shards_idx": 4}]},
            "datasets[0].shards_idx: 4 is outside 0 to 3",
        ),
        (
            {"datasets": [{**ENTRY, "data_files": {"train": "a.jsonl"}}]},
            "datasets[0].data_files: must be a name or a list of names, not a mapping of splits",
        ),
        (
            {"datasets": [{**ENTRY, "data_files": [1]}]},
            "datasets[0].data_files: must be a name or a list of names, not [1]",
        ),
        ({"datasets": [ENTRY], "seed": "x"}, "seed: must be a whole number, not 'x'"),
        ({"datasets": [ENTRY], "base_model": 1}, "base_model: must be a text, not 1"),
        ({"datasets": [ENTRY], "rl": "dpo"}, "rl: dpo: such a recipe trains on preference pairs"),
        ({"datasets": [ENTRY], "reward_model": True}, "reward_model: true: reward models learn"),
        ({"pretraining_dataset": "c4"}, "pretraining_dataset: the data are streamed"),
        ({"datasets": [ENTRY], "streaming": True}, "streaming: the data are streamed"),
        (
            {"datasets": [ENTRY], "ual": {"smoothing": {"meen": 0.1}}},
            "ual.smoothing.meen: unknown key; did you mean `mean`?",
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, settings: Any, problem: str) -> None:
    assert f"{tmp_path / 'recipe.yaml'}: {problem}" in problem_of(tmp_path, settings)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"base_model: caf\xe9\n")
    with pytest.raises(ConfigError, match="not a YAML text"):
        load_recipe(tmp_path / "latin.yaml")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=4))
def test_whatever_datasets_holds_is_read_or_explained(value: Any) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "recipe.yaml"
        path.write_text(yaml.safe_dump({"datasets": [{"path": value, "type": value}]}))
        try:
            recipe = load_recipe(path)
        except ConfigError as error:
            assert "datasets[0]" in str(error)
        else:
            assert recipe.entries[0].path == value


@pytest.mark.slow
def test_reading_a_recipe_and_the_readers_loads_no_heavy_library() -> None:
    code = (
        "import sys; from axolotl_ual.preprocess.data import load, recipe, rows, tokenised; "
        "print([m for m in ('datasets', 'torch', 'transformers', 'axolotl', 'pyarrow') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
