"""The `reestimate:` section of `ual:`: smoothing by the model in training, stage by stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from axolotl_ual.settings.server import Section


class ReestimateConfig(Section):
    """When uncertainty is estimated again while a curriculum trains, and how."""

    every: Literal["stage"] = Field(
        "stage",
        description="stage: before the first step of each stage but the first, over all rows of "
        "the training set.",
    )
    estimator: Literal["perplexity", "entropy"] | None = Field(
        None, description="Of the model in training; null: that of `ual.annotate`."
    )
    mapping: Literal["rank", "minmax", "clipped", "ratio"] | None = Field(
        None,
        description="How scores become numbers in [0, 1]; null: as the estimator's section of "
        "`ual.annotate` says, else rank.",
    )
