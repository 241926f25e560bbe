"""Smoothing through whichever collator Axolotl chose.

A collator of Axolotl pads, packs, flattens or bins the keys it knows. Label and smoothing of a
token travel through it as one integer: the label in the lower 32 bits, the bits of the float32
smoothing in the upper ones. Padding adds plain -100, whose upper bits are all ones, so it is told
apart and gets no smoothing; where a token ends up, its smoothing does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from axolotl_ual.columns import PREFIX, SMOOTHING
from axolotl_ual.errors import DataError

_LOW = 0xFFFFFFFF
_PADDING = -1
_LABEL, _BITS = (0, 1) if sys.byteorder == "little" else (1, 0)


class SmoothingCollator:
    """Wraps a collator: rows with a smoothing in, a batch with `ual_smoothing` out.

    The batch of the wrapped collator gets a further tensor `ual_smoothing`, int32 of the shape of
    `labels`: the bits of the float32 smoothing of each token, 0 for padding. Rows without the
    column (a validation set) give a batch without it.

    Args:
        base: the collator that Axolotl would use.
        keep: whether the smoothing enters the batch; evaluation leaves it out.
    """

    def __init__(self, base: Callable[..., Any], *, keep: bool = True) -> None:
        self.base = base
        self.keep = keep

    def __call__(self, features: Sequence[Any], **options: Any) -> Any:
        """Collate rows, or bins of rows (sample packing gives a list of lists)."""
        binned = bool(features) and isinstance(features[0], list)
        rows = [row for part in features for row in part] if binned else features
        carried = [SMOOTHING in row for row in rows]
        if not self.keep or not any(carried):
            return self.base(_each(features, binned, _without_ours), **options)
        if not all(carried):
            raise DataError(
                f"a batch mixes rows with and without `{SMOOTHING}`",
                "every entry of `datasets:` needs the column",
            )
        batch = self.base(_each(features, binned, _join), **options)
        batch["labels"], batch[SMOOTHING] = _split(batch["labels"])
        return batch


def _each(features: Sequence[Any], binned: bool, change: Callable[[Any], Any]) -> list[Any]:
    if binned:
        return [[change(row) for row in part] for part in features]
    return [change(row) for row in features]


def _without_ours(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith(PREFIX)}


def _join(row: Mapping[str, Any]) -> dict[str, Any]:
    result = _without_ours(row)
    upper = int(np.float32(row[SMOOTHING]).view(np.int32)) << 32
    labels = row["labels"]
    if isinstance(labels, torch.Tensor):
        result["labels"] = (labels.long() & _LOW) | upper
    elif isinstance(labels, np.ndarray):
        result["labels"] = (labels.astype(np.int64) & _LOW) | upper
    else:
        result["labels"] = [(label & _LOW) | upper for label in labels]
    return result


def _split(joined: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (int64) and bits of the smoothing (int32), both of the shape of `joined`."""
    if joined.dtype != torch.int64:
        raise DataError(
            f"the collator made labels of {joined.dtype}, so their smoothing is lost",
            "use a collator that keeps labels int64",
        )
    halves = joined.contiguous().view(torch.int32).unflatten(-1, (-1, 2))
    bits = halves[..., _BITS]
    return halves[..., _LABEL].to(torch.int64), torch.where(bits == _PADDING, 0, bits)
