"""What an engine is: it brings rows to scorers, and the scores back in the order of the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..data.rows import Sample
from ..estimators.base import Estimation, Estimator, RowScores
from ..progress import Progress


class Engine(Protocol):
    """Works rows off."""

    def run(self, estimator: Estimator, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Score N rows.

        Args:
            estimator: whose scorers score them.
            samples: lazy.
            progress: advances by one for each row.

        Returns:
            The scores of all rows, in their order.

        Raises:
            UALError: as the scorers raise.
        """
        ...


def estimate(
    estimator: Estimator, samples: Sequence[Sample], progress: Progress, engine: Engine
) -> Estimation:
    """The uncertainty of N rows: what is missing is found first, what takes all rows comes last.

    Raises:
        UALError: as the estimator raises.
    """
    estimator.check()
    return estimator.finish(engine.run(estimator, samples, progress))
