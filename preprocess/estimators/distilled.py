"""A judge for some rows, and a regression on embeddings for the others.

The judge rates k of N rows; a regression of its ratings on the embeddings of instruction and
response predicts the rest, so that a million rows cost what k cost:

    u_i = judge_i                        where row i was rated
    u_i = f(e(x_i), e(y_i), |x_i|, |y_i|)   elsewhere; f as `labels/regression.py` says

The k rows are those with the least seeded digest of their content: a simple random sample that no
order of the rows changes, most of which stays when rows are added. Predictions are expectations and
so lie closer together than ratings. How good they are is measured on folds that a fit has not seen,
said in the manifest and on the card, and the run stops where that is too little: f knows the texts
and not the facts, so it learns how open instructions are sooner than which responses are wrong.

Rival: embeddings of a model's hidden states (Kossen et al., "Semantic Entropy Probes", arXiv
2406.15927) ask for the model that is trained; sentence embeddings do not.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, Final

import numpy as np

from axolotl_ual.columns import PREFIX
from axolotl_ual.errors import BackendError, UALError
from axolotl_ual.settings.estimators import DistilledConfig

from ..calls.plan import Plan
from ..data.sample import Sample, Turn
from ..labels.regression import FOLDS, REGRESSORS, Fidelity, Predict, fidelity
from ..models.local.embedder import Embedder
from ..progress import Progress, Uncounted
from .base import Estimation, Estimator, RowScores, Values

SECTION: Final = "ual.annotate.distilled"
_JUDGE: Final = "judge"
_PREDICTED: Final = "predicted"
_RATED: Final = "rated"
_WINDOW: Final = 2048
"""Rows that are embedded at a time."""


@dataclass(frozen=True)
class Distilled:
    """A judge whose ratings are learned.

    Attributes:
        judge: rates some rows.
        config: the `distilled:` section.
    """

    judge: Estimator
    config: DistilledConfig

    def check(self) -> None:
        """Find what the judge is missing."""
        self.judge.check()

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """What the judge would do, and how many rows are predicted."""
        rows, _ = self.choose(samples)
        plan = self.judge.plan([samples[row] for row in rows])
        rest = len(samples) - len(rows)
        line = (
            f"of {len(samples):,} rows {len(rows):,} are judged; the other {rest:,} are predicted "
            f"by {self.config.regressor} on embeddings by {self.config.embedding.model}"
        )
        return replace(plan, lines=[line, *plan.lines])

    def choose(self, samples: Sequence[Sample]) -> tuple[list[int], list[bytes]]:
        """Rows that the judge rates, ascending, and the digest of the content of each."""
        key = f"{self.config.seed}".encode()
        digests = (
            (hashlib.blake2b(repr(sample.turns).encode("utf-8", "replace"), key=key).digest(), row)
            for row, sample in enumerate(samples)
        )
        chosen = sorted((row, digest) for digest, row in heapq.nsmallest(self.config.rows, digests))
        return [row for row, _ in chosen], [digest for _, digest in chosen]

    def scorer(self) -> DistilledScorer:
        """What judges, learns and predicts, with its embedding model loaded.

        Raises:
            UALError: as the judge raises, and where the embedding model cannot be loaded.
        """
        embedding = self.config.embedding
        embedder = Embedder.load(
            embedding.model, key=f"{SECTION}.embedding", device=embedding.device
        )
        return DistilledScorer(self, embedder)

    def finish(self, scores: RowScores) -> Estimation:
        """Ratings where there are any, predictions elsewhere."""
        rated, predicted = scores.values[_RATED], scores.values[_PREDICTED]
        judged = self.judge.finish(scores.members[_JUDGE])
        facts = {**judged.facts, **scores.facts}
        if judged.failures:
            facts["failures"] = dict(judged.failures)
        return Estimation(
            np.where(np.isnan(rated), predicted, rated).astype(np.float32),
            usage=scores.usage,
            facts=facts,
            columns={f"{PREFIX}judge": rated.astype(np.float32)},
        )


@dataclass(frozen=True)
class DistilledScorer:
    """Judges some rows and predicts the others. All rows have to come in one call.

    Attributes:
        settings: of the estimator.
        embedder: of instructions and responses.
    """

    settings: Distilled
    embedder: Embedder

    def score(self, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Judge, learn, say how well that went, and predict.

        Raises:
            UALError: predictions agree with the judge less than the recipe asks for.
            BackendError: the judge cannot be used, or rated too few rows to learn from.
        """
        config = self.settings.config
        rows, digests = self.settings.choose(samples)
        progress.say(f"judging {len(rows):,} of {len(samples):,} rows")
        chosen = [samples[row] for row in rows]
        judge = self.settings.judge
        scores = judge.scorer().score(chosen, Uncounted(progress))
        ratings = judge.finish(scores).uncertainty.astype(np.float64)
        rated = np.full(len(samples), np.nan)
        rated[rows] = ratings
        known = ~np.isnan(ratings)
        if known.sum() < 2 * FOLDS and not known.all():
            raise BackendError(
                f"the judge rated {known.sum():,} of {len(rows):,} rows: too few to learn from",
                "look at the outcomes above",
            )
        facts: dict[str, Any] = {
            "judged_rows": len(rows),
            "regressor": config.regressor,
            "embedding": config.embedding.model,
        }
        predicted = rated.copy()
        if np.isnan(rated).any():
            features = self._features(chosen)[known]
            _, groups = np.unique(np.array(digests)[known], return_inverse=True)
            found = fidelity(
                features, ratings[known], groups, REGRESSORS[config.regressor], config.seed
            )
            self._say(found, progress)
            predict = REGRESSORS[config.regressor](features, ratings[known])
            predicted = self._predict(samples, predict, progress)
            facts["out_of_fold"] = {
                "rank_correlation": round(found.rank_correlation, 4),
                "interval": [round(end, 4) for end in found.interval],
                "error": round(found.error, 4),
                "rows": found.rows,
            }
        else:
            progress.advance(len(samples))
        return RowScores(
            {_PREDICTED: predicted, _RATED: rated},
            usage=scores.usage,
            facts=facts,
            members={_JUDGE: scores},
        )

    def _say(self, found: Fidelity, progress: Progress) -> None:
        config = self.settings.config
        low, high = found.interval
        line = (
            f"{config.regressor} on embeddings against the judge, on rows it has not seen: rank "
            f"correlation {found.rank_correlation:.2f} [{low:.2f}, {high:.2f}], error "
            f"{found.error:.3f}"
        )
        progress.say(line)
        if not found.rank_correlation >= config.least_correlation:
            raise UALError(
                f"{SECTION}.least_correlation: {config.least_correlation:g}: {line}",
                "raise `rows`, try the other `regressor` or another `embedding`, or use "
                "`estimator: judge`; the answers that were had are in the cache",
            )

    def _predict(self, samples: Sequence[Sample], predict: Predict, progress: Progress) -> Values:
        predicted = np.empty(len(samples))
        for start in range(0, len(samples), _WINDOW):
            window = samples[start : start + _WINDOW]
            predicted[start : start + len(window)] = predict(self._features(window))
            progress.advance(len(window))
        return predicted

    def _features(self, samples: Sequence[Sample]) -> Values:
        """Embeddings and logarithms of the lengths of both sides: (N, 2 H + 2)."""
        sides = [(_text(s.turns, trained=False), _text(s.turns, trained=True)) for s in samples]
        distinct = sorted({text for both in sides for text in both})
        place = {text: row for row, text in enumerate(distinct)}
        vectors = self.embedder.embed(distinct)
        columns = [vectors[[place[both[side]] for both in sides]] for side in (0, 1)]
        lengths = np.log1p([[len(text) for text in both] for both in sides])
        return np.concatenate([*columns, lengths], axis=1)


def _text(turns: Sequence[Turn], *, trained: bool) -> str:
    """What the turns on one side of a sample say, message by message."""
    return "\n".join(_messages([turn for turn in turns if turn.trained == trained]))


def _messages(turns: Sequence[Turn]) -> Iterator[str]:
    number = 0
    numbers = []
    for turn in turns:
        number += not turn.continues
        numbers.append(number)
    for _, parts in groupby(zip(numbers, turns, strict=True), key=lambda pair: pair[0]):
        yield "".join(turn.text for _, turn in parts)
