"""The `keep:` section of `ual.curriculum:`: which rows are trained on at all."""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field, model_validator

from axolotl_ual.columns import GAP, STAGE, UNCERTAINTY

_COLUMN_OF = {"uncertainty": UNCERTAINTY, "gap": GAP}


class KeepConfig(BaseModel):
    """Rows are left out of training where a number of theirs is out of bounds."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    by: str = Field(min_length=1, description="uncertainty, gap, or any column of numbers.")
    at_least: float | None = Field(None, description="The smallest value that is kept; null: any.")
    at_most: float | None = Field(None, description="The largest value that is kept; null: any.")
    quantile: bool = Field(
        False,
        description="true: the bounds are quantiles of the column over the training set, in "
        "[0, 1]; equal values stay or go together.",
    )

    @property
    def column(self) -> str:
        """The dataset column that `by` means."""
        return _COLUMN_OF.get(self.by, self.by)

    @model_validator(mode="after")
    def _bounds_leave_something_between(self) -> KeepConfig:
        if self.column in ("stage", STAGE):
            raise ValueError(
                "`by: stage` has names, no numbers; leave a stage out with 0 among "
                "`ual.curriculum.epochs`"
            )
        bounds = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        if not bounds:
            raise ValueError("`keep` needs `at_least`, `at_most`, or both")
        if not all(map(math.isfinite, bounds)) or bounds != sorted(bounds):
            raise ValueError(
                f"`at_least: {self.at_least}` and `at_most: {self.at_most}` must be finite, and "
                "the first not above the second"
            )
        if self.quantile and not all(0.0 <= bound <= 1.0 for bound in bounds):
            raise ValueError(f"with `quantile: true` bounds are in [0, 1], and {bounds} are not")
        return self
