"""What a dimension is: sampled responses in, one uncertainty (or a reason for none) out for each.

A dimension scores each response alone, or against the other responses to its prompt. The second
kind takes those as evidence, so that fresh evidence gives it another score: `consistency` draws it
anew for those, and asks the others again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import ManifestUsage

from ..calls.plan import Plan
from ..data.responses import ResponseSet
from ..progress import Progress
from ..sampling.base import Unsampled

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

Show = Callable[[str, int], AbstractContextManager[Progress]]
"""Opens a progress display: what is done, and of how many items."""


@dataclass(frozen=True, slots=True)
class Group:
    """The usable responses to one prompt, n of them.

    Attributes:
        question: what entailment is conditioned on.
        texts: the responses, none empty.
        mean_logprobs: mean token log-probability of each, NaN where it is not known.
    """

    question: str
    texts: tuple[str, ...]
    mean_logprobs: tuple[float, ...]


class Usable:
    """The responses that can be scored, among N responses to P prompts.

    Args:
        data: all of them.
        keep_truncated: whether responses that were cut off count.

    Attributes:
        data: all of them.
        places: the prompts that have any, each with the places of these among the N.
        rows: all places, int64.
    """

    def __init__(self, data: ResponseSet, keep_truncated: bool) -> None:
        usable = data.usable(keep_truncated)
        self.data = data
        self.rows = np.flatnonzero(usable)
        prompts, starts = np.unique(data.prompt_of()[self.rows], return_index=True)
        self.places: list[tuple[int, IntArray]] = [
            (int(prompt), rows)
            for prompt, rows in zip(prompts, np.split(self.rows, starts)[1:], strict=True)
        ]

    def groups(self) -> list[Group]:
        """The usable responses, prompt by prompt."""
        flat = self.data.flat()
        groups = []
        for prompt, rows in self.places:
            chosen = [flat[row] for row in rows]
            groups.append(
                Group(
                    self.data.prompts[prompt].question,
                    tuple(response.text for response in chosen),
                    tuple(math.nan if r.logprob_mean is None else r.logprob_mean for r in chosen),
                )
            )
        return groups

    def none(self) -> FloatArray:
        """NaN for each of the N responses."""
        return np.full(sum(len(group) for group in self.data.responses), np.nan)


@dataclass(slots=True)
class DimensionScores:
    """What a dimension found out about N responses.

    Attributes:
        uncertainty: float64 of shape (N,), in [0, 1]; NaN where there is none.
        failures: number of usable responses without one, by reason.
        columns: further float64 columns of shape (N,) by name; NaN becomes null.
        usage: requests, tokens and cost.
        facts: for the manifest: method, model, ...
    """

    uncertainty: FloatArray
    failures: Counter[str] = field(default_factory=Counter)
    columns: dict[str, FloatArray] = field(default_factory=dict)
    usage: ManifestUsage = field(default_factory=ManifestUsage)
    facts: dict[str, Any] = field(default_factory=dict)


class Dimension(Protocol):
    """One dimension of the uncertainty of responses, by one method."""

    @property
    def name(self) -> str:
        """The recipe's; the column is `ual_NAME`."""
        ...

    @property
    def compares_evidence(self) -> bool:
        """Whether a response is scored against the other responses to its prompt."""
        ...

    def check(self) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        ...

    def plan(self, data: ResponseSet, unsampled: Unsampled | None, scorings: int) -> Plan:
        """Tell what scoring would do. Sends nothing and loads no model.

        Args:
            data: responses that are there.
            unsampled: those that are not, or None.
            scorings: times that everything is scored.
        """
        ...

    def score(self, usable: Usable, repeat: int, show: Show) -> DimensionScores:
        """Score responses.

        Args:
            usable: the responses; all others get NaN.
            repeat: number of an intended repeat, from 0: what is random is drawn anew.
            show: opens a progress display.

        Raises:
            BackendError: a judge or a model cannot be used at all.
            ConfigError: a model does not fit its section.
            LimitError: as much as may be spent was spent.
        """
        ...
