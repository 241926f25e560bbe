"""Smoothing and weights through whichever collator Axolotl chose.

A collator of Axolotl pads, packs, flattens or bins the keys it knows, and no others. Label and
smoothing of a token travel through it as one integer (`losses.encoding`). Where rows bring weights,
a number of their own or the prediction of a reference, the collator runs once more for each, with
the bits of a token's weight, its row's place in the batch or its own number in the place of its
label, and so tells where it went. Rows with images have no labels before their collator makes them:
there a row's smoothing is put on its tokens afterwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from axolotl_ual.columns import (
    IGNORE_INDEX,
    PLACE,
    PREFIX,
    REFERENCE_IDS,
    REFERENCE_LOGPROBS,
    ROW,
    SMOOTHING,
    TOKEN_SMOOTHING,
    WEIGHT,
)
from axolotl_ual.data.untokenised import spread
from axolotl_ual.errors import DataError
from axolotl_ual.losses.encoding import (
    encode_smoothing,
    join_smoothing,
    split_smoothing,
)


class SmoothingCollator:
    """Wraps a collator: rows with a smoothing in, a batch with `ual_smoothing` out.

    The batch of the wrapped collator gets a further tensor `ual_smoothing`, int32 of the shape of
    `labels`: the bits of the float32 smoothing of each token, its own (`ual_token_smoothing`) or
    that of its row, 0 for padding. Rows without the
    column (a validation set) give a batch without it. Rows with weights give `ual_weight` likewise,
    and rows with a number `ual_place`: int64 of that shape, of which of the batch's rows each token
    is, counted from 0, and negative for padding.

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
        if "labels" not in rows[0]:
            batch = self.base(_of_each(features, binned, _without_ours), **options)
            batch.update(spread(rows, batch["labels"]))
            return batch
        batch = self.base(_of_each(features, binned, _join), **options)
        batch["labels"], batch[SMOOTHING] = split_smoothing(batch["labels"])
        if WEIGHT in rows[0]:
            weighed = self.base(_of_each(features, binned, _weighed), **options)["labels"]
            batch[WEIGHT] = weighed.clamp(min=0).to(torch.int32)
        if ROW in rows[0]:
            batch[PLACE] = self.base(_placed(features, rows, binned), **options)["labels"]
        if REFERENCE_IDS in rows[0]:
            numbered = _numbered(features, rows, binned)
            number_BT = self.base(numbered, **options)["labels"]
            batch.update(_reference(rows, number_BT))
            # What has no prediction (the first token of a row that is packed behind another) has
            # nowhere to put smoothed mass.
            batch[SMOOTHING] = torch.where(number_BT >= 0, batch[SMOOTHING], 0)
        return batch


def _of_each(features: Sequence[Any], binned: bool, change: Callable[[Any], Any]) -> list[Any]:
    if binned:
        return [[change(row) for row in part] for part in features]
    return [change(row) for row in features]


def _without_ours(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if not key.startswith(PREFIX)}


def _join(row: Mapping[str, Any]) -> dict[str, Any]:
    labels = join_smoothing(row["labels"], _smoothing_of(row))
    return {**_without_ours(row), "labels": labels}


def _smoothing_of(row: Mapping[str, Any]) -> Any:
    """The smoothing of a row, or one for each of its tokens where its sentences have one each."""
    given = row.get(TOKEN_SMOOTHING)
    if given is None or not len(given):
        return row[SMOOTHING]
    count = len(row["labels"])
    if len(given) < count:
        raise DataError(
            f"`{TOKEN_SMOOTHING}` holds {len(given)} numbers for a row of {count} tokens",
            "prepare the data again",
        )
    # Axolotl may have cut the end of a long row off.
    return given[:count]


def _weighed(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the bits of its tokens' weights as labels: none is negative."""
    given, count = np.asarray(row[WEIGHT], dtype=np.float32), len(row["labels"])
    # Axolotl may have cut the end of a long row off.
    bits = np.broadcast_to(given if given.ndim == 0 else given[:count], count).copy()
    return _labelled(row, bits.view(np.int32).astype(np.int64))


def _labelled(row: Mapping[str, Any], labels: Any) -> dict[str, Any]:
    """The row with an array as its labels, in the form that they had."""
    given = row["labels"]
    same_kind = torch.from_numpy(labels) if isinstance(given, Tensor) else labels
    return {
        **_without_ours(row),
        "labels": labels.tolist() if isinstance(given, list) else same_kind,
    }


def predicted_places(labels: Any) -> Any:
    """Places of a row's tokens that are trained on and come after another: ascending int64."""
    return np.flatnonzero(np.asarray(labels)[1:] != IGNORE_INDEX) + 1


def _placed(features: Sequence[Any], rows: Sequence[Any], binned: bool) -> list[Any]:
    """The rows with their place in the batch as the label of each of their tokens."""
    found = [
        _labelled(row, np.full(len(row["labels"]), place, dtype=np.int64))
        for place, row in enumerate(rows)
    ]
    return _as_given(found, features, binned)


def _as_given(rows: list[Any], features: Sequence[Any], binned: bool) -> list[Any]:
    """Rows in the bins that `features` has them in, if it has."""
    if not binned:
        return rows
    left = iter(rows)
    return [[next(left) for _ in part] for part in features]


def _numbered(features: Sequence[Any], rows: Sequence[Any], binned: bool) -> list[Any]:
    """The rows with numbers as labels: counted over the batch, of tokens that have a prediction."""
    found, count = [], 0
    for row in rows:
        labels = np.full(len(row["labels"]), IGNORE_INDEX, dtype=np.int64)
        if row[SMOOTHING] > 0:
            places = predicted_places(row["labels"])
            labels[places] = np.arange(count, count + len(places))
            count += len(places)
        found.append(_labelled(row, labels))
    return _as_given(found, features, binned)


def _reference(rows: Sequence[Any], number_BT: Tensor) -> dict[str, Tensor]:
    """Tokens and bits of their log-probabilities, int32 of shape (B, T, K)."""
    count = sum(len(predicted_places(row["labels"])) for row in rows if row[SMOOTHING] > 0)
    parts = [
        np.concatenate([np.asarray(row[name], dtype=dtype) for row in rows])
        for name, dtype in ((REFERENCE_IDS, np.int32), (REFERENCE_LOGPROBS, np.float32))
    ]
    kept, left = divmod(len(parts[0]), max(1, count))
    if left or len(parts[0]) != len(parts[1]):
        raise DataError(
            f"`{REFERENCE_IDS}` holds {len(parts[0])} tokens for {count} places of a batch",
            "prepare the data again",
        )
    known_BT, place_BT = number_BT >= 0, number_BT.clamp(min=0)
    ids_NK, logprobs_NK = (torch.from_numpy(part).view(count, kept) for part in parts)
    if not count:
        ids_NK, logprobs_NK = ids_NK.new_zeros(1, 1), logprobs_NK.new_zeros(1, 1)
    # Elsewhere nothing is kept: a log-probability of minus infinity.
    logprobs_BTK = torch.where(known_BT[..., None], logprobs_NK[place_BT], -torch.inf)
    return {REFERENCE_IDS: ids_NK[place_BT], REFERENCE_LOGPROBS: encode_smoothing(logprobs_BTK)}
