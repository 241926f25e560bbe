"""The `ual:` block of a recipe: one pydantic model, the only home of defaults.

The CLI and the plugin both parse the block through `parse_ual`, so a wrong key is named the
same way, with the same hint, before anything is read, paid for or loaded.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.annotations import AnnotationsConfig
from axolotl_ual.settings.curriculum import CurriculumConfig
from axolotl_ual.settings.custom import CustomConfig
from axolotl_ual.settings.engine import EngineConfig
from axolotl_ual.settings.estimators import (
    DistilledConfig,
    DropoutConfig,
    EnsembleConfig,
    EntropyConfig,
    JudgeConfig,
    LocalModelConfig,
    PanelConfig,
    PerplexityConfig,
    PTrueConfig,
    SelfConsistencyConfig,
    Single,
)
from axolotl_ual.settings.evaluate import EvaluateConfig
from axolotl_ual.settings.images import Detail, Images, check_images
from axolotl_ual.settings.loss import LossConfig
from axolotl_ual.settings.pairs import PairsConfig
from axolotl_ual.settings.preference import PreferenceConfig
from axolotl_ual.settings.reestimate import ReestimateConfig
from axolotl_ual.settings.server import OPERATIONAL, Section, shaping

Estimator = Single | Literal["ensemble", "distilled"]
_NEEDS_SECTION = {
    "judge": "`judge: {model: gpt-4o}`",
    "panel": "`panel: {judges: [{model: gpt-4o}, {model: gpt-4.1}]}`",
    "self_consistency": "`self_consistency: {model: gpt-4o-mini}`",
    "ensemble": "`ensemble: {members: {judge: 1, perplexity: 1}}`",
    "custom": "`custom: {build: my_package.my_module:build}`",
}
"""Estimators whose section has no default, with an example."""
_WHOLE = ("ensemble", "distilled", "custom")
"""Estimators of whole rows."""


class AnnotateConfig(Section):
    """How `axolotl-ual annotate` gives each sample its uncertainty."""

    output: str = Field(min_length=1, description="Folder of the annotated copy.")
    estimator: Estimator = "judge"
    judge: JudgeConfig | None = Field(None, description="Needed by `estimator: judge`.")
    panel: PanelConfig | None = Field(None, description="Needed by `estimator: panel`.")
    perplexity: PerplexityConfig = Field(default_factory=PerplexityConfig)
    entropy: EntropyConfig = Field(default_factory=EntropyConfig)
    mc_dropout: DropoutConfig = Field(default_factory=DropoutConfig)
    p_true: PTrueConfig = Field(default_factory=PTrueConfig)
    self_consistency: SelfConsistencyConfig | None = Field(
        None, description="Needed by `estimator: self_consistency`."
    )
    ensemble: EnsembleConfig | None = Field(None, description="Needed by `estimator: ensemble`.")
    distilled: DistilledConfig = Field(default_factory=DistilledConfig)
    custom: CustomConfig | None = Field(None, description="Needed by `estimator: custom`.")
    cache: str | None = Field(
        None,
        description="Folder of the durable cache; null is the user's cache directory.",
        json_schema_extra=OPERATIONAL,
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig,
        description="Where rows are scored.",
        json_schema_extra=OPERATIONAL,
    )
    on_missing: Literal["mean", "drop", "error"] = Field(
        "mean", description="What becomes of a row whose uncertainty could not be had."
    )
    on_unreadable: Literal["error", "mean", "drop"] = Field(
        "error",
        description="What becomes of a row that cannot be read, an empty response for example: the "
        "run stops and names it, it keeps the mean smoothing, or it is left out.",
    )
    images: Images = Field(
        "error",
        description="What becomes of rows with images, in messages of `type: chat_template` or in "
        "a column `images` or `image` that a processor reads. error: such a row cannot be read. "
        "omit: its text alone is judged. send: judges are shown the images too, in their places.",
    )
    image_detail: Detail = Field(
        "auto", description="At which images that are sent are looked at, where a server heeds it."
    )
    trained: Literal["tell", "only", "ignore"] = Field(
        "tell",
        description="tell: say which rows training leaves out (validation set, beyond "
        "sequence_len, without a trained token), as far as Axolotl is installed. only: judge those "
        "that are trained, and take the mean over them. ignore: do not look.",
    )

    unit: Literal["row", "sentence"] = Field(
        "row",
        description="What gets an uncertainty. row: the response. sentence: each sentence of it, "
        "which is scored behind all that comes before it; a row has the mean, and its tokens are "
        "smoothed by the sentences that they are in.",
    )

    @property
    def about_rows(self) -> dict[str, str]:
        """What of rows is judged, where it is not the default: annotations made with it stay so."""
        chosen = {
            "on_unreadable": self.on_unreadable,
            "images": self.images,
            "image_detail": self.image_detail,
            "trained": self.trained,
            "unit": self.unit,
        }
        return {k: v for k, v in chosen.items() if v != type(self).model_fields[k].default}

    @model_validator(mode="after")
    def _sentences_can_be_scored(self) -> AnnotateConfig:
        if self.unit == "row":
            return self
        if self.estimator in _WHOLE:
            raise ValueError(
                f"`unit: sentence` goes with judges, `self_consistency` and what reads the "
                f"response (`perplexity`, `entropy`, `mc_dropout`, `p_true`), not with `estimator: "
                f"{self.estimator}`; set `unit: row`, or take another estimator"
            )
        sampled = self.self_consistency
        if self.estimator == "self_consistency" and sampled is not None and not sampled.anchor:
            raise ValueError(
                "`self_consistency.anchor: false` compares answers with each other and none with a "
                "sentence of the response, which `unit: sentence` is about; set `anchor: true`"
            )
        return self

    @property
    def estimators(self) -> list[str]:
        """Names of the estimators in use: the chosen one, and those that it uses."""
        if self.estimator == "distilled":
            return ["distilled", "judge"]
        members = list(self.ensemble.members) if self.ensemble is not None else []
        return [self.estimator, *(members if self.estimator == "ensemble" else [])]

    @model_validator(mode="after")
    def _estimators_have_their_sections(self) -> AnnotateConfig:
        for name in self.estimators:
            if getattr(self, name) is None:
                what = "section with at least a `model:`" if name == "judge" else "section"
                raise ValueError(
                    f"`estimator: {name}` needs a `{name}:` {what}, "
                    f"for example {_NEEDS_SECTION[name]}"
                )
        check_images(self.images, self.image_detail, self.estimators)
        if self.estimator == "distilled" and self.engine.kind == "ray":
            raise ValueError(
                "`estimator: distilled` chooses the rows that it judges among all of them, which a "
                "worker on Ray does not see; set `engine.kind` to local, or take another estimator"
            )
        return self


class SmoothingConfig(Section):
    """eps = min(a * u, max), with a solved so that the mean of eps is `mean`."""

    mean: float = Field(0.1, ge=0, lt=1, description="Mean label smoothing over the data.")
    max: float = Field(0.5, gt=0, lt=1, description="Largest label smoothing of a sample.")
    direction: Literal["increasing", "decreasing"] = Field(
        "increasing",
        description="increasing: uncertain samples get more smoothing. decreasing: ablations only.",
    )
    prior: Literal["uniform", "reference"] = Field(
        "uniform",
        description="Where the smoothed mass goes. uniform: to all tokens alike, as in the paper. "
        "reference: to what the model before tuning predicts.",
        json_schema_extra=OPERATIONAL,
    )
    reference: str | None = Field(
        None,
        min_length=1,
        description="Folder or Hub name of the model before tuning, for `prior: reference`; null: "
        "the model that trains, with its adapter switched off.",
        json_schema_extra=OPERATIONAL,
    )
    reference_temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Temperature of the reference's prediction.",
        json_schema_extra=OPERATIONAL,
    )
    reference_top_k: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Compute the reference's prediction once, before training, and keep this many "
        "of its most likely tokens with the prepared data; null: compute it in each step.",
        json_schema_extra=OPERATIONAL,
    )

    @model_validator(mode="after")
    def _the_reference_is_used(self) -> SmoothingConfig:
        if self.prior == "uniform":
            for name in ("reference", "reference_temperature", "reference_top_k"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(
                        f"`{name}: {getattr(self, name)}` is of no use to `prior: uniform`; set "
                        "`prior: reference`, or take it out"
                    )
        return self

    @model_validator(mode="after")
    def _mean_is_below_max(self) -> SmoothingConfig:
        if self.mean > self.max:
            raise ValueError(
                f"`mean: {self.mean:g}` is above `max: {self.max:g}`: no sample may be smoothed by "
                "more than max, so the mean cannot reach it. The paper uses 0.1"
            )
        return self


class StagesConfig(Section):
    """Where the certain end and the uncertain begin."""

    thresholds: tuple[float, float] | None = Field(
        None,
        description="Two ascending uncertainties in [0, 1] that part the stages; null: tertiles.",
    )

    @model_validator(mode="after")
    def _thresholds_ascend(self) -> StagesConfig:
        if self.thresholds is not None:
            low, high = self.thresholds
            if not 0.0 <= low <= high <= 1.0:
                raise ValueError(
                    f"`thresholds: [{low:g}, {high:g}]` must be two ascending numbers in [0, 1]"
                )
        return self


class UALConfig(Section):
    """The whole `ual:` block."""

    annotate: AnnotateConfig | None = Field(
        None, description="Not needed where the dataset already has the columns."
    )
    annotations: AnnotationsConfig | None = Field(
        None,
        description="Annotations of others, by their folder or name on the Hub: joined to the "
        "datasets by the content of their rows, in the place of `annotate`.",
    )
    smoothing: SmoothingConfig = Field(default_factory=SmoothingConfig)
    stages: StagesConfig = Field(default_factory=StagesConfig)
    loss: LossConfig = Field(default_factory=LossConfig)
    curriculum: CurriculumConfig = Field(default_factory=CurriculumConfig)
    reestimate: ReestimateConfig | None = Field(
        None, description="Estimate smoothing again while a curriculum trains."
    )
    preference: PreferenceConfig = Field(default_factory=PreferenceConfig)
    pairs: PairsConfig | None = Field(None, description="Preference pairs from sampled responses.")
    evaluate: EvaluateConfig = Field(
        default_factory=EvaluateConfig, description="For `axolotl-ual evaluate` and `ablate`."
    )

    @field_validator("annotations", mode="before")
    @classmethod
    def _a_name_is_enough(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _annotations_come_from_one_place(self) -> UALConfig:
        for other in ("annotate", "pairs"):
            if self.annotations is not None and getattr(self, other) is not None:
                raise ValueError(
                    f"`annotations: {self.annotations.name}` brings what `{other}:` would make; "
                    "take one of them out"
                )
        return self

    @model_validator(mode="after")
    def _an_anchor_has_one_reference(self) -> UALConfig:
        anchor, smoothing = self.loss.anchor, self.smoothing
        if anchor is None or smoothing.prior == "uniform":
            return self
        for key in ("reference", "reference_top_k"):
            value = getattr(smoothing, key)
            if key == "reference_top_k" and value is not None:
                raise ValueError(
                    f"`smoothing.reference_top_k: {value}` keeps the reference for smoothed tokens "
                    "alone, and `loss.anchor` needs it for all; take one of them out"
                )
            if key == "reference" and anchor.reference not in (None, value):
                raise ValueError(
                    f"`loss.anchor.reference: {anchor.reference}` is another model than "
                    f"`smoothing.reference: {value}`; name one reference for both"
                )
        return self

    @model_validator(mode="after")
    def _betas_match_the_stages(self) -> UALConfig:
        beta, order = self.preference.beta, self.curriculum.order
        if beta is None:
            return self
        if not self.curriculum.active:
            raise ValueError(
                f"`preference.beta: {beta}` is one for each stage, and `curriculum.mode: none` has "
                "none; set rl_beta, or a curriculum"
            )
        if len(beta) != len(order):
            raise ValueError(
                f"`preference.beta: {beta}` has {len(beta)} values for the {len(order)} stages of "
                f"`curriculum.order: {order}`"
            )
        return self

    def result_settings(self, base_model: str | None) -> dict[str, Any]:
        """The settings that shape the annotations, as plain JSON values.

        Keys that only change how a run proceeds (addresses, concurrency, cache folder) are left
        out, and so are the sections of estimators that are not in use, so that two recipes with
        equal settings give equal annotations.

        Args:
            base_model: the recipe's `base_model`, which a local estimator uses by default.
        """
        if self.annotate is None:
            return {}
        sections = {}
        for name in self.annotate.estimators:
            sections[name] = shaping(getattr(self.annotate, name))
            if isinstance(getattr(self.annotate, name), LocalModelConfig):
                sections[name]["model"] = sections[name]["model"] or base_model
        return {
            "estimator": self.annotate.estimator,
            **sections,
            "on_missing": self.annotate.on_missing,
            **self.annotate.about_rows,
            "smoothing": shaping(self.smoothing),
            "stages": shaping(self.stages),
        }


class UALArgs(BaseModel):
    """What the plugin adds to Axolotl's config schema."""

    ual: UALConfig | None = None
    ual_recipe: dict[str, Any] | None = Field(
        None, description="Set by the plugin: what the recipe says of its data, as it spells it."
    )


def parse_ual(raw: Any, where: str = "ual") -> UALConfig:
    """Validate a `ual:` block.

    Args:
        raw: the block as YAML gives it: a mapping, or None for an absent block.
        where: what error messages call the block, for example the file and `ual`.

    Raises:
        ConfigError: naming every wrong key, its value, and the nearest known key.
    """
    if raw is None:
        raw = {}
    if not isinstance(raw, Mapping):
        raise ConfigError(f"{where}: must be a mapping, not {type(raw).__name__} {raw!r}")
    try:
        return UALConfig.model_validate(_plain(raw))
    except ValidationError as error:
        lines = [_explain(details, where) for details in error.errors()]
        raise ConfigError("\n  ".join(lines)) from None


def _plain(value: Any) -> Any:
    """Copy Axolotl's DictDefault (which answers None for any key) into plain containers."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def _explain(details: ErrorDetails, where: str) -> str:
    key = ".".join([where, *(str(part) for part in details["loc"])])
    value = details.get("input")
    if details["type"] == "extra_forbidden":
        name = str(details["loc"][-1])
        fields = _section_at(details["loc"][:-1]).model_fields
        known = [field.alias or key for key, field in fields.items()]
        nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"known keys: {', '.join(known)}"
        return f"{key}: unknown key; {hint}"
    if details["type"] == "missing":
        return f"{key}: this key is needed"
    message = details["msg"].removeprefix("Value error, ")
    shown = "" if isinstance(value, Mapping) else f" (value: {value!r})"
    return f"{key}: {message}{shown}"


def _section_at(location: tuple[int | str, ...]) -> type[BaseModel]:
    """The section model that a pydantic error location points into."""
    section: type[BaseModel] = UALConfig
    for part in location:
        if isinstance(part, str) and part in section.model_fields:
            section = next(_sections_in(section.model_fields[part].annotation))
    return section


def _sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The section models that an annotation names, in lists and unions as well."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _sections_in(part)
