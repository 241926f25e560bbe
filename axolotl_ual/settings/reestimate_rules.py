"""What contradicts `ual.reestimate` in a recipe, and what it asks for where nothing does.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, get_args

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.reestimate import ReestimateConfig
from axolotl_ual.settings.ual import UALConfig

_KEY: Final = "ual.reestimate"
_OWN: Final = tuple(
    name
    for part in get_args(ReestimateConfig.model_fields["estimator"].annotation)
    for name in get_args(part)
)
_STREAMS: Final = ("streaming", "pretraining_dataset")


@dataclass(frozen=True, slots=True)
class Estimate:
    """How smoothing is estimated in training.

    Attributes:
        estimator: perplexity or entropy.
        mapping: from scores to numbers in [0, 1].
    """

    estimator: str
    mapping: str

    def __str__(self) -> str:
        return f"{self.estimator}, mapped by {self.mapping}"


def estimate_of(ual: UALConfig) -> Estimate | None:
    """What a `ual:` block that `of_reestimation` accepts asks for; None: the data's smoothing."""
    config, annotate = ual.reestimate, ual.annotate
    if config is None:
        return None
    estimator = config.estimator or ("" if annotate is None else annotate.estimator)
    mapping = config.mapping
    if mapping is None and annotate is not None:
        mapping = getattr(annotate, estimator).mapping
    return Estimate(estimator, mapping or "rank")


def of_reestimation(recipe: Mapping[str, Any], ual: UALConfig) -> Iterator[UALError]:
    """Settings with which smoothing cannot be estimated in training.

    Context parallelism is refused beside its other rules.

    Args:
        recipe: the YAML as a mapping.
        ual: its `ual:` block.
    """
    if ual.reestimate is None:
        return
    out = "take `reestimate:` out"
    if recipe.get("rl"):
        yield ConfigError(
            f"{_KEY}: `rl: {recipe['rl']}` does not smooth the tokens of a sample, whose "
            "uncertainty is estimated",
            out,
        )
        return
    yield from _of_the_estimator(ual)
    if not ual.curriculum.active:
        yield ConfigError(
            f"{_KEY}: `ual.curriculum.mode: none` has no stages between which to estimate",
            f"set `ual.curriculum.mode` to phased or cumulative, or {out}",
        )
    if ual.smoothing.mean == 0.0:
        yield ConfigError(f"{_KEY}: `ual.smoothing.mean: 0` smooths no sample", out)
    if ual.smoothing.reference_top_k is not None:
        yield UnsupportedError(
            f"{_KEY}: `ual.smoothing.reference_top_k` keeps the reference of rows that are "
            "smoothed as prepared, and others may be later",
            f"take `reference_top_k` out, or {out}",
        )
    yield from _of_the_recipe(recipe, out)


def _of_the_estimator(ual: UALConfig) -> Iterator[UALError]:
    assert ual.reestimate is not None
    named, annotate = ual.reestimate.estimator, ual.annotate
    if annotate is None:
        if named is None:
            yield ConfigError(
                f"{_KEY}: the recipe has no `ual.annotate` that names an estimator",
                f"set `{_KEY}.estimator` to {' or '.join(_OWN)}",
            )
    elif annotate.estimator not in _OWN:
        yield UnsupportedError(
            f"{_KEY}: `ual.annotate.estimator: {annotate.estimator}` is not what a forward pass of "
            "the model in training gives, so later stages would be smoothed by another quantity",
            f"annotate with {' or '.join(_OWN)}, or take `reestimate:` out",
        )
    elif named not in (None, annotate.estimator):
        yield ConfigError(
            f"{_KEY}.estimator: {named}: `ual.annotate.estimator: {annotate.estimator}` is another",
            f"take `{_KEY}.estimator` out",
        )


def _of_the_recipe(recipe: Mapping[str, Any], out: str) -> Iterator[UALError]:
    for key in _STREAMS:
        if recipe.get(key):
            yield UnsupportedError(
                f"{_KEY}: the map to smoothing is solved over all rows, and streamed ones "
                f"(`{key}`) are not known",
                f"take `{key}` out, or {out}",
            )
    if recipe.get("processor_type"):
        yield UnsupportedError(
            f"{_KEY}: `processor_type: {recipe['processor_type']}` makes the tokens of rows with "
            "images a batch at a time, and rows are scored by theirs",
            out,
        )
