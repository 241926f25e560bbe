"""The smoothing of a token on its way from a row to the loss, bit for bit.

In a batch it is the int32 of the same bits as its float32, because training engines cast float
inputs and leave integers alone. Through a collator, which pads, packs, flattens or bins the labels
and knows nothing of smoothing, it travels with its label as one integer: the bits of the smoothing
above 23 bits of label. Padding stays plain -100, which no such integer is, so it gets no smoothing;
wherever a token ends up, its smoothing does. A smoothing in [0, 1] takes 30 bits, and 53 in all are
exact in float64, through which numpy sends labels where there is nothing to pad.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from axolotl_ual.columns import IGNORE_INDEX
from axolotl_ual.errors import DataError

_LABEL_BITS = 23
_LABEL_MASK = (1 << _LABEL_BITS) - 1


def encode_smoothing(smoothing: Tensor) -> Tensor:
    """float32 as the int32 of the same bits."""
    return smoothing.to(torch.float32).view(torch.int32)


def decode_smoothing(bits: Tensor) -> Tensor:
    """Undo `encode_smoothing`."""
    return bits.view(torch.float32)


def join_smoothing(labels: Any, smoothing: Any) -> Any:
    """Labels that carry the smoothing of their row, or each its own.

    Args:
        labels: a list of ints, or an array or tensor of integers; each -100 or in [0, 2^23 - 101].
        smoothing: a number in [0, 1], or a list, array or tensor of one for each label.

    Returns:
        A list, or an array or tensor of int64; undone by `split_smoothing`.
    """
    # Labels count from the ignore index, so that none is negative.
    bits = np.asarray(smoothing, dtype=np.float32).view(np.int32).astype(np.int64)
    base = (bits << _LABEL_BITS) - IGNORE_INDEX
    if isinstance(labels, Tensor):
        return labels.long() + torch.as_tensor(base)
    joined = np.asarray(labels, dtype=np.int64) + base
    return joined if isinstance(labels, np.ndarray) else joined.tolist()


def split_smoothing(joined: Tensor) -> tuple[Tensor, Tensor]:
    """Labels (int64) and bits of the smoothing (int32), both of the shape of `joined`.

    Raises:
        DataError: the integers were made narrower on the way.
    """
    if joined.dtype != torch.int64:
        raise DataError(
            f"the collator made labels of {joined.dtype}, so their smoothing is lost",
            "use a collator that keeps labels int64",
        )
    token = joined >= 0
    labels = torch.where(token, (joined & _LABEL_MASK) + IGNORE_INDEX, joined)
    bits = torch.where(token, joined >> _LABEL_BITS, 0)
    return labels, bits.to(torch.int32)
