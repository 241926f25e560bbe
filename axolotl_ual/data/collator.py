"""Smoothing through whichever collator Axolotl chose.

A collator of Axolotl pads, packs, flattens or bins the keys it knows, and no others. Label and
smoothing of a token travel through it as one integer (`losses.encoding`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from axolotl_ual.columns import PREFIX, SMOOTHING
from axolotl_ual.errors import DataError
from axolotl_ual.losses.encoding import join_smoothing, split_smoothing


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
            return self.base(_of_each(features, binned, _without_ours), **options)
        if not all(carried):
            raise DataError(
                f"a batch mixes rows with and without `{SMOOTHING}`",
                "every entry of `datasets:` needs the column",
            )
        batch = self.base(_of_each(features, binned, _join), **options)
        batch["labels"], batch[SMOOTHING] = split_smoothing(batch["labels"])
        return batch


def _of_each(features: Sequence[Any], binned: bool, change: Callable[[Any], Any]) -> list[Any]:
    if binned:
        return [[change(row) for row in part] for part in features]
    return [change(row) for row in features]


def _without_ours(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith(PREFIX)}


def _join(row: Mapping[str, Any]) -> dict[str, Any]:
    labels = join_smoothing(row["labels"], row[SMOOTHING])
    return {**_without_ours(row), "labels": labels}
