"""The section of study 4."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from study import Results
from verdicts import NOT_RUN, Claim, Difference, Section, by_seed, claim_of, higher, lower, paired

TITLE = "Study 4: preference pairs in stages"
OWN_TITLE = "Study 4, on pairs of the model's own answers"
OWN = " (the model's own answers)"
ARMS = ("staged", "shuffled", "clear", "smoothed")
CLAIMS = {
    "Staged DPO prefers the chosen answer more often than DPO on shuffled pairs": "shuffled",
    "Staged DPO prefers the chosen answer more often than DPO on clear pairs alone": "clear",
    "Staged DPO prefers the chosen answer more often than per-pair smoothing": "smoothed",
}
REPEATS = "Repeats of staged DPO differ less about the held-out pairs than those on shuffled pairs"
STABLE = "Staged DPO is steadier from one third of the steps to the next than DPO on shuffled pairs"
THIRDS = (
    "A third of the steps is no stage: each epoch goes through all three. What a change of stage "
    "does is measured step by step below.\n"
)
Runs = Mapping[str, Mapping[int, Any]]


def section(results: Results) -> Section:
    """The study's table and its claims, on pairs of HH-RLHF."""
    return _section(results, TITLE, "HH-RLHF (harmless)", "")


def own_section(results: Results) -> Section:
    """The same on pairs of the model's own answers."""
    return _section(results, OWN_TITLE, "the model's own answers", OWN)


def _section(results: Results, title: str, pairs: str, suffix: str) -> Section:
    found = results.read()
    base = found.pop("pairs", None)
    by_arm: dict[str, dict[int, Any]] = {}
    for run in found.values():
        by_arm.setdefault(run["arm"], {})[run["seed"]] = run
    margin = results.protocol["margin"]
    claims = [_claim(words + suffix, by_arm, other, margin) for words, other in CLAIMS.items()]
    for words, found_difference, what in (
        (REPEATS, repeats(by_arm), "of the pairs"),
        (STABLE, steadiness(by_arm), "in accuracy"),
    ):
        claims.append(claim_of(words + suffix, found_difference, lower, margin, what))
    if base is None or not by_arm:
        return Section(title, [f"{NOT_RUN.capitalize()}.\n"], claims)
    head = (
        f"{len(base['gap'])} pairs of {pairs}, {base['pairs']} held out. Accuracy: how "
        "often the implicit reward of the chosen answer is the larger one, after each third of "
        f"the steps. The base model finds the chosen answer likelier in "
        f"{base['chosen is likelier']:.2f} of the pairs.\n"
    )
    return Section(title, [head, THIRDS, _table(by_arm)], claims)


def _right(run: Any, third: int) -> list[float]:
    return [float(margin > 0) for margin in run["margins"][third]]


def _claim(words: str, runs: Runs, other: str, margin: float) -> Claim:
    return claim_of(words, _difference(runs, "staged", other), higher, margin, "in accuracy")


def _common(runs: Runs, arm: str, other: str) -> list[tuple[Any, Any]]:
    """Runs of two arms with equal seeds."""
    first, second = runs.get(arm, {}), runs.get(other, {})
    return [(first[seed], second[seed]) for seed in sorted(first) if seed in second]


def repeats(runs: Runs) -> Difference | None:
    """Of how often two seeds of an arm disagree about a held-out pair; the error is over pairs.

    Returns:
        Staged less shuffled, or None below two seeds.
    """
    common = _common(runs, "staged", "shuffled")
    if len(common) < 2:
        return None

    def disagreement(place: int) -> list[float]:
        right = np.array([_right(pair[place], -1) for pair in common])
        each = [np.abs(one - other) for one, other in combinations(right, 2)]
        return list(np.mean(each, axis=0))

    first, second = disagreement(0), disagreement(1)
    found = paired([first], [second], [1.0] * len(first))
    return replace(found, seeds=len(common))


def steadiness(runs: Runs) -> Difference | None:
    """Of the mean change of accuracy from a third of the steps to the next, whatever its sign.

    Returns:
        Staged less shuffled, or None without a common seed.
    """
    common = _common(runs, "staged", "shuffled")
    if not common:
        return None

    def change(run: Any) -> float:
        accuracy = [np.mean(_right(run, third)) for third in range(3)]
        return float(np.abs(np.diff(accuracy)).mean())

    return by_seed(*([change(pair[place]) for pair in common] for place in (0, 1)))


def _difference(runs: Runs, arm: str, other: str) -> Difference | None:
    common = _common(runs, arm, other)
    if not common:
        return None
    values = [[_right(pair[place], -1) for pair in common] for place in (0, 1)]
    return paired(*values, [1.0] * len(values[0][0]))


def _table(runs: Runs) -> str:
    head = ["arm", "seeds", *(f"accuracy after {n}/3" for n in (1, 2, 3)), "mean margin"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arm in sorted(runs, key=ARMS.index):
        found = runs[arm]
        cells = [arm, str(len(found))]
        for third in range(3):
            right = np.mean([_right(run, third) for run in found.values()])
            cells.append(f"{right:.3f}")
        cells.append(f"{np.mean([run['margins'][-1] for run in found.values()]):.3f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"
