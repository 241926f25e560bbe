"""Images of dialogues: which parts of a message are some, and the columns that hold them.

Axolotl takes images from two places: parts of messages, and the first of the columns `images` and
`image` that a dataset has, which only a processor reads. Of that column it trains the first image,
in the place of a part `{type: image}` that names none, or behind the first message of the user.
"""

from __future__ import annotations

import base64
import binascii
import io
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from axolotl_ual.settings.images import Detail

from .image import READ, Image
from .sample import BadRow, Row, kind_of, shorten

if TYPE_CHECKING:
    from datasets import Dataset

COLUMNS: Final = ("images", "image")
"""The first that is there is read."""
FIX: Final = (
    "set ual.annotate.images to `omit` to judge the text alone, or to `send` where the judge sees "
    "images"
)
LARGEST: Final = 20_000_000
"""Bytes of one image that OpenAI takes."""
_MEND: Final = "mend the image, or set ual.annotate.images to `omit` to judge the text alone"
_KINDS: Final = ("image", "image_url")
_NAMES: Final = ("image", "url", "path", "base64")
"""Keys of a part that may name the image, in the order in which a processor looks at them."""
_WEB: Final = ("http://", "https://")


def is_image(part: Any) -> bool:
    """Whether a part of a message says that it is an image."""
    return isinstance(part, Mapping) and part.get("type") in _KINDS


def is_bare(part: Any) -> bool:
    """Whether a part says that it is an image and not which: a column has it."""
    return is_image(part) and part["type"] == "image" and _named(part) is None


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


def in_column(name: str, value: Any) -> list[tuple[str, Any]]:
    """What a column of images holds: key and value of each.

    Args:
        name: of the column.
        value: a list, or a single image.
    """
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        return [(name, value)]
    return [(f"{name}[{number}]", one) for number, one in enumerate(value)]


def image_of_part(part: Mapping[str, Any], key: str, detail: Detail) -> Image:
    """The image that a part of a message names.

    Args:
        part: of which `is_image` is true.
        key: where it lies.
        detail: at which it is to be looked at.

    Raises:
        BadRow: it names none, or one that cannot be read.
    """
    found = _named(part)
    if found is None:
        raise BadRow(
            key,
            f"names no image: none of {', '.join(_NAMES)} is there",
            "name the image there. Axolotl puts the first image of a column `images` in the place "
            "of one such part of a row, where the recipe has a `processor_type:`",
        )
    name, value = found
    return image_of(value, f"{key}.{name}", detail)


def image_of(value: Any, key: str, detail: Detail = "auto") -> Image:
    """An image as a row holds it.

    Args:
        value: a path, an http(s) URL, a data URL, base64, bytes, `datasets`' bytes and path, or
            an image that was found before.
        key: where it lies.
        detail: at which it is to be looked at.

    Raises:
        BadRow: there is no such file, it is no image of a format that is read, or it is too large.
    """
    if isinstance(value, Image):
        return value
    if isinstance(value, Mapping) and ("bytes" in value or "path" in value):
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes):
        return _held(value, key, detail)
    if not isinstance(value, str) or not value:
        raise BadRow(key, f"is {kind_of(value)} and not an image: {shorten(value)}", _MEND)
    if value.startswith(_WEB):
        return Image(key, address=value, detail=detail)
    if value.startswith("data:image/"):
        return _held(_decoded(value.partition(",")[2], value, key), key, detail)
    if os.path.isfile(value):
        found = os.path.abspath(value)
        kind, size = _looked_at(found, os.path.getsize(found), key, value)
        return Image(key, path=found, format=kind, size=size, detail=detail)
    return _held(_decoded(value, value, key), key, detail)


def undecoded(table: Dataset) -> Dataset:
    """The rows, with images of `datasets` as bytes and path: as they are in the file."""
    from datasets import Features

    given = dict(table.features)
    if (features := _undecoded(given)) == given:
        return table
    shown = table.select_columns(table.column_names)
    shown.info.features = Features(features)
    return shown


def _named(part: Mapping[str, Any]) -> tuple[str, Any] | None:
    """The key of a part that names the image, and what it says."""
    if part["type"] == "image_url":
        value = part.get("image_url")
        if isinstance(value, Mapping):
            return None if value.get("url") is None else ("image_url.url", value["url"])
        return None if value is None else ("image_url", value)
    return next(((name, part[name]) for name in _NAMES if part.get(name) is not None), None)


def _decoded(text: str, value: str, key: str) -> bytes:
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError):
        raise BadRow(
            key, f"is neither a file that is there, nor a URL, nor base64: {shorten(value)}", _MEND
        ) from None


def _held(content: bytes, key: str, detail: Detail) -> Image:
    kind, size = _looked_at(io.BytesIO(content), len(content), key, f"{len(content):,} bytes")
    return Image(key, held=content, format=kind, size=size, detail=detail)


def _looked_at(
    source: str | io.BytesIO, length: int, key: str, name: str
) -> tuple[str, tuple[int, int]]:
    """Format and size of an image, from its head."""
    from PIL import Image as Pillow
    from PIL import UnidentifiedImageError

    if length > LARGEST:
        raise BadRow(
            key,
            f"is an image of {length:,} bytes, and servers take up to {LARGEST:,}: {name}",
            "make it smaller, or set ual.annotate.images to `omit` to judge the text alone",
        )
    try:
        with Pillow.open(source, formats=READ) as opened:
            return str(opened.format), opened.size
    except (OSError, ValueError, Pillow.DecompressionBombError) as error:
        said = "" if isinstance(error, UnidentifiedImageError) else f" ({error})"
        raise BadRow(
            key, f"is no image that can be read as {', '.join(READ)}{said}: {name}", _MEND
        ) from None


def _undecoded(feature: Any) -> Any:
    """A feature, or a mapping or list of some, with its images left as bytes and path."""
    from datasets import Image as ImageFeature

    if isinstance(feature, ImageFeature):
        return replace(feature, decode=False)
    if isinstance(feature, Mapping):
        return {name: _undecoded(inner) for name, inner in feature.items()}
    if isinstance(feature, list):
        return [_undecoded(inner) for inner in feature]
    if hasattr(feature, "feature"):
        return replace(feature, feature=_undecoded(feature.feature))
    return feature
