"""All rows in this process, by one scorer."""

from __future__ import annotations

from collections.abc import Sequence

from ..data.rows import Sample
from ..estimators.base import Estimator, RowScores
from ..progress import Progress


class LocalEngine:
    """Works rows off here."""

    def run(self, estimator: Estimator, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Score N rows.

        Raises:
            UALError: as the scorer raises.
        """
        return estimator.scorer().score(samples, progress)
