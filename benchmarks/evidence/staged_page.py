"""The section of study 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from study import Results
from verdicts import NOT_RUN, Claim, Difference, Section, higher, paired

TITLE = "Study 4: preference pairs in stages"
ARMS = ("staged", "shuffled", "clear", "smoothed")
CLAIMS = {
    "Staged DPO prefers the chosen answer more often than DPO on shuffled pairs": "shuffled",
    "Staged DPO prefers the chosen answer more often than DPO on clear pairs alone": "clear",
    "Staged DPO prefers the chosen answer more often than per-pair smoothing": "smoothed",
}
Runs = Mapping[str, Mapping[int, Any]]


def section(results: Results) -> Section:
    """The study's table and its claims."""
    found = results.read()
    base = found.pop("pairs", None)
    by_arm: dict[str, dict[int, Any]] = {}
    for run in found.values():
        by_arm.setdefault(run["arm"], {})[run["seed"]] = run
    margin = results.protocol["margin"]
    claims = [_claim(words, by_arm, other, margin) for words, other in CLAIMS.items()]
    if base is None or not by_arm:
        return Section(TITLE, [f"{NOT_RUN.capitalize()}.\n"], claims)
    head = (
        f"{len(base['gap'])} pairs of HH-RLHF (harmless), {base['pairs']} held out. Accuracy: how "
        "often the implicit reward of the chosen answer is the larger one, after each third of "
        f"the steps. The base model finds the chosen answer likelier in "
        f"{base['chosen is likelier']:.2f} of the pairs.\n"
    )
    return Section(TITLE, [head, _table(by_arm)], claims)


def _right(run: Any, third: int) -> list[float]:
    return [float(margin > 0) for margin in run["margins"][third]]


def _claim(words: str, runs: Runs, other: str, margin: float) -> Claim:
    difference = _difference(runs, "staged", other)
    if difference is None:
        return Claim(words, NOT_RUN, "")
    seeds = f"{difference.seeds} seed" + ("s" if difference.seeds > 1 else "")
    return Claim(words, higher(difference, margin), f"{difference} in accuracy, {seeds}")


def _difference(runs: Runs, arm: str, other: str) -> Difference | None:
    first, second = runs.get(arm, {}), runs.get(other, {})
    seeds = [seed for seed in sorted(first) if seed in second]
    if not seeds:
        return None
    values = [[_right(one[seed], -1) for seed in seeds] for one in (first, second)]
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
