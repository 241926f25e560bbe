"""What an estimator is: samples in, one uncertainty (or a reason for none) out for each.

It has two halves. A `RowScorer` finds what each row alone decides (a rating, a likelihood) and may
run anywhere, on any part of the rows; `finish` decides what takes all rows together (a rank, a
statistic, whether anything was scored at all). An engine (`engines/`) brings the rows to the
scorers and the scores back, in the order of the rows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.errors import BackendError

from ..calls.budget import total_usage
from ..calls.outcomes import Outcome
from ..calls.plan import Plan
from ..data.rows import Sample
from ..progress import Progress

FloatArray = npt.NDArray[np.float32]
Values = npt.NDArray[np.float64]


@dataclass(slots=True)
class RowScores:
    """What N rows alone decide.

    Attributes:
        values: float64 of shape (N,) by name; NaN where there is none.
        failures: rows without a score, by reason.
        counts: further numbers that add up over rows: samples that were shortened, tokens, ...
        usage: requests, tokens and cost.
        facts: for the manifest; the same whatever the rows.
        example: an answer that gave no score, to show where nothing did.
        members: the same of each part that this is made of, by name.
        seen: what was noticed on the way, by name, for the manifest; each once.
    """

    values: dict[str, Values] = field(default_factory=dict)
    failures: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    usage: ManifestUsage = field(default_factory=ManifestUsage)
    facts: dict[str, Any] = field(default_factory=dict)
    example: str = ""
    members: dict[str, RowScores] = field(default_factory=dict)
    seen: dict[str, list[str]] = field(default_factory=dict)


def join_scores(parts: Sequence[RowScores]) -> RowScores:
    """The scores of parts of the rows as those of all, in the order of the parts.

    Args:
        parts: at least one, all of one estimator.

    Raises:
        BackendError: the parts were not scored in the same way, so they are on no common scale.
    """
    first = parts[0]
    for part in parts[1:]:
        if part.facts != first.facts:
            raise BackendError(
                f"rows were scored in different ways: {first.facts} and {part.facts}",
                "run the command again: answers that were had are in the cache",
            )
    return RowScores(
        values={name: np.concatenate([p.values[name] for p in parts]) for name in first.values},
        failures=_added(part.failures for part in parts),
        counts=_added(part.counts for part in parts),
        usage=total_usage([part.usage for part in parts]),
        facts=first.facts,
        example=next((part.example for part in parts if part.example), ""),
        members={
            name: join_scores([part.members[name] for part in parts]) for name in first.members
        },
        seen={
            name: list(dict.fromkeys(line for part in parts for line in part.seen.get(name, [])))
            for name in sorted({name for part in parts for name in part.seen})
        },
    )


def row_without_scores(like: RowScores) -> RowScores:
    """The scores of one row that none could be had for.

    Args:
        like: of other rows, by the same estimator.
    """
    return RowScores(
        values={name: np.full(1, np.nan) for name in like.values},
        failures=Counter({Outcome.FAILED.value: 1}),
        counts=Counter(dict.fromkeys(like.counts, 0)),
        facts=like.facts,
        members={name: row_without_scores(member) for name, member in like.members.items()},
    )


def _added(parts: Iterable[Counter[str]]) -> Counter[str]:
    # `+` of counters would lose what was counted as 0.
    added: Counter[str] = Counter()
    for part in parts:
        added.update(part)
    return added


@dataclass(slots=True)
class Estimation:
    """What an estimator found out about N samples.

    Attributes:
        uncertainty: float32 of shape (N,), in [0, 1]; NaN where none could be had.
        failures: number of samples without an uncertainty, by reason.
        usage: requests, tokens and cost.
        facts: for the manifest: model, rubric version and hash, ...
        columns: further float32 columns of shape (N,) by name; NaN becomes null.
    """

    uncertainty: FloatArray
    failures: Mapping[str, int] = field(default_factory=dict)
    usage: ManifestUsage = field(default_factory=ManifestUsage)
    facts: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, FloatArray] = field(default_factory=dict)


class RowScorer(Protocol):
    """Scores rows. Holds what is loaded or connected once for many calls."""

    def score(self, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Score some rows.

        Args:
            samples: N of them; lazy: each access may read and convert a row.
            progress: advances by one for each.

        Raises:
            BackendError: the server or the model cannot be used at all.
            LimitError: as much as may be spent was spent.
        """
        ...


class Estimator(Protocol):
    """Uncertainty of samples."""

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        ...

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell what estimating would do. Sends nothing and loads no model."""
        ...

    def scorer(self) -> RowScorer:
        """What scores rows, with its model loaded.

        Raises:
            BackendError: the model cannot be loaded.
            ConfigError: the device does not exist.
            UALError: a library that is needed is not installed.
        """
        ...

    def finish(self, scores: RowScores) -> Estimation:
        """Decide what takes all rows.

        Raises:
            BackendError: nothing at all was scored.
        """
        ...
