"""Labels and smoothing come out of their encodings bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.errors import DataError
from axolotl_ual.losses.encoding import (
    decode_smoothing,
    encode_smoothing,
    join_smoothing,
    split_smoothing,
)


@given(st.lists(st.floats(0, 1, width=32), min_size=1, max_size=20))
def test_smoothing_survives_as_integers(values: list[float]) -> None:
    smoothing = torch.tensor(values, dtype=torch.float32)
    bits = encode_smoothing(smoothing)
    assert bits.dtype == torch.int32
    assert torch.equal(decode_smoothing(bits), smoothing)


@given(
    labels=st.lists(st.one_of(st.just(-100), st.integers(0, 2**23 - 101)), min_size=1, max_size=9),
    value=st.floats(0, 1, width=32),
)
def test_any_label_and_any_smoothing_come_out_as_they_went_in(
    labels: list[int], value: float
) -> None:
    joined = join_smoothing(labels, value)
    # A collator pads with the ignore index, and numpy may pass the integers through float64.
    padded = torch.from_numpy(np.array([*joined, -100]).astype(np.float64)).long()
    found, bits = split_smoothing(padded)
    assert found.tolist() == [*labels, -100]
    assert decode_smoothing(bits).tolist() == [value] * len(labels) + [0.0]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_labels_need_not_be_lists(kind: Any) -> None:
    joined = join_smoothing(kind([-100, 7, 8]), 0.25)
    assert isinstance(joined, type(kind([0])))
    labels, bits = split_smoothing(torch.as_tensor(joined))
    assert labels.tolist() == [-100, 7, 8]
    assert decode_smoothing(bits).tolist() == [0.25, 0.25, 0.25]


def test_narrow_labels_stop() -> None:
    with pytest.raises(DataError, match=r"labels of torch\.int32.*\n.*keeps labels int64"):
        split_smoothing(torch.tensor([[1, 2]], dtype=torch.int32))
