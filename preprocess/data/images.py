"""Images of dialogues: which parts of a message are some, and the columns that hold them.

Axolotl takes images from two places: parts of messages, and the first of the columns `images` and
`image` that a dataset has, which only a processor reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from .sample import Row

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS: Final = ("images", "image")
"""The first that is there is read."""
FIX: Final = "set ual.annotate.images to `omit` to judge the text alone"
_KINDS: Final = ("image", "image_url")


def is_image(part: Any) -> bool:
    """Whether a part of a message says that it is an image."""
    return isinstance(part, Mapping) and part.get("type") in _KINDS


def any_image(messages: Iterable[Mapping[str, Any]], content: str) -> bool:
    """Whether a part of a message is an image.

    Args:
        messages: as the row spells them.
        content: key of a message's content.
    """
    contents = (message.get(content) for message in messages)
    return any(is_image(part) for said in contents if isinstance(said, list) for part in said)


def beside(row: Row, columns: Iterable[str]) -> tuple[str, Any] | None:
    """The column of images of a row, and what it holds; None where that is nothing.

    Args:
        row: with its columns.
        columns: that are looked for.
    """
    name = next((name for name in columns if name in row), None)
    if name is None or row[name] is None or row[name] == []:
        return None
    return name, row[name]


def undecoded(table: Dataset) -> Dataset:
    """The rows, with images of `datasets` as bytes and path: as they are in the file."""
    from datasets import Features

    given = dict(table.features)
    if (features := _undecoded(given)) == given:
        return table
    shown = table.select_columns(table.column_names)
    shown.info.features = Features(features)
    return shown


def _undecoded(feature: Any) -> Any:
    """A feature, or a mapping or list of some, with its images left as bytes and path."""
    from datasets import Image

    if isinstance(feature, Image):
        return replace(feature, decode=False)
    if isinstance(feature, Mapping):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_undecoded(inner) for inner in feature]
    if hasattr(feature, "feature"):
        return replace(feature, feature=_undecoded(feature.feature))
    return feature
