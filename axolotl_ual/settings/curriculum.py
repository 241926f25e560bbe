"""The `curriculum:` section of `ual:`."""

from __future__ import annotations

import math
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from axolotl_ual.columns import GAP, STAGE, STAGES, UNCERTAINTY
from axolotl_ual.settings.keep import KeepConfig

Value = TypeVar("Value")

_COLUMN_OF = {"stage": STAGE, "uncertainty": UNCERTAINTY, "gap": GAP}


class CurriculumConfig(BaseModel):
    """In which order training takes the stages."""

    model_config = ConfigDict(extra="forbid", validate_default=True)

    mode: Literal["none", "phased", "cumulative"] = Field(
        "none",
        description="phased: all epochs of a stage before the next. cumulative: each stage adds "
        "its rows to the earlier ones. none: Axolotl's own order.",
    )
    by: str = Field(
        "stage",
        min_length=1,
        description="What parts the rows: stage (the annotated stages), uncertainty, gap, or any "
        "column. A column of names holds stages; one of numbers is cut into equal parts.",
    )
    direction: Literal["ascending", "descending"] | None = Field(
        None,
        description="For numbers: which end comes first. null: ascending, for the gap descending.",
    )
    order: list[str] = Field(
        default=list(STAGES),
        min_length=1,
        description="Stages as they are trained. For numbers: how many parts, and their names.",
    )
    epochs: int | list[int] | None = Field(
        None, description="For all stages, or one for each of `order`; null: num_epochs."
    )
    learning_rate_scale: float | list[float] = Field(
        1.0, description="Factor on the scheduled learning rate, for all stages or for each."
    )
    shuffle: bool = Field(
        True,
        description="Shuffle inside a stage, by the run's seed and anew in each epoch. false: by "
        "the numbers of `by`, or as the dataset has them.",
    )
    keep: KeepConfig | None = Field(
        None, description="Train on a part of the rows only; with `mode: none` as well."
    )
    refresh_reference: bool = Field(
        False,
        description="For `rl: dpo` and `rl: ipo`: the reference of each stage but the first is the "
        "model as the stage before it left it. Validation keeps the first one.",
    )
    evaluate_at_boundary: bool = Field(
        False,
        description="Evaluate before the first stage and after each, and write the transitions.",
    )
    save_at_boundary: bool = Field(False, description="Save a checkpoint after each stage.")

    @property
    def active(self) -> bool:
        """Whether stages order the training at all."""
        return self.mode != "none"

    @property
    def column(self) -> str:
        """The dataset column that `by` means."""
        return _COLUMN_OF.get(self.by, self.by)

    @property
    def descending(self) -> bool:
        """Whether large numbers come first."""
        if self.direction is None:
            return self.column == GAP
        return self.direction == "descending"

    def stage_epochs(self, num_epochs: int) -> list[int]:
        """Epochs of each stage of `order`, `num_epochs` where the section names none."""
        return _of_each_stage(num_epochs if self.epochs is None else self.epochs, self.order)

    def stage_scales(self) -> list[float]:
        """Learning rate factor of each stage of `order`."""
        return _of_each_stage(self.learning_rate_scale, self.order)

    @field_validator("epochs", mode="before")
    @classmethod
    def _epochs_are_whole(cls, value: Any) -> Any:
        values = value if isinstance(value, list) else [value]
        if value is not None and not all(is_number(v) and v >= 0 and v % 1 == 0 for v in values):
            raise ValueError("must be a whole number, 0 or more, or a list of them")
        return value

    @field_validator("learning_rate_scale", mode="before")
    @classmethod
    def _scales_are_positive(cls, value: Any) -> Any:
        if not all(is_number(v) and v > 0 for v in (value if isinstance(value, list) else [value])):
            raise ValueError("must be a number above 0, or a list of them")
        return value

    @model_validator(mode="after")
    def _lists_match_the_order(self) -> CurriculumConfig:
        if len(set(self.order)) != len(self.order):
            raise ValueError(f"`order: {self.order}` names a stage twice")
        for key in ("epochs", "learning_rate_scale"):
            value = getattr(self, key)
            if isinstance(value, list) and len(value) != len(self.order):
                raise ValueError(
                    f"`{key}: {value}` has {len(value)} values for the {len(self.order)} stages "
                    f"of `order: {self.order}`; give one number, or one for each stage"
                )
        if self.epochs is not None and not any(self.stage_epochs(0)):
            raise ValueError(f"`epochs: {self.epochs}` trains on nothing")
        return self

    @model_validator(mode="after")
    def _nothing_is_set_in_vain(self) -> CurriculumConfig:
        fields = type(self).model_fields
        others = [
            key
            for key, field in fields.items()
            if key != "keep" and getattr(self, key) != field.get_default(call_default_factory=True)
        ]
        if not self.active and others:
            raise ValueError(
                f"`{others[0]}` has no effect with `mode: none`; set `mode: phased` or "
                "`mode: cumulative`, or take it out"
            )
        if self.column == STAGE and self.direction is not None:
            raise ValueError("`direction` is for numbers; stages are taken as `order` names them")
        return self


def is_number(value: Any) -> bool:
    """Whether a YAML value is a finite number, and no boolean."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _of_each_stage(value: Value | list[Value], order: list[str]) -> list[Value]:
    return value if isinstance(value, list) else [value] * len(order)
