"""Tokens of an image in a prompt: an estimate, and a number that none of the usual rules exceeds.

Servers count images by rules of their own. The estimate is OpenAI's rule for GPT-4o: at
`detail: low` 85 tokens; else the image is scaled down to fit into 2048 x 2048, then down to a
shorter side of 768, and of the tiles of 512 x 512 that cover it

    likely = 85 + 170 tiles

The bound covers one token for 28 x 28 pixels up to 16,384 (Qwen-VL), and what other rules give at
most: 3,779 (patches of 32, up to 1,536, times 2.46), 4,784 (pixels / 750), 4,096 (patches of 16 up
to 1024 x 1024), 16 tiles of 256:

    most = min(max(ceil(w / 28) ceil(h / 28), 4800), 16400)

and for gpt-4o-mini, which counts 33 times as many, 2833 + 5667 tiles of an image whose shorter side
is 768. Servers may change their rules: the first answer that cost more than this raises what is set
aside for those after it (`calls/budget.py`).

Source: OpenAI, "Images and vision" (platform.openai.com/docs/guides/images-vision), "Calculating
costs"; Qwen2-VL (arXiv 2409.12191); Anthropic, "Vision".
"""

from __future__ import annotations

import math
from typing import Final

from ...data.image import Image

_LOW: Final = 85
_OF_TILE: Final = 170
_TILE: Final = 512
_LARGE: Final = 2048
_SHORT: Final = 768
_UNKNOWN: Final = (1024, 1024)
"""Pixels that an image at an address is taken to have, in the estimate."""
_PATCH: Final = 28
_LEAST_BOUND: Final = 4_800
_MOST_BOUND: Final = 16_400
_MINI: Final = "4o-mini"
_MINI_BASE: Final = 2_833
_MINI_OF_TILE: Final = 5_667
_MOST_TILES: Final = 8


def likely_tokens(image: Image) -> int:
    """About how many tokens an image is, by OpenAI's tiles."""
    if image.detail == "low":
        return _LOW
    width, height = image.size or _UNKNOWN
    scale = min(1.0, _LARGE / max(width, height))
    scale = min(scale, _SHORT / min(width, height))
    return _LOW + _OF_TILE * _tiles(width * scale, height * scale)


def most_tokens(image: Image, model: str) -> int:
    """How many tokens an image is at most, whatever the detail: not every server heeds it.

    Args:
        image: that is sent.
        model: that is asked.
    """
    if _MINI in model.lower():
        return _MINI_BASE + _MINI_OF_TILE * _most_tiles(image.size)
    if image.size is None:
        return _MOST_BOUND
    width, height = image.size
    patches = math.ceil(width / _PATCH) * math.ceil(height / _PATCH)
    return min(max(patches, _LEAST_BOUND), _MOST_BOUND)


def _most_tiles(size: tuple[int, int] | None) -> int:
    if size is None:
        return _MOST_TILES
    scale = _SHORT / min(size)
    return min(_tiles(size[0] * scale, size[1] * scale), _MOST_TILES)


def _tiles(width: float, height: float) -> int:
    return max(1, math.ceil(width / _TILE)) * max(1, math.ceil(height / _TILE))
