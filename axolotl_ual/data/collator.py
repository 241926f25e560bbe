"""Smoothing through whichever collator Axolotl chose.

A collator of Axolotl pads, packs, flattens or bins the keys it knows. Label and smoothing of a
token travel through it as one integer: the bits of the float32 smoothing above 23 bits of label.
Padding stays plain -100, which no such integer is, so it gets no smoothing; wherever a token ends
up, its smoothing does. A smoothing in [0, 1] takes 30 bits, and 53 in all are exact in float64,
through which numpy sends labels where there is nothing to pad.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from axolotl_ual.columns import PREFIX, SMOOTHING
from axolotl_ual.errors import DataError

_LABEL_BITS = 23
_LABEL_MASK = (1 << _LABEL_BITS) - 1
_IGNORE_INDEX = -100


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
    # Labels count from the ignore index, so that none is negative.
    base = (int(np.float32(row[SMOOTHING]).view(np.int32)) << _LABEL_BITS) - _IGNORE_INDEX
    labels = row["labels"]
    if isinstance(labels, torch.Tensor):
        result["labels"] = labels.long() + base
    elif isinstance(labels, np.ndarray):
        result["labels"] = labels.astype(np.int64) + base
    else:
        result["labels"] = [label + base for label in labels]
    return result


def _split(joined: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Labels (int64) and bits of the smoothing (int32), both of the shape of `joined`."""
    if joined.dtype != torch.int64:
        raise DataError(
            f"the collator made labels of {joined.dtype}, so their smoothing is lost",
            "use a collator that keeps labels int64",
        )
    token = joined >= 0
    labels = torch.where(token, (joined & _LABEL_MASK) + _IGNORE_INDEX, joined)
    bits = torch.where(token, joined >> _LABEL_BITS, 0)
    return labels, bits.to(torch.int32)
