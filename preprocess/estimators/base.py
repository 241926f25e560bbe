"""What an estimator is: samples in, one uncertainty (or a reason for none) out for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import ManifestUsage

from ..calls.plan import Plan
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
