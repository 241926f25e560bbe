"""All dimensions of a recipe together: made by name, and their scores side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.settings.pairs import PairsConfig

from ..calls.ask import Session
from ..calls.budget import total_usage
from . import claims, principles, value_model
from .base import Dimension, FloatArray, Show, Usable
from .custom import build as build_custom
from .entailment import Entailment
from .factual import FactualByConsistency
from .semantic import SemanticDimension


@dataclass(slots=True)
class Scores:
    """What is known about N responses.

    Attributes:
        dimensions: name -> float64 of shape (N,), NaN where there is none.
        columns: further float64 columns of shape (N,).
        failures: usable responses without a score, by "dimension: reason".
        usage: of all dimensions.
        facts: for the manifest, by dimension.
    """

    dimensions: dict[str, FloatArray] = field(default_factory=dict)
    columns: dict[str, FloatArray] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    usage: ManifestUsage = field(default_factory=ManifestUsage)
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Making:
    """What dimensions are made from."""

    pairs: PairsConfig
    session: Session
    entailment: Entailment

    @property
    def judged(self) -> dict[str, Any]:
        """For those that ask the judge."""
        keep = self.pairs.sampling.truncated == "keep"
        return {"config": self.pairs.judge, "session": self.session, "keep_truncated": keep}


DIMENSIONS: Final[dict[tuple[str, str], Callable[[_Making], Dimension]]] = {
    ("semantic", "nli"): lambda m: SemanticDimension(m.pairs.semantic, m.entailment, m.session),
    ("semantic", "embedding"): lambda m: SemanticDimension(
        m.pairs.semantic, m.entailment, m.session
    ),
    ("factual", "consistency"): lambda m: FactualByConsistency(m.entailment, m.session),
    ("factual", "judge"): lambda m: claims.build(**m.judged),
    ("value", "judge"): lambda m: principles.build(value=m.pairs.value, **m.judged),
    ("value", "classifier"): lambda m: value_model.build(m.pairs.value.classifier, m.session),
}
"""By the name of the dimension and of its method."""


def build_dimensions(pairs: PairsConfig, session: Session) -> list[Dimension]:
    """The dimensions that a recipe switches on, in the order of its total.

    Args:
        pairs: the recipe's `ual.pairs`.
        session: of the command.

    Raises:
        ConfigError: what is named in `ual.pairs.custom` is no dimension.
    """
    making = _Making(pairs, session, Entailment(pairs))
    own = [DIMENSIONS[named](making) for named in pairs.methods.items()]
    return [*own, *(build_custom(name, pairs, session) for name in pairs.custom)]


def score_responses(
    dimensions: Sequence[Dimension], usable: Usable, show: Show, repeat: int = 0
) -> Scores:
    """Score every usable response in every dimension.

    Args:
        dimensions: each of another name.
        usable: the responses.
        show: opens a progress display.
        repeat: number of an intended repeat.

    Raises:
        BackendError: a judge or a model cannot be used at all.
        ConfigError: a model does not fit its section.
        LimitError: as much as may be spent was spent.
    """
    scores = Scores()
    usages = []
    for dimension in dimensions:
        found = dimension.score(usable, repeat, show)
        scores.dimensions[dimension.name] = found.uncertainty
        scores.columns.update(found.columns)
        scores.failures.update(
            {f"{dimension.name}: {reason}": count for reason, count in found.failures.items()}
        )
        usages.append(found.usage)
        scores.facts[dimension.name] = {"method": "custom", **found.facts}
    scores.usage = total_usage(usages)
    return scores
