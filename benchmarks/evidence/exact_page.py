"""The section of study 2 on exact match."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from study import Results
from verdicts import (
    LOOKED_AT,
    NOT_RUN,
    UNKNOWN,
    Claim,
    Difference,
    Section,
    claim_of,
    higher,
    not_lower,
    paired,
)

TITLE = "Study 2, exact match on GSM8K"
GENERATED, GIVEN, COMPUTED = "generated", "given", "computed"
MEASURES = {
    GENERATED: "exact match of generated answers",
    GIVEN: "exact match with the working given",
    COMPUTED: "results computed in the working",
}
CLAIMS = [
    ("UAL answers GSM8K no worse than SFT", "sft", GENERATED, not_lower),
    ("UAL answers GSM8K no worse than SFT", "sft", GIVEN, not_lower),
    ("UAL computes no worse than SFT", "sft", COMPUTED, not_lower),
    ("UAL answers GSM8K better than the same smoothing for all rows", "constant", GIVEN, higher),
    ("UAL answers GSM8K better than the same smoothings on shuffled rows", "shuffled", GIVEN,
     higher),
]  # fmt: skip
_KNOWN = "All seeds of `sft` and `ual` were known when the other two arms were trained.\n"
Run = Mapping[str, Any]
Runs = Mapping[str, Mapping[int, Run]]


def section(results: Results) -> Section:
    """The study's table and its claims."""
    found = results.read()
    base = found.pop("base", None)
    runs: dict[str, dict[int, Run]] = {}
    for run in found.values():
        runs.setdefault(run["arm"], {})[run["seed"]] = run
    fixed = results.protocol
    claims = [
        _claim(words, runs, other, measure, say, fixed) for words, other, measure, say in CLAIMS
    ]
    if base is None or not runs:
        return Section(TITLE, [f"{NOT_RUN.capitalize()}.\n"], claims)
    head = (
        f"The runs of study 2, made once more, on {len(base[GIVEN])} held-out questions of GSM8K. "
        f"Generated: the number of a greedy answer to {len(base[GENERATED])} of them, of at most "
        f"{fixed['generated']['tokens']} tokens. With the working given: whether the model finds "
        "each token of the number after `####` the likeliest, the working before it being right; "
        "most often that is a copy of the last result. Computed: the same of the results within "
        "the working, `24` in `<<48/2=24>>`, each with all before it given.\n"
    )
    lines = [head, _table(base, runs, fixed)]
    missing = _missing(runs, fixed)
    if missing:
        lines.append(f"Not all seeds are there: {missing}. `resume` makes the rest.\n")
    lines += [LOOKED_AT.rstrip(), _KNOWN]
    return Section(TITLE, lines, claims)


def weight(run: Run, measure: str) -> list[float]:
    """What a measure's sums are divided by, by row."""
    return list(run["results"]) if measure == COMPUTED else [1.0] * len(run[measure])


def share(run: Run, measure: str) -> float:
    """How much is right."""
    return float(np.sum(run[measure]) / np.sum(weight(run, measure)))


def difference(runs: Runs, arm: str, other: str, measure: str) -> Difference | None:
    """Of two arms, paired by row and seed."""
    first, second = runs.get(arm, {}), runs.get(other, {})
    common = [(first[seed], second[seed]) for seed in sorted(first) if seed in second]
    if not common:
        return None
    values = [[list(pair[place][measure]) for pair in common] for place in (0, 1)]
    return paired(*values, weight(common[0][0], measure))


def _claim(
    words: str,
    runs: Runs,
    other: str,
    measure: str,
    say: Callable[[Difference, float], str],
    fixed: Mapping[str, Any],
) -> Claim:
    claim = f"{words} ({MEASURES[measure]})"
    found = difference(runs, "ual", other, measure)
    line = claim_of(claim, found, say, fixed["margin"])
    if found is not None and _best(runs, ("ual", other), measure) < fixed["floor"]:
        return replace(
            line, verdict=UNKNOWN, numbers=f"{line.numbers}; both below {fixed['floor']}"
        )
    return line


def _best(runs: Runs, arms: tuple[str, ...], measure: str) -> float:
    """The larger of the arms' mean shares."""
    return max(float(np.mean([share(run, measure) for run in runs[arm].values()])) for arm in arms)


def _table(base: Run, runs: Runs, fixed: Mapping[str, Any]) -> str:
    head = ["arm", "seeds", *MEASURES.values(), "generated answers with `####`"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    planned = [arm for group in fixed["order"] for arm in group]
    for arm in ("base", *(arm for arm in planned if arm in runs)):
        found = [base] if arm == "base" else list(runs[arm].values())
        cells = [arm, "" if arm == "base" else str(len(found))]
        for measure in (*MEASURES, "marked"):
            cells.append(f"{np.mean([share(run, measure) for run in found]):.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    for arm in planned[1:]:
        cells = [difference(runs, arm, "sft", measure) for measure in MEASURES]
        if all(cell is not None for cell in cells):
            lines.append(f"| {arm} less sft | | " + " | ".join(map(str, cells)) + " | |")
    return "\n".join(lines) + "\n"


def _missing(runs: Runs, fixed: Mapping[str, Any]) -> str:
    planned, number = [arm for group in fixed["order"] for arm in group], len(fixed["seeds"])
    return ", ".join(
        f"{arm} ({len(runs.get(arm, {}))} of {number})"
        for arm in planned
        if len(runs.get(arm, {})) < number
    )
