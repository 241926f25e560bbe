"""Several estimators mixed into one.

    u_i = sum_m w_m v_im / sum_m w_m        over the members m that have a value for row i

with v_im the uncertainty of member m (`mix: value`) or its rank over all rows mapped to [0, 1]
(`mix: rank`, `axolotl_ual.labels.ranks`), which makes members comparable whose uncertainties are
spread differently. A row is missing only where no member has a value.

    u_i = prod_m v_im ^ (M w_m / sum_m w_m)     over all M members (`mix: product`)

is the plain product where weights are equal. With `perplexity` under `mapping: ratio` (the mean
negative log-likelihood up to a factor, which the map to smoothing does not see) and with
`self_consistency` (1 less the mean similarity of the row's own response to sampled ones) it is
CoCoA, Vashurin et al., "Uncertainty Quantification for LLMs through Minimum Bayes Risk" (arXiv
2502.04964): a response is uncertain where it is both unlikely and unlike what the model says
otherwise. A row is missing where any member has no value: a product of the others is another
quantity.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np

from axolotl_ual.columns import PREFIX
from axolotl_ual.labels.ranks import rank

from ..calls.budget import total_usage
from ..calls.plan import Plan, joined
from ..data.sample import Sample
from ..progress import Progress, Uncounted
from .base import Estimation, Estimator, FloatArray, RowScores

NO_MEMBER: Final = "no member has a value"
A_MEMBER: Final = "a member has no value"


@dataclass(frozen=True)
class Ensemble:
    """Several estimators as one.

    Attributes:
        members: estimators by name.
        weights: of the members, above 0.
        mix: "rank", "value" or "product".
    """

    members: Mapping[str, Estimator]
    weights: Mapping[str, float]
    mix: str

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """What all members would do."""
        plans = {name: member.plan(samples) for name, member in self.members.items()}
        return joined(
            replace(plan, lines=[f"{name}: {line}" for line in plan.lines])
            for name, plan in plans.items()
        )

    def check(self) -> None:
        """Find what any member is missing before one of them is paid for.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        for member in self.members.values():
            member.check()

    def scorer(self) -> EnsembleScorer:
        """What lets the members score."""
        return EnsembleScorer(self.members)

    def finish(self, scores: RowScores) -> Estimation:
        """Finish each member, and mix.

        Raises:
            UALError: as the members raise.
        """
        found = {name: each.finish(scores.members[name]) for name, each in self.members.items()}
        values = {name: estimation.uncertainty for name, estimation in found.items()}
        uncertainty = mix(values, self.weights, self.mix)
        missing = int(np.isnan(uncertainty).sum())
        reason = A_MEMBER if self.mix == "product" else NO_MEMBER
        return Estimation(
            uncertainty,
            failures={reason: missing} if missing else {},
            usage=scores.usage,
            facts={
                "mix": self.mix,
                "members": {
                    name: {
                        "weight": self.weights[name],
                        "failures": dict(estimation.failures),
                        **estimation.facts,
                    }
                    for name, estimation in found.items()
                },
            },
            columns=self._columns(found),
        )

    def _columns(self, found: Mapping[str, Estimation]) -> dict[str, FloatArray]:
        """What each member said, and its further columns where no other has one of that name."""
        columns = {f"{PREFIX}{name}": each.uncertainty for name, each in found.items()}
        names = Counter(name for each in found.values() for name in each.columns)
        for each in found.values():
            columns |= {name: v for name, v in each.columns.items() if names[name] == 1}
        return columns


@dataclass(frozen=True)
class EnsembleScorer:
    """Lets members score rows one after the other, so that one model is loaded at a time.

    Attributes:
        members: estimators by name.
    """

    members: Mapping[str, Estimator]

    def score(self, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Score rows by each member.

        Raises:
            UALError: as the members raise.
        """
        found: dict[str, RowScores] = {}
        for number, (name, member) in enumerate(self.members.items(), 1):
            progress.say(f"{name} ({number} of {len(self.members)})")
            shown = progress if number == len(self.members) else Uncounted(progress)
            found[name] = member.scorer().score(samples, shown)
        return RowScores(usage=total_usage([each.usage for each in found.values()]), members=found)


def mix(values: Mapping[str, FloatArray], weights: Mapping[str, float], how: str) -> FloatArray:
    """Mix uncertainties (N,), NaN for a missing one.

    Args:
        values: uncertainties by member, in [0, 1].
        weights: above 0, by member.
        how: "rank", "value" or "product".

    Returns:
        float32 of shape (N,), in [0, 1] or NaN.
    """
    members_MN = np.stack([values[name].astype(np.float64) for name in values])
    if how == "product":
        powers_M1 = np.array([[weights[name]] for name in values])
        powers_M1 *= len(powers_M1) / powers_M1.sum()
        product_N: FloatArray = (members_MN**powers_M1).prod(axis=0).astype(np.float32)
        return product_N
    if how == "rank":
        members_MN = np.stack([rank(row_N) for row_N in members_MN]).astype(np.float64)
    weights_M1 = np.array([weights[name] for name in values])[:, None]
    known_MN = np.isfinite(members_MN)
    total_N = (weights_M1 * known_MN).sum(axis=0)
    weighted_N = (weights_M1 * np.where(known_MN, members_MN, 0.0)).sum(axis=0)
    with np.errstate(invalid="ignore"):
        mean_N = np.where(total_N > 0, weighted_N / total_N, np.nan)
    return np.clip(mean_N, 0.0, 1.0).astype(np.float32)
