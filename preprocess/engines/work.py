"""What workers do with the rows of a block, each built on its node from the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session
from ..data.sample import Sample
from ..estimators import build_estimator
from ..estimators.base import RowScores
from ..progress import Progress


class Work(Protocol):
    """Does rows, whichever they are."""

    def do(self, rows: Sequence[Any], progress: Progress) -> Any:
        """Do some rows.

        Args:
            rows: a block of them.
            progress: advances by one for each.

        Raises:
            UALError: none can be done.
        """
        ...


class Scoring:
    """Scores the rows of `annotate`.

    Args:
        settings: the recipe's `ual.annotate`.
        base_model: the recipe's.
        session: of the worker.

    Raises:
        UALError: what is missing here, a key or a model.
    """

    def __init__(self, settings: AnnotateConfig, base_model: str | None, session: Session) -> None:
        estimator = build_estimator(settings, base_model, session)
        estimator.check()
        self._scorer = estimator.scorer()

    def do(self, rows: Sequence[Sample], progress: Progress) -> RowScores:
        """Score some rows."""
        return self._scorer.score(rows, progress)
