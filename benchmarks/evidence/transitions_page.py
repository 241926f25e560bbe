"""The section of study 4 on changes of stage."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from study import Results
from verdicts import (
    LOOKED_AT,
    NOT_RUN,
    Claim,
    Difference,
    Section,
    by_seed,
    claim_of,
    not_higher,
    not_lower,
    paired,
)

TITLE = "Study 4, step by step: what a change of stage does"
ARMS = ("staged", "shuffled")
ACCURACY = "Held-out accuracy falls no more {later} a change of stage than on shuffled pairs"
MARGIN = "Held-out margins fall no more {later} a change of stage than on shuffled pairs"
LOSS = "The training loss rises no more at a change of stage than at that step on shuffled pairs"
LATER = {1: "one step after", 3: "three steps after"}
Run = Mapping[str, Any]
Runs = Mapping[str, Mapping[int, Run]]
Floats = np.ndarray[Any, Any]


def section(results: Results) -> Section:
    """The study's tables and its claims."""
    found = results.read()
    base = found.pop("pairs", None)
    runs: dict[str, dict[int, Run]] = {arm: {} for arm in ARMS}
    for run in found.values():
        runs[run["arm"]][run["seed"]] = run
    fixed = results.protocol
    claims = _claims(runs, fixed)
    if base is None or not all(runs.values()):
        return Section(TITLE, [f"{NOT_RUN.capitalize()}.\n"], claims)
    shown = ", ".join(map(str, fixed["changes"]))
    head = (
        "The first epoch of study 4's runs on HH-RLHF, made once more (gaps are computed anew, so "
        f"the order of pairs is not quite the same): {len(base['gap'])} pairs, {base['pairs']} "
        f"held out. In `staged` the next stage begins after steps {shown}; `shuffled` has no "
        "stages and is measured at the same steps, after equally many pairs. A margin is beta "
        "times the log-ratio of chosen over rejected.\n"
    )
    seeds = ", ".join(f"{arm} {len(runs[arm])}" for arm in ARMS)
    number = f"Seeds that are there, of {len(fixed['seeds'])} planned: {seeds}.\n"
    tables = [_held_out(runs, fixed), _changes(runs, fixed), _steps(runs)]
    return Section(TITLE, [head, number, *tables, LOOKED_AT], claims)


def right(margins: Floats) -> Floats:
    """Whether each pair's chosen answer is preferred."""
    return (margins > 0).astype(np.float64)


def margin(margins: Floats) -> Floats:
    """The margins themselves."""
    return margins


def changed(run: Run, value: Callable[[Floats], Floats], changes: list[int], later: int) -> Floats:
    """By held-out pair: mean change of a value from each change of stage to so many steps later."""

    def at(step: int) -> Floats:
        return value(np.array(run["margins"][str(step)]))

    found: Floats = np.mean([at(change + later) - at(change) for change in changes], axis=0)
    return found


def losses(run: Run) -> Floats:
    """DPO's mean loss, -log sigmoid(margin), on the pairs of each step, before it."""
    return np.array([np.logaddexp(0.0, -np.array(step["margins"])).mean() for step in run["steps"]])


def jump(run: Run, changes: list[int]) -> float:
    """Loss of the first step after a change of stage less that of the step before, mean."""
    each = losses(run)
    return float(np.mean([each[change] - each[change - 1] for change in changes]))


def difference(
    runs: Runs, value: Callable[[Floats], Floats], changes: list[int], later: int
) -> Difference | None:
    """Of the change of a held-out value, staged less shuffled."""
    pairs = _common(runs)
    if not pairs:
        return None
    staged, shuffled = (
        [changed(pair[place], value, changes, later).tolist() for pair in pairs] for place in (0, 1)
    )
    return paired(staged, shuffled, [1.0] * len(staged[0]))


def jumps(runs: Runs, changes: list[int]) -> Difference | None:
    """Of the jump of the training loss, staged less shuffled; its interval is over seeds."""
    pairs = _common(runs)
    if not pairs:
        return None
    return by_seed(*([jump(pair[place], changes) for pair in pairs] for place in (0, 1)))


def _common(runs: Runs) -> list[tuple[Run, Run]]:
    staged, shuffled = (runs[arm] for arm in ARMS)
    return [(staged[seed], shuffled[seed]) for seed in sorted(staged) if seed in shuffled]


def _claims(runs: Runs, fixed: Mapping[str, Any]) -> list[Claim]:
    changes, margins = fixed["changes"], fixed["margin"]
    claims = []
    for words, value, name, unit in (
        (ACCURACY, right, "accuracy", "in accuracy"),
        (MARGIN, margin, "margin", ""),
    ):
        for later in fixed["later"]:
            found = difference(runs, value, changes, later)
            said = words.format(later=LATER[later])
            claims.append(claim_of(said, found, not_lower, margins[name], unit))
    loss = jumps(runs, changes)
    claims.append(claim_of(LOSS, loss, not_higher, margins["loss"], "nats a pair"))
    return claims


def _held_out(runs: Runs, fixed: Mapping[str, Any]) -> str:
    """Accuracy and mean margin after each step that was measured."""
    steps = sorted({change + more for change in fixed["changes"] for more in (0, *fixed["later"])})
    lines = ["| held out, after step | " + " | ".join(map(str, steps)) + " |"]
    lines.append("|" + "---|" * (len(steps) + 1))
    for arm in ARMS:
        for name, value in (("accuracy", right), ("mean margin", margin)):
            cells = [_mean_at(runs[arm], value, step) for step in steps]
            lines.append(f"| {arm}, {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean_at(found: Mapping[int, Run], value: Callable[[Floats], Floats], step: int) -> str:
    each = [value(np.array(run["margins"][str(step)])).mean() for run in found.values()]
    return f"{np.mean(each):.3f}"


def _changes(runs: Runs, fixed: Mapping[str, Any]) -> str:
    """What changes from each change of stage on, staged less shuffled."""
    later = fixed["later"]
    head = [f"{name}, {LATER[one]}" for name in ("accuracy", "margin") for one in later]
    lines = ["| change after step | " + " | ".join([*head, "training loss at it"]) + " |"]
    lines.append("|" + "---|" * (len(head) + 2))
    for change in fixed["changes"]:
        cells = [
            str(difference(runs, value, [change], one))
            for value in (right, margin)
            for one in later
        ]
        cells.append(str(jumps(runs, [change])))
        lines.append(f"| {change} | " + " | ".join(cells) + " |")
    intro = (
        "Changes from there on in held-out pairs, and of the training loss, staged less shuffled:"
    )
    return f"{intro}\n\n" + "\n".join(lines) + "\n"


def _steps(runs: Runs) -> str:
    """Loss and margin of the pairs of each step, before it."""
    number = len(next(iter(runs[ARMS[0]].values()))["steps"])
    lines = ["| trained at step | " + " | ".join(str(step + 1) for step in range(number)) + " |"]
    lines.append("|" + "---|" * (number + 1))
    for arm in ARMS:
        loss = np.mean([losses(run) for run in runs[arm].values()], axis=0)
        mean = np.mean(
            [[np.mean(step["margins"]) for step in run["steps"]] for run in runs[arm].values()],
            axis=0,
        )
        lines.append(f"| {arm}, loss | " + " | ".join(f"{one:.2f}" for one in loss) + " |")
        lines.append(f"| {arm}, margin | " + " | ".join(f"{one:+.2f}" for one in mean) + " |")
    return "Loss and margin of the pairs of a step, before it:\n\n" + "\n".join(lines) + "\n"
