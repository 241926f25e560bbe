"""Preference data as Axolotl loads them, with the smoothing of each pair checked."""

from __future__ import annotations

from typing import Any

import numpy as np
from axolotl.common import datasets
from axolotl.utils.logging import get_logger

from axolotl_ual.columns import SMOOTHING
from axolotl_ual.data.carry import command_line, smoothing_values
from axolotl_ual.errors import AnnotationError, DataError
from axolotl_ual.settings.preference import SMOOTHED, kind_of_rl
from axolotl_ual.settings.ual import UALConfig

LOG = get_logger(__name__)


def load_pairs(cfg: Any, ual: UALConfig, preprocess: bool) -> Any:
    """Axolotl's loading of preference data, whose smoothing is checked.

    Raises:
        AnnotationError: pairs are to be smoothed and have no `ual_smoothing`.
        DataError: a smoothing is null or outside [0, 0.5).
    """
    loaded = datasets.load_preference_datasets(cfg=cfg, cli_args=command_line(preprocess))
    rl = kind_of_rl(cfg)
    if rl not in SMOOTHED:
        LOG.warning(
            f"rl: {rl} has no smoothing of pairs: `{SMOOTHING}` is not used, order and stages are"
        )
    elif ual.preference.smoothing:
        LOG.info(_checked_pairs(loaded.train_dataset))
    return loaded


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
