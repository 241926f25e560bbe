"""The section of study 2 by `axolotl-ual ablate`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from scipy import stats
from study import Results
from verdicts import NOT_RUN, Claim, Difference, Section, claim_of, higher, lower, not_higher

TITLE = "Study 2 by `axolotl-ual ablate`"
UAL = "ual"
NLL, ECE, SILHOUETTE, EXACT = "nll", "ece_mass_15", "silhouette", "exact_match"
LOW, HIGH = "entropy of base 1/2", "entropy of base 2/2"
COLUMNS = {
    "NLL": (NLL, "all"),
    "NLL gsm8k": (NLL, "source = gsm8k"),
    "NLL roleplay": (NLL, "source = roleplay"),
    "NLL high entropy": (NLL, HIGH),
    "NLL low entropy": (NLL, LOW),
    "ECE": (ECE, "all"),
    "Silhouette": (SILHOUETTE, "all"),
    "exact match": (EXACT, "all"),
}
"""By heading, a measure and a group."""
CLAIMS = [
    ("UAL answers uncertain prompts better than SFT (NLL, upper half by entropy)", "sft", NLL, HIGH,
     lower),
    ("UAL answers certain prompts no worse than SFT (NLL, lower half by entropy)", "sft", NLL, LOW,
     not_higher),
    ("UAL is better than the same smoothing for all rows (NLL)", "constant", NLL, "all", lower),
    ("UAL is better than the same smoothings on shuffled rows (NLL)", "shuffled", NLL, "all",
     lower),
    ("UAL is better calibrated than SFT (ECE, 15 bins of equal mass)", "sft", ECE, "all", lower),
    ("Hidden states gather better by their next token than after SFT (Silhouette)", "sft",
     SILHOUETTE, "all", higher),
]  # fmt: skip
Group = Mapping[str, Any]


def section(results: Results) -> Section:
    """The study's table and its claims."""
    found = results.read().get("evaluation")
    fixed = results.protocol
    claims = [_claim(found, fixed, *claim) for claim in CLAIMS]
    if found is None:
        return Section(TITLE, [f"{NOT_RUN.capitalize()}.\n"], claims)
    head = (
        "The first four arms of study 2 once more, by the commands alone: `axolotl train` trained "
        f"{len(fixed['seeds'])} seeds of each in float32, and `axolotl-ual evaluate` measured. "
        f"Exact match is that of greedy answers to {fixed['generation']['rows']} questions. "
        "Study 2's results were known when this was planned.\n"
    )
    return Section(TITLE, [head, _table(found, fixed)], claims)


def group(found: Mapping[str, Any], measure: str, name: str) -> Group:
    """The result of a measure in a group, which may have its range behind its name."""
    (one,) = (
        one
        for one in found["results"]
        if one["measure"] == measure
        and (one["group"] == name or one["group"].startswith(f"{name} ["))
    )
    result: Group = one
    return result


def difference(one: Group, other: str) -> Difference:
    """UAL less another arm; the document has that arm less UAL."""
    given, seeds = one["differences"][other], len(one["by_seed"][UAL])
    value, half = -float(given["value"]), math.inf
    if "error" in given:
        # JSON has no infinity: it stands as null.
        freedom = math.inf if given["freedom"] is None else given["freedom"]
        half = float(stats.t.ppf(0.975, freedom)) * given["error"]
    return Difference(value, value - half, value + half, seeds)


def _claim(
    found: Mapping[str, Any] | None,
    fixed: Mapping[str, Any],
    words: str,
    other: str,
    measure: str,
    name: str,
    say: Callable[[Difference, float], str],
) -> Claim:
    claim = f"{words}, by `ablate`"
    if found is None or other not in fixed["controls"]:
        return claim_of(claim, None, say, fixed["margin"])
    one = difference(group(found, measure, name), other)
    return claim_of(claim, one, say, fixed["margin"], "nats a token" if measure == NLL else "")


def _table(found: Mapping[str, Any], fixed: Mapping[str, Any]) -> str:
    groups = [group(found, *column) for column in COLUMNS.values()]
    lines = ["| arm | " + " | ".join(COLUMNS) + " |", "|" + "---|" * (len(COLUMNS) + 1)]
    for arm in ("base", *fixed["controls"], UAL):
        cells = [f"{one['values'][arm]:.3f}" for one in groups]
        lines.append(f"| {arm} | " + " | ".join(cells) + " |")
    lines += list(_differences(groups, fixed))
    return "\n".join(lines) + "\n"


def _differences(groups: list[Group], fixed: Mapping[str, Any]) -> Iterator[str]:
    for arm in fixed["controls"]:
        cells = [str(difference(one, arm)) for one in groups]
        yield f"| {UAL} less {arm} | " + " | ".join(cells) + " |"
