"""Rows that reach the collator as they are: columns of the user's own, and what images hash to."""

from __future__ import annotations

import io
from typing import Any

from datasets import Dataset, Features, Image, Value
from PIL import Image as Pixels

from axolotl_ual.data.carry import with_own_columns
from axolotl_ual.data.shared import content_hash


def test_columns_of_the_users_own_get_a_second_name() -> None:
    """Of rows in another order than they are stored in; `kind` stays for whoever reads it."""
    rows = Dataset.from_dict({"kind": ["a", "b", "c"], "n": [1, 2, 3]}).select([2, 0])
    found = with_own_columns(rows, {"ual_by": "kind", "ual_kept_by": "missing"})
    assert found[:] == {"kind": ["c", "a"], "n": [3, 1], "ual_by": ["c", "a"]}


def _png(colour: str) -> dict[str, Any]:
    stream = io.BytesIO()
    Pixels.new("RGB", (3, 2), colour).save(stream, "PNG")
    return {"bytes": stream.getvalue(), "path": None}


def test_an_image_is_known_by_its_pixels() -> None:
    """Rows are decoded each time they are read, into another object each time."""
    features = Features({"text": Value("string"), "image": Image()})
    rows = Dataset.from_list(
        [{"text": "?", "image": _png(colour)} for colour in ("red", "red", "blue")], features
    )
    red, again, blue = (content_hash(row) for row in rows)
    assert red == again == content_hash(rows[0])
    assert red != blue
