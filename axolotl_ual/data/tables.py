"""What a dataset tells of its columns, whether it is there as a whole or streamed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import SMOOTHING


def is_streamed(dataset: Any) -> bool:
    """Whether a dataset is read row by row while it is trained on."""
    return not hasattr(dataset, "__len__")


def shown(config: Mapping[str, Any], key: str = "datasets") -> str:
    """An entry of the recipe, for messages; a stream of files has the format as its path."""
    return f"{key}: `{config.get('data_files') or config.get('path')}`"


def column_names(dataset: Any) -> Sequence[str]:
    """The columns of rows; a stream of JSON tells them by its first row alone."""
    names: Sequence[str] | None = dataset.column_names
    return list(next(iter(dataset), {})) if names is None else names


def smoothing_values(dataset: Any) -> npt.NDArray[np.float64]:
    """The smoothing of a dataset's rows as float64 of shape (N,), NaN for null."""
    table = dataset.select_columns([SMOOTHING]).with_format("arrow")[:]
    values: npt.NDArray[np.float64] = (
        table[SMOOTHING].to_pandas().to_numpy(dtype=np.float64, na_value=np.nan)
    )
    return values
