"""Preference data as Axolotl loads them, with the smoothing of each pair checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from axolotl.common import datasets
from axolotl.utils.logging import get_logger

from axolotl_ual.columns import (
    GAP,
    MARGIN,
    PREFIX,
    SENTENCES,
    SMOOTHING,
    UNCERTAINTY_CHOSEN,
    UNCERTAINTY_REJECTED,
)
from axolotl_ual.data.carry import CARRIED, Weigh, carrying, command_line
from axolotl_ual.data.sentence_column import refusal, refuse_sentences
from axolotl_ual.data.tables import smoothing_values
from axolotl_ual.errors import AnnotationError, ConfigError, DataError
from axolotl_ual.losses.target_margin import target_margins
from axolotl_ual.settings.preference import ON_PROMPTS, SMOOTHED, MarginConfig, kind_of_rl
from axolotl_ual.settings.ual import UALConfig

LOG = get_logger(__name__)

MARGIN_BY: Final = "ual_margin_by"
"""What a column of the user's own is called in the training data of a reward model."""
_OF_PAIRS: Final = (*CARRIED, GAP, UNCERTAINTY_CHOSEN, UNCERTAINTY_REJECTED)


def load_pairs(cfg: Any, ual: UALConfig, preprocess: bool) -> Any:
    """Axolotl's loading of preference data, whose smoothing is checked.

    Raises:
        AnnotationError: pairs are to be smoothed and have no `ual_smoothing`.
        DataError: a smoothing is null or outside [0, 0.5).
        UnsupportedError: the data have smoothing by sentence, which is of samples.
    """
    loaded = datasets.load_preference_datasets(cfg=cfg, cli_args=command_line(preprocess))
    refuse_sentences(loaded.train_dataset, SENTENCES, "datasets: a dataset", refusal(cfg, ual))
    rl = kind_of_rl(cfg)
    if rl in ON_PROMPTS:
        return loaded
    if rl not in SMOOTHED:
        LOG.warning(
            f"rl: {rl} has no smoothing of pairs: `{SMOOTHING}` is not used, order and stages are"
        )
    elif ual.preference.smoothing:
        LOG.info(_checked_pairs(loaded.train_dataset))
    return loaded


def load_reward_pairs(
    cfg: Any, ual: UALConfig, preprocess: bool, own: Mapping[str, str], weigh: Weigh | None
) -> Any:
    """Axolotl's loading of a reward model's pairs, each with our columns.

    Axolotl tokenises them as it does samples, and drops the columns of their source.

    Args:
        cfg: the validated recipe.
        ual: its `ual:` block.
        preprocess: whether this is `axolotl preprocess`.
        own: columns of the user's own to carry as well, by the name they get.
        weigh: checks weights where rows are read.

    Raises:
        AnnotationError: pairs are to be smoothed and have no `ual_smoothing`.
        DataError: a smoothing is null or outside [0, 0.5).
        UnsupportedError: the data have smoothing by sentence, which is of samples.
    """
    smoothed = ual.preference.smoothing
    refuse = refusal(cfg, ual)
    with carrying(_OF_PAIRS, renamed=own, weigh=weigh, unsmoothed=not smoothed, refuse=refuse):
        loaded = datasets.load_datasets(cfg=cfg, cli_args=command_line(preprocess))
    if smoothed:
        LOG.info(_checked_pairs(loaded.train_dataset))
    return loaded


def own_column(config: MarginConfig | None) -> dict[str, str]:
    """The column of the user's own that margins go by, under the name that it gets."""
    column = None if config is None else config.column
    return {} if column is None or column.startswith(PREFIX) else {MARGIN_BY: column}


def with_margins(dataset: Any, config: MarginConfig) -> Any:
    """Training pairs with `ual_margin`, which is fixed on all of them.

    Raises:
        AnnotationError: the pairs have no such column.
        DataError: a gap is null or no finite number.
        ConfigError: all gaps are equal, so that no margin differs from the mean one.
    """
    where = f"ual.preference.margin.by: {config.by}"
    column = MARGIN_BY if MARGIN_BY in dataset.column_names else config.column
    if column not in dataset.column_names:
        raise AnnotationError(
            f"{where}: the training pairs have no column `{config.column}`",
            "make pairs that have it, or name a column that every entry of `datasets:` has",
        )
    table = dataset.select_columns([column]).with_format("arrow")[:]
    try:
        gaps = np.asarray(table[column].to_pylist(), dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{where}: a value is not a number: {error}", "name a column of numbers"
        ) from None
    wrong = np.flatnonzero(~np.isfinite(gaps))
    if wrong.size:
        raise DataError(
            f"{where}: pair {int(wrong[0])} has {gaps[wrong[0]]}, and a target margin needs a "
            f"finite number ({wrong.size} such pairs)",
            "repair the column, or name another",
        )
    margins = target_margins(gaps, config.mean, config.tau)
    if not margins.any():
        raise ConfigError(
            f"{where}: every pair has {gaps[0]:g}, so that all target margins are equal and have "
            "no effect",
            "take `margin:` out, or name another column",
        )
    LOG.info(
        f"ual: target margins of {len(margins)} training pairs are {config.mean:g} on average, "
        f"from {config.mean + margins.min():.4f} to {config.mean + margins.max():.4f}"
    )
    kept = dataset.remove_columns([name for name in [MARGIN] if name in dataset.column_names])
    return kept.add_column(MARGIN, margins.astype(np.float32))


def _checked_pairs(dataset: Any) -> str:
    if SMOOTHING not in dataset.column_names:
        raise AnnotationError(
            f"datasets: the pairs have no column `{SMOOTHING}`",
            "make pairs that have it, or set `ual.preference.smoothing: false`",
        )
    values = smoothing_values(dataset)
    wrong = np.flatnonzero(~((values >= 0.0) & (values < 0.5)))
    if wrong.size:
        raise DataError(
            f"datasets: pair {int(wrong[0])}: `{SMOOTHING}` is {values[wrong[0]]}, and the "
            f"probability that a label is flipped must be in [0, 0.5) ({wrong.size} such pairs)",
            "make the pairs again, or repair the column",
        )
    return f"ual: {len(values)} training pairs carry smoothing, {values.mean():.4f} on average"
