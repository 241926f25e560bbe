"""Rows that reach the collator as they are: a processor tokenises them with their images.

With `skip_prepare_dataset` Axolotl's loading leaves every column where it is, and its multimodal
collator makes tokens and labels of a batch at a time. So our columns need no carrying through
tokenisation, and the collator that wraps Axolotl's spreads them over the tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from axolotl_ual.columns import IGNORE_INDEX, SMOOTHING, WEIGHT
from axolotl_ual.errors import DataError
from axolotl_ual.losses.encoding import encode_smoothing


def spread(rows: Sequence[Mapping[str, Any]], labels_BT: Tensor) -> dict[str, Tensor]:
    """Smoothing and weight of each row on all its trained tokens.

    Args:
        rows: B rows with a smoothing, and with a weight or without.
        labels_BT: what the collator made of them, -100 where nothing is trained.

    Returns:
        `ual_smoothing` and, where rows have one, `ual_weight`: int32 of shape (B, T), the bits of
        float32, and 0 where nothing is trained.

    Raises:
        DataError: the collator did not make one row of tokens of each row.
    """
    if len(labels_BT) != len(rows):
        raise DataError(
            f"the collator made {len(labels_BT)} rows of tokens of {len(rows)} rows, so it is not "
            "known whose smoothing they have",
            "use Axolotl's own collator for rows with images",
        )
    trained_BT = labels_BT != IGNORE_INDEX
    found = {}
    for name in (SMOOTHING, WEIGHT):
        if name in rows[0]:
            value_B = torch.tensor([row[name] for row in rows], dtype=torch.float32)
            found[name] = torch.where(trained_BT, encode_smoothing(value_B)[:, None], 0)
    return found
