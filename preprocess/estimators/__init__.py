"""Estimators: one a file, each behind the same protocol, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable

from axolotl_ual.config import AnnotateConfig

from .base import Estimator


def _judge(annotate: AnnotateConfig, base_model: str | None) -> Estimator:
    from .judge import build

    return build(annotate, base_model)


def _perplexity(annotate: AnnotateConfig, base_model: str | None) -> Estimator:
    from .perplexity import build

    return build(annotate, base_model)


ESTIMATORS: dict[str, Callable[[AnnotateConfig, str | None], Estimator]] = {
    "judge": _judge,
    "perplexity": _perplexity,
}
"""Builders by the name that `ual.annotate.estimator` gives; imports wait until one is chosen."""


def build_estimator(annotate: AnnotateConfig, base_model: str | None) -> Estimator:
    """Make the estimator that a recipe asks for.

    Args:
        annotate: the recipe's `ual.annotate`.
        base_model: the recipe's `base_model`: what a local estimator uses by default.
    """
    return ESTIMATORS[annotate.estimator](annotate, base_model)
