"""What rows, messages and pairs count in the loss: from where the user has it to `ual_weight`.

Weights are checked twice: where rows are read, so that a wrong one is named by file and row, and on
the training set as Axolotl prepared it, where it shows whether they differ at all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import IGNORE_INDEX, PREFIX, WEIGHT
from axolotl_ual.data.carry import Weigh
from axolotl_ual.data.strategy import TokenWeights
from axolotl_ual.data.streamed import streamed_weights
from axolotl_ual.data.tables import is_streamed
from axolotl_ual.errors import AnnotationError, DataError
from axolotl_ual.settings.loss import WeightConfig, is_weight

WEIGHED_BY: Final = "ual_weighed_by"
"""What a column of the user's own is called in the training data."""

Numbers = npt.NDArray[np.float64]


def own_column(config: WeightConfig | None) -> dict[str, str]:
    """The column of the user's own that weights come from, under the name that it gets."""
    column = None if config is None else config.dataset_column
    return {} if column is None or column.startswith(PREFIX) else {WEIGHED_BY: column}


def with_weights(dataset: Any, config: WeightConfig) -> tuple[Any, str]:
    """The training set with a column `ual_weight`.

    Args:
        dataset: of rows or pairs as Axolotl prepared them; with weights of messages their tokens
            have one each already.
        config: the section.

    Returns:
        The dataset, and a line for the log.

    Raises:
        AnnotationError: the column is not there.
        DataError: a weight is no number, negative or not finite; or all are 0, or all equal.
    """
    if is_streamed(dataset):
        column = next(iter(own_column(config)), config.dataset_column)
        line = f"{config.shown}: each streamed row brings its weight"
        return dataset if column is None else streamed_weights(dataset, config, column), line
    if config.message is not None:
        shown = _of_trained_tokens(dataset)
        return dataset, _summary(config, shown, "trained tokens", 0)
    column = WEIGHED_BY if WEIGHED_BY in dataset.column_names else str(config.dataset_column)
    if column not in dataset.column_names:
        raise AnnotationError(
            f"{config.shown}: the training data have no column `{config.dataset_column}`",
            "annotate the data, or name a column that every entry of `datasets:` has",
        )
    values = _numbers(dataset, column, config, "training row")
    weights, unknown = _mapped(values, config)
    line = _summary(config, weights, "training rows", unknown)
    weighed = dataset.add_column(WEIGHT, weights.astype(np.float32))
    return weighed.remove_columns([WEIGHED_BY] if column == WEIGHED_BY else []), line


def weigher(config: WeightConfig | None) -> Weigh | None:
    """What checks weights where rows are read, and reads those of messages."""
    if config is None:
        return None

    def weigh(strategy: Any, dataset: Any, entry: Mapping[str, Any]) -> TokenWeights | None:
        if config.message is None:
            check = require_column if is_streamed(dataset) else check_source
            check(dataset, config, entry)
            return None
        from axolotl_ual.data.message_weights import MessageWeights

        messages = MessageWeights(strategy, config.message, entry)
        if not is_streamed(dataset):
            messages.check(dataset)
        return messages

    return weigh


def require_column(dataset: Any, config: WeightConfig, entry: Mapping[str, Any]) -> None:
    """Stop where an entry of `datasets:` has no column of weights.

    Raises:
        AnnotationError: naming the data.
    """
    column = str(config.dataset_column)
    if column not in dataset.column_names:
        raise AnnotationError(
            f"{config.shown}: datasets: `{entry.get('path')}` has no column `{column}`",
            "add the column to the data, or name one that every entry has",
        )


def check_source(dataset: Any, config: WeightConfig, entry: Mapping[str, Any]) -> None:
    """Stop where a row of an entry of `datasets:` has no weight, or one that cannot be.

    Raises:
        AnnotationError: the column is not there.
        DataError: naming file and row.
    """
    require_column(dataset, config, entry)
    where = f"datasets: `{entry.get('path')}`, row"
    _mapped(_numbers(dataset, str(config.dataset_column), config, where), config)


def _numbers(dataset: Any, column: str, config: WeightConfig, what: str) -> Numbers:
    """Values of a column; NaN for null where a row without one gets the mean of the others."""
    table = dataset.select_columns([column]).with_format("arrow")[:]
    given = table[column].to_pylist()
    mapped = config.from_ is not None
    for row, value in enumerate(given):
        if mapped and value is None:
            continue
        if not is_weight(value) or (mapped and value > 1.0):
            meant = "a number in [0, 1]" if mapped else "a finite number, 0 or more"
            raise DataError(
                f"{what} {row}: `{config.dataset_column}` is {value!r}, and `{config.shown}` needs "
                f"{meant}",
                "repair the column, or name another one",
            )
    return np.asarray([np.nan if value is None else value for value in given], dtype=np.float64)


def _mapped(values: Numbers, config: WeightConfig) -> tuple[Numbers, int]:
    """Weights, and how many rows got the mean of the others because nothing is known of them."""
    if config.from_ is None:
        return values, 0
    weights: Numbers = config.at_0 + (config.at_1 - config.at_0) * values
    unknown = np.isnan(weights)
    if unknown.all():
        raise DataError(f"{config.shown}: no row has a value", "annotate the data again")
    weights[unknown] = weights[~unknown].mean()
    return weights, int(unknown.sum())


def _of_trained_tokens(dataset: Any) -> Numbers:
    if WEIGHT not in dataset.column_names:
        raise AnnotationError(
            "ual.loss.weight.message: the training data were prepared without weights",
            "prepare them again, from data that are not tokenised",
        )
    found = []
    rows = dataset.select_columns(["labels", WEIGHT]).with_format("numpy")
    for row in rows:
        labels = np.asarray(row["labels"])
        # Axolotl may have cut the end of a long row off.
        found.append(np.asarray(row[WEIGHT])[: len(labels)][labels != IGNORE_INDEX])
    return np.concatenate(found) if found else np.empty(0)


def _summary(config: WeightConfig, weights: Numbers, what: str, unknown: int) -> str:
    """A line for the log.

    Raises:
        DataError: all weights are 0, or all are equal.
    """
    if weights.size and not weights.any():
        raise DataError(
            f"{config.shown}: all {weights.size} {what} weigh 0, so nothing would be trained",
            "repair the weights",
        )
    if weights.size == 0 or weights.min() == weights.max():
        value = f"weigh {weights.min():g}" if weights.size else "are left"
        raise DataError(
            f"{config.shown}: all {weights.size} {what} {value}, so the weight has no effect",
            "take `ual.loss.weight` out, or name weights that differ",
        )
    line = (
        f"{config.shown}: {weights.size} {what} weigh {weights.min():g} to {weights.max():g}, "
        f"{weights.mean():.4f} on average"
    )
    return (
        f"{line}; {unknown} of them, without a value, the mean of the others" if unknown else line
    )
