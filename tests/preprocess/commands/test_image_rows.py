"""Dialogues with images, of which the text alone is judged where the recipe says so."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.testing import CliRunner
from PIL import Image

import judge_server
from axolotl_ual.columns import Manifest
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.data.chat import chat_reader
from axolotl_ual.preprocess.data.chat_fields import ChatFields
from axolotl_ual.preprocess.data.images import COLUMNS
from axolotl_ual.preprocess.data.sample import BadRow


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(stream, "PNG")
    return stream.getvalue()


PNG = _png()
PLACES: list[dict[str, str]] = [
    {"type": "image", "path": "red.png"},
    {"type": "image", "url": "https://example.com/red.png"},
    {"type": "image", "base64": "aGk="},
    {"type": "image"},
]


def _row(number: int, **columns: Any) -> dict[str, Any]:
    question = [PLACES[number % len(PLACES)], {"type": "text", "text": f"Which colour, {number}?"}]
    answer = [{"type": "text", "text": "red" * (1 + number % 3)}]
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages, **columns}


@pytest.mark.parametrize("place", PLACES)
def test_an_image_is_left_out_of_the_text(place: dict[str, str]) -> None:
    row = _row(PLACES.index(place))
    (question, answer) = chat_reader(ChatFields(images="omit")).read(row).turns
    assert question.text == f"Which colour, {PLACES.index(place)}?" and not question.trained
    assert answer.trained and answer.text.startswith("red")
    with pytest.raises(BadRow, match="only text can be judged") as caught:
        chat_reader(ChatFields()).read(row)
    assert "ual.annotate.images to `omit`" in caught.value.fix


def test_sound_is_no_image() -> None:
    row = _row(0)
    row["messages"][0]["content"][0] = {"type": "audio", "path": "a.mp3"}
    with pytest.raises(BadRow, match="type: 'audio'"):
        chat_reader(ChatFields(images="omit")).read(row)


def test_an_answer_that_is_only_an_image_is_no_answer() -> None:
    row = _row(0)
    row["messages"][1]["content"] = [{"type": "image", "path": "red.png"}]
    with pytest.raises(BadRow, match="is an empty response"):
        chat_reader(ChatFields(images="omit")).read(row)


def _annotate(folder: Path, base_url: str, **annotate: Any) -> Any:
    recipe = {
        "base_model": "none",
        "processor_type": "AutoProcessor",
        "skip_prepare_dataset": True,
        "datasets": [{"path": str(folder / "data" / "rows.parquet"), "type": "chat_template"}],
        "plugins": ["axolotl_ual.UALPlugin"],
        "ual": {
            "annotate": {
                "output": str(folder / "made"),
                "cache": str(folder / "cache"),
                "judge": {"model": "judge", "base_url": base_url},
                **annotate,
            }
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return CliRunner().invoke(main, ["annotate", str(path)])


def _strings(number: int) -> dict[str, Any]:
    """A dialogue of strings; the placeholder of an image is in none of them."""
    row = _row(number)
    return {
        "messages": [{**turn, "content": turn["content"][-1]["text"]} for turn in row["messages"]]
    }


def test_a_column_of_images_is_not_read_past() -> None:
    """Only the first column counts, as in training; a row whose cell is null has no image."""
    rows = [{**_strings(n), "images": ["a.png"] if n else None, "image": "b.png"} for n in range(2)]
    fields = ChatFields(image_columns=COLUMNS)
    assert not chat_reader(fields).read(rows[0]).has_images
    with pytest.raises(BadRow, match="`images` holds images; only text can be judged"):
        chat_reader(fields).read(rows[1])
    assert chat_reader(replace(fields, images="omit")).read(rows[1]).has_images
    # Without a processor the column is one like any other.
    assert not chat_reader(ChatFields()).read(rows[1]).has_images


@pytest.mark.slow
def test_the_copy_keeps_the_images_and_says_that_none_was_seen(tmp_path: Path) -> None:
    import datasets
    from datasets import Dataset, Features, List, Value, load_dataset

    (tmp_path / "data").mkdir()
    turn = {"role": Value("string"), "content": Value("string")}
    # The second row's is no image: reading the text decodes none.
    cells = [[{"bytes": PNG, "path": None}], [{"bytes": b"none", "path": None}], None, None]
    Dataset.from_list(
        [{**_strings(n), "images": cell} for n, cell in enumerate(cells)],
        features=Features({"messages": List(turn), "images": List(datasets.Image())}),
    ).to_parquet(tmp_path / "data" / "rows.parquet")
    with judge_server.running() as judge:
        refused = _annotate(tmp_path, judge.base_url)
        found = _annotate(tmp_path, judge.base_url, images="omit")
    assert refused.exit_code != 0
    assert "2 of 4 rows cannot be read" in refused.output
    assert "ual.annotate.images to `omit`" in refused.output
    assert found.exit_code == 0, found.output
    assert "2 rows have images: their text alone was judged" in found.output
    manifest = Manifest.read(tmp_path / "made")
    assert manifest.settings["images"] == "omit"
    assert manifest.estimator["images"] == {"rows": 2, "seen": False}
    assert "| 2 rows have images: their text" in (tmp_path / "made" / "README.md").read_text()
    path = str(tmp_path / "made" / manifest.sources[0].file.path)
    copy = load_dataset("parquet", data_files=path)["train"].cast_column(
        "images", List(datasets.Image(decode=False))
    )
    assert copy["images"][:] == cells
    assert {"ual_smoothing", "ual_uncertainty", "ual_stage"} < set(copy.column_names)
