"""Which stage a training row belongs to.

A column of names holds the stages themselves. A column of numbers is cut into equal parts, one
for each stage of `order`; a cut moves to the nearest place where the sorted values change, so that
equal values never straddle it. A number that is missing puts its row in the middle stage.
"""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import AnnotationError, ConfigError, DataError
from axolotl_ual.settings.curriculum import CurriculumConfig

Stages = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Staging:
    """A rule from values to stages, fixed on the training set.

    Attributes:
        order: names of the stages as they are trained.
        cuts: for numbers, the largest value of each stage but the last, after the sign below;
            None for a column of names.
        sign: -1 where large numbers come first.
    """

    order: tuple[str, ...]
    cuts: tuple[float, ...] | None = None
    sign: float = 1.0

    def number(self, values: Sequence[Any]) -> Stages:
        """Stage number of each value, counted from 0.

        Raises:
            ConfigError: a name that `order` does not have.
        """
        if self.cuts is not None:
            keys = self.keys(values)
            stages = np.searchsorted(np.asarray(self.cuts), keys, side="left").astype(np.int64)
            stages[np.isnan(keys)] = len(self.cuts) // 2
            return stages
        numbers = {name: stage for stage, name in enumerate(self.order)}
        unknown = Counter(value for value in values if value not in numbers)
        if unknown:
            raise _unknown_stage(unknown, self.order)
        return np.fromiter((numbers[value] for value in values), np.int64, count=len(values))

    def keys(self, values: Sequence[Any]) -> Numbers:
        """What unshuffled rows are sorted by: the numbers, small first, missing ones in between.

        Raises:
            DataError: a value that is no number.
        """
        try:
            return self.sign * np.asarray(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"ual.curriculum.by: a value is not a number: {error}") from None


def fit_staging(values: Sequence[Any], config: CurriculumConfig) -> Staging:
    """Fix the rule on the training set.

    Args:
        values: of the column that `config.by` names, row by row; None where missing.
        config: the section.

    Raises:
        ConfigError: `order` names a stage that no row has, or lacks one that rows have; or
            `direction` is set for names.
    """
    names = any(isinstance(value, str) for value in values)
    if names and config.direction is not None:
        raise ConfigError(
            f"ual.curriculum.direction: {config.direction}: `{config.column}` holds names",
            "take it out; stages are taken as `order` names them",
        )
    if names:
        staging = Staging(tuple(config.order))
    else:
        sign = -1.0 if config.descending else 1.0
        keys = Staging((), (), sign).keys(values)
        cuts = _cuts(np.sort(keys[~np.isnan(keys)]), len(config.order))
        staging = Staging(tuple(config.order), cuts, sign)
    _need_rows(staging.number(values), config)
    return staging


def stage_values(dataset: Any, column: str) -> list[Any]:
    """Values of a column of a `datasets.Dataset`.

    Raises:
        AnnotationError: the dataset has no such column.
    """
    if column not in dataset.column_names:
        raise AnnotationError(
            f"ual.curriculum.by: the training data have no column `{column}`",
            "annotate the data, or name a column that every entry of `datasets:` has",
        )
    table = dataset.select_columns([column]).with_format("arrow")[:]
    values: list[Any] = table[column].to_pylist()
    return values


def _cuts(ordered: Numbers, parts: int) -> tuple[float, ...]:
    count = ordered.size
    if not count:
        return (float("-inf"),) * (parts - 1)
    changes = np.flatnonzero(np.diff(ordered) > 0.0) + 1
    candidates = np.concatenate(([0], changes, [count]))
    nearest = [
        int(candidates[np.argmin(np.abs(candidates - count * part / parts))])
        for part in range(1, parts)
    ]
    return tuple(float(ordered[cut - 1]) if cut else float("-inf") for cut in nearest)


def _need_rows(stages: Stages, config: CurriculumConfig) -> None:
    counts = np.bincount(stages, minlength=len(config.order))
    epochs = config.stage_epochs(1)
    empty = [
        name
        for name, count, wanted in zip(config.order, counts, epochs, strict=True)
        if wanted and not count
    ]
    if empty:
        held = ", ".join(f"{n} {int(c)}" for n, c in zip(config.order, counts, strict=True))
        raise ConfigError(
            f"ual.curriculum.order: no training row is in stage `{empty[0]}` (rows by stage: "
            f"{held})",
            f"take `{empty[0]}` out of `order`, or give it 0 `epochs`",
        )


def _unknown_stage(unknown: Counter[Any], order: Sequence[str]) -> ConfigError:
    name, _ = unknown.most_common(1)[0]
    near = difflib.get_close_matches(str(name), order, n=1)
    hint = f"; did you mean {name!r} by `{near[0]}`?" if near else ""
    return ConfigError(
        f"ual.curriculum.order: {unknown.total()} rows are in a stage that {list(order)} does not "
        f"name, the first of them {name!r}{hint}",
        "name every stage of the data in `order`; 0 `epochs` leave one out",
    )
