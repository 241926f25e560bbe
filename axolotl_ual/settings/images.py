"""Which estimators can be shown images, and how `ual.annotate.images` is read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

Images = Literal["error", "omit", "send"]
Detail = Literal["auto", "low", "high"]
_SEES: Final = {"judge", "panel"}


def check_images(images: Images, detail: Detail, estimators: Sequence[str]) -> None:
    """Refuse what cannot be done with images.

    Args:
        images: `ual.annotate.images`.
        detail: `ual.annotate.image_detail`.
        estimators: in use: the chosen one, and its members where it is an ensemble.

    Raises:
        ValueError: naming the key and the fix.
    """
    if images != "send":
        if detail != "auto":
            raise ValueError(
                f"`image_detail: {detail}` is of no use to `images: {images}`, which shows none; "
                "set `images: send`, or take it out"
            )
        return
    blind = [name for name in estimators if name not in _SEES and name != "ensemble"]
    if blind:
        raise ValueError(
            f"`images: send` shows images to a judge, and `estimator: {blind[0]}` reads text "
            "alone; set `images: omit`, or take `judge` or `panel`"
        )
