"""Estimators: one a file, each behind the same protocol, and the table of their names."""

from __future__ import annotations

from collections.abc import Callable

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session
from .base import Estimator

Build = Callable[[AnnotateConfig, "str | None", Session], Estimator]


def _judge(annotate: AnnotateConfig, base_model: str | None, session: Session) -> Estimator:
    from .judge import build

    return build(annotate, session)


def _perplexity(annotate: AnnotateConfig, base_model: str | None, session: Session) -> Estimator:
    from .likelihood import build_perplexity

    return build_perplexity(annotate, base_model)


def _entropy(annotate: AnnotateConfig, base_model: str | None, session: Session) -> Estimator:
    from .likelihood import build_entropy

    return build_entropy(annotate, base_model)


def _mc_dropout(annotate: AnnotateConfig, base_model: str | None, session: Session) -> Estimator:
    from .mc_dropout import build

    return build(annotate, base_model)


def _p_true(annotate: AnnotateConfig, base_model: str | None, session: Session) -> Estimator:
    from .p_true import build

    return build(annotate, base_model)


def _self_consistency(
    annotate: AnnotateConfig, base_model: str | None, session: Session
) -> Estimator:
    from .self_consistency import build

    return build(annotate, session)


def _distilled(annotate: AnnotateConfig, base_model: str | None, session: Session) -> Estimator:
    from .distilled import Distilled

    return Distilled(_judge(annotate, base_model, session), annotate.distilled)


def _ensemble(annotate: AnnotateConfig, base_model: str | None, session: Session) -> Estimator:
    from .ensemble import Ensemble

    if annotate.ensemble is None:
        raise ConfigError("ual.annotate.ensemble: `estimator: ensemble` needs this section")
    members: dict[str, Estimator] = {}
    weights = {str(name): weight for name, weight in annotate.ensemble.members.items()}
    for name in annotate.ensemble.members:
        alone = annotate.model_copy(update={"estimator": name})
        members[name] = ESTIMATORS[name](alone, base_model, session)
    return Ensemble(members, weights, annotate.ensemble.mix)


def _custom(annotate: AnnotateConfig, base_model: str | None, session: Session) -> Estimator:
    from .custom import build

    return build(annotate, base_model, session)


ESTIMATORS: dict[str, Build] = {
    "custom": _custom,
    "distilled": _distilled,
    "ensemble": _ensemble,
    "entropy": _entropy,
    "judge": _judge,
    "mc_dropout": _mc_dropout,
    "p_true": _p_true,
    "panel": _judge,
    "perplexity": _perplexity,
    "self_consistency": _self_consistency,
}
"""Builders by the name that `ual.annotate.estimator` gives; imports wait until one is chosen."""


def build_estimator(
    annotate: AnnotateConfig, base_model: str | None, session: Session
) -> Estimator:
    """Make the estimator that a recipe asks for.

    Args:
        annotate: the recipe's `ual.annotate`.
        base_model: the recipe's `base_model`: what a local estimator uses by default.
        session: of the command.
    """
    return ESTIMATORS[annotate.estimator](annotate, base_model, session)
