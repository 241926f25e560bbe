"""Estimators: one a file, each behind the same protocol, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable

from axolotl_ual.config import AnnotateConfig

from .base import Estimator, RunOptions

Build = Callable[[AnnotateConfig, "str | None", RunOptions], Estimator]


def _judge(annotate: AnnotateConfig, base_model: str | None, options: RunOptions) -> Estimator:
    from .judge import build

    return build(annotate, base_model, options)


def _perplexity(annotate: AnnotateConfig, base_model: str | None, options: RunOptions) -> Estimator:
    from .perplexity import build

    return build(annotate, base_model)


ESTIMATORS: dict[str, Build] = {
    "judge": _judge,
    "panel": _judge,
    "perplexity": _perplexity,
}
"""Builders by the name that `ual.annotate.estimator` gives; imports wait until one is chosen."""


def build_estimator(
    annotate: AnnotateConfig, base_model: str | None, options: RunOptions | None = None
) -> Estimator:
    """Make the estimator that a recipe asks for.

    Args:
        annotate: the recipe's `ual.annotate`.
        base_model: the recipe's `base_model`: what a local estimator uses by default.
        options: of the command line.
    """
    return ESTIMATORS[annotate.estimator](annotate, base_model, options or RunOptions())
