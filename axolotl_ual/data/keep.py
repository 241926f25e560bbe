"""Rows that are left out of training by a number of theirs.

Thresholds are fixed on the training set as Axolotl prepared it, so after a validation set was split
off. A quantile q is the smallest value that at least a share q of the rows do not exceed, so that
it is a value of some row and equal values stay or go together. Rows without a value stay.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from axolotl.utils.logging import get_logger
from axolotl.utils.trainer import calculate_total_num_steps

from axolotl_ual.columns import PREFIX, SMOOTHING
from axolotl_ual.errors import AnnotationError, ConfigError, DataError, UnsupportedError
from axolotl_ual.settings.keep import KeepConfig

KEPT_BY: Final = "ual_kept_by"
"""What a column of the user's own is called in the training data."""


def own_column(keep: KeepConfig | None) -> dict[str, str]:
    """The column of the user's own that rows are kept by, under the name that it gets."""
    return {} if keep is None or keep.column.startswith(PREFIX) else {KEPT_BY: keep.column}


def keep_part(cfg: Any, config: KeepConfig, meta: Any) -> None:
    """Leave rows out of the training set, and count anew the steps that Axolotl plans.

    Args:
        cfg: Axolotl's validated config.
        config: the section.
        meta: Axolotl's `TrainDatasetMeta`, which is changed.

    Raises:
        UnsupportedError: the data are streamed.
        UALError: see `keep_rows`.
    """
    if not hasattr(meta.train_dataset, "__len__"):
        raise UnsupportedError(
            "ual.curriculum.keep: a streaming dataset is not there before training",
            "set `streaming: false`, or take `keep` out",
        )
    # Preference data have the user's own columns under their own names.
    renamed = {} if cfg.rl else own_column(config)
    column = next(iter(renamed), config.column)
    meta.train_dataset, line = keep_rows(meta.train_dataset, config, column)
    get_logger(__name__).info(line)
    if meta.total_num_steps is None:
        # Axolotl leaves it to a trainer that samples responses how many steps there are.
        return
    if cfg.rl:
        steps = math.ceil(len(meta.train_dataset) * cfg.num_epochs / cfg.batch_size)
    else:
        cfg.total_num_tokens = cfg.total_supervised_tokens = None
        steps = calculate_total_num_steps(cfg, meta.train_dataset)
    meta.total_num_steps = min(steps, cfg.max_steps) if cfg.max_steps else steps


def keep_rows(dataset: Any, config: KeepConfig, column: str) -> tuple[Any, str]:
    """The rows within bounds, in their order.

    Args:
        dataset: of the training rows.
        config: the section.
        column: of the dataset, that `config.by` means.

    Returns:
        The dataset, and a line that tells what was left out.

    Raises:
        AnnotationError: the dataset has no such column.
        DataError: a value is no number.
        ConfigError: no row would be left.
    """
    values = _numbers(dataset, config, column)
    known = values[~np.isnan(values)]
    low, high = _bound(known, config, "at_least"), _bound(known, config, "at_most")
    stays = np.isnan(values) | ((values >= low) & (values <= high))
    if not stays.any():
        raise ConfigError(
            f"ual.curriculum.keep: no row is left: `{config.by}` is from {known.min():g} to "
            f"{known.max():g}, and {low:g} to {high:g} would be kept",
            "widen the bounds",
        )
    kept = dataset.select(np.flatnonzero(stays)).flatten_indices()
    line = (
        f"ual.curriculum.keep: {int(stays.sum())} of {len(values)} training rows stay, with "
        f"`{config.by}` from {low:g} to {high:g}; {int(np.isnan(values).sum())} of them without a "
        "value"
    )
    if SMOOTHING in kept.column_names:
        smoothing = np.asarray(kept[SMOOTHING][:], dtype=np.float64)
        line += f"; their mean smoothing is {smoothing.mean():.4f}"
    return kept, line


def _bound(known: npt.NDArray[np.float64], config: KeepConfig, name: str) -> float:
    """A threshold, which is infinite where the section has none."""
    bound: float | None = getattr(config, name)
    if bound is None:
        return -np.inf if name == "at_least" else np.inf
    if config.quantile and known.size:
        return float(np.quantile(known, bound, method="inverted_cdf"))
    return bound


def _numbers(dataset: Any, config: KeepConfig, column: str) -> npt.NDArray[np.float64]:
    if column not in dataset.column_names:
        raise AnnotationError(
            f"ual.curriculum.keep.by: {config.by}: the training data have no column `{column}`",
            "annotate the data, or name a column that every entry of `datasets:` has",
        )
    table = dataset.select_columns([column]).with_format("arrow")[:]
    try:
        return np.asarray(table[column].to_pylist(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"ual.curriculum.keep.by: {config.by}: a value is not a number: {error}",
            "name a column of numbers",
        ) from None
