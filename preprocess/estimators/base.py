"""What an estimator is: samples in, one uncertainty (or a reason for none) out for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import ManifestUsage

from ..calls.prices import Purse
from ..data.rows import Sample
from ..progress import Progress

FloatArray = npt.NDArray[np.float32]


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
    failures: dict[str, int] = field(default_factory=dict)
    usage: ManifestUsage = field(default_factory=ManifestUsage)
    facts: dict[str, Any] = field(default_factory=dict)
    columns: dict[str, FloatArray] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Plan:
    """What an estimator would do: the answer to --dry-run.

    Attributes:
        lines: sentences for the user.
        requests: requests that would be sent, with what the cache holds taken off.
        cost_usd: what is likely; None where no price is known, 0 where nothing is paid.
        most_usd: if every answer fills max_tokens; likewise.
    """

    lines: list[str]
    requests: int = 0
    cost_usd: float | None = 0.0
    most_usd: float | None = 0.0


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What the command line adds to a recipe.

    Attributes:
        purse: what may be spent, by all that ask in this run together.
        retry_failed: ask again where an earlier answer was kept that gave no score.
        unscored: JSON Lines file for the answers that gave no score, or None.
    """

    purse: Purse = field(default_factory=Purse)
    retry_failed: bool = False
    unscored: Path | None = None


class Estimator(Protocol):
    """Uncertainty of samples. `samples` is lazy: each access may read and convert a row."""

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell what `estimate` would do. Sends nothing and loads no model."""
        ...

    def estimate(self, samples: Sequence[Sample], progress: Progress) -> Estimation:
        """Estimate every sample.

        Raises:
            BackendError: the server or the model cannot be used at all.
        """
        ...


@runtime_checkable
class Paying(Protocol):
    """What asks servers: an estimator, a sampler, a judge."""

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        ...
