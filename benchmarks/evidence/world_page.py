"""`docs/world.md`, drawn from the results that are there.

    python benchmarks/evidence/world_page.py

How it is read is said at the head of `world.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats
from wide import ARMS as WIDE_ARMS
from wide import RESULTS as WIDE_RESULTS
from wide import TRUTH as WIDE_TRUTH
from world import ARMS, EPOCHS, FURTHER, NOISES, PRIORS, RATES, RESULTS, demo_point, key

PAGE = Path(__file__).resolve().parents[2] / "docs" / "world.md"
GROUPS = ("known", "new", "open")
MEASURES = ("nll", "ece_width_10")
SFT = ARMS[0].name
HEAD = """\
# Where it helps: a map of the synthetic world

A LoRA (r = 8) trains on 300 rows of the [demo](../examples/demo/README.md)'s world and is measured
on 1,200 held-out rows in a wording that no training row has. Three groups: questions with one
answer that the base model knows (`known`), facts that only the training rows tell (`new`), and
questions with several answers (`open`). Uncertainty is the rank of perplexity under the base model,
which is what costs nothing, and which takes what is new for uncertain. Learning rate and epochs go
from well fitted to overfitted. The protocol, with every rule that is used here, stands at the head
of `benchmarks/evidence/world.py`, which also says what was settled when; besides, the base model
was made smaller when plain SFT at one seed had been seen on a larger one, and the points with noise
were moved forward when the demo's rate had been seen at all seeds. This page is drawn from
`benchmarks/evidence/results/world.json` by `python benchmarks/evidence/world_page.py`; the grid
goes on where it was stopped with `python benchmarks/evidence/world.py`, on one CPU core, some 15
seconds a run.

One small model in one invented world: it shows what the method does to likelihood and calibration
where everything is known, and not what it does to a large model.
"""
COMPARED = (
    *((prior, f"{prior}: {one}", SFT) for prior in PRIORS for one in ("UAL", "constant")),
    *((prior, f"{prior}: UAL", f"{prior}: constant") for prior in PRIORS),
    ("where to", "reference: UAL", "uniform: UAL"),
)
QUESTIONS = (
    ("uniform: UAL", "uniform: constant"),
    ("uniform: UAL", "uniform: shuffled"),
    ("reference: UAL", "reference: constant"),
    ("reference: UAL", "reference: shuffled"),
    ("reference, mean 0.4: UAL", "reference, mean 0.4: constant"),
    ("reference: UAL", "uniform: UAL"),
    ("reference: constant", "uniform: constant"),
)
"""At the demo's point: does it matter which rows, and where to?"""


def score(measures: dict[str, Any]) -> float:
    return float(np.mean([math.log(measures[group]["nll"]) for group in GROUPS]))


def pairs(point: dict[str, Any], one: str, other: str) -> list[tuple[Any, Any]]:
    """Measures of two arms at the seeds that both have."""
    these, those = point.get(one, {}), point.get(other, {})
    return [(these[seed], those[seed]) for seed in sorted(these.keys() & those.keys())]


def spread(values: list[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * np.std(values, ddof=1) / math.sqrt(len(values))
    return float(np.mean(values)), float(half)


def compared(point: dict[str, Any], one: str, other: str) -> tuple[str, str]:
    """The difference of scores in per cent of NLL, and better, worse or nothing."""
    values = [score(mine) - score(theirs) for mine, theirs in pairs(point, one, other)]
    if not values:
        return "not run", ""
    percent = f"{100 * math.expm1(float(np.mean(values))):+.1f} %"
    if len(values) == 1:
        return f"{percent}, one seed", ""
    mean, half = spread(values)
    return percent, "" if abs(mean) <= half else "better" if mean < 0 else "worse"


def verdict(point: dict[str, Any], one: str, other: str) -> str:
    percent, said = compared(point, one, other)
    return f"**{percent} {said}**" if said else percent


def differences(point: dict[str, Any], one: str, other: str) -> list[str]:
    """Of NLL and ECE by group, with intervals."""
    found = pairs(point, one, other)
    cells = []
    for group, measure in itertools.product(GROUPS, MEASURES):
        values = [mine[group][measure] - theirs[group][measure] for mine, theirs in found]
        if len(values) < 2:
            cells.append("".join(f"{value:+.3f}" for value in values) or "not run")
        else:
            cells.append("{:+.3f} ± {:.3f}".format(*spread(values)))
    return cells


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def the_map(points: dict[str, Any]) -> list[str]:
    rows = []
    for noise, rate, epochs in itertools.product(NOISES, RATES, EPOCHS):
        point = points.get(key(noise, rate, epochs), {})
        if len(point) < len(ARMS):
            continue
        seeds = min(len(point[arm.name]) for arm in ARMS)
        sft = np.mean([score(run) for run in point[SFT].values()])
        cells = [verdict(point, one, other) for _, one, other in COMPARED]
        place = [f"{noise:g}", f"{rate:g}", str(epochs), str(seeds), f"{math.exp(sft):.3f}"]
        rows.append([*place, *cells])
    head = ["noise", "rate", "epochs", "seeds", "SFT's NLL"]
    head += [
        f"{one} to {other.removeprefix(one.split(':')[0] + ': ')}" for _, one, other in COMPARED
    ]
    return table(head, rows)


def counted(points: dict[str, Any]) -> list[str]:
    """At how many points an arm is better and worse than another."""
    rows = []
    for noise, prior in itertools.product(NOISES, PRIORS):
        names = [key(noise, rate, epochs) for rate, epochs in itertools.product(RATES, EPOCHS)]
        there = [points[name] for name in names if len(points.get(name, {})) >= len(ARMS)]
        ual, constant = f"{prior}: UAL", f"{prior}: constant"
        asked = [(ual, SFT), (constant, SFT), (ual, constant)]
        said = [[compared(point, *one)[1] for one in asked] for point in there]
        cells = [
            f"{sum(one[n] == 'better' for one in said)} / {sum(one[n] == 'worse' for one in said)}"
            for n in range(len(asked))
        ]
        lost = sum(one[0] == one[1] == "worse" for one in said)
        rows.append([f"{noise:g}", prior, str(len(there)), *cells, str(lost)])
    head = ["noise", "prior", "points", "UAL to SFT", "constant to SFT", "UAL to constant"]
    return table([*head, "both lose to SFT"], rows)


def all_sft(points: dict[str, Any], base: dict[str, Any]) -> list[str]:
    """From well fitted to overfitted: plain SFT at every point that has it."""
    rows = [["before tuning", str(len(base)), *_means(base)]]
    for noise, rate, epochs in itertools.product(NOISES, RATES, EPOCHS):
        by_seed = points.get(key(noise, rate, epochs), {}).get(SFT, {})
        if by_seed:
            rows.append([key(noise, rate, epochs), str(len(by_seed)), *_means(by_seed)])
    return table(["point", "seeds", *_titles(), "KL to base"], rows)


def at_a_point(
    point: dict[str, Any], base: dict[str, Any], arms: Sequence[Any] = (*ARMS, *FURTHER)
) -> list[str]:
    """The arms, their differences from SFT, and from each other."""
    names = [arm.name for arm in arms if arm.name in point]
    rows = [["before tuning", str(len(base)), *_means(base)]]
    rows += [[name, str(len(point[name])), *_means(point[name])] for name in names]
    lines = table(["arm", "seeds", *_titles(), "KL to base"], rows)
    less = [[f"{name} less SFT", *differences(point, name, SFT)] for name in names if name != SFT]
    less += [
        [f"{one} less {other}", *differences(point, one, other)]
        for one, other in QUESTIONS
        if one in point and other in point
    ]
    return lines + table(["difference, with its 95 % interval over seeds", *_titles()], less)


def _titles() -> list[str]:
    return [f"{group} {name}" for group in GROUPS for name in ("NLL", "ECE")]


def _means(by_seed: dict[str, Any]) -> list[str]:
    runs = list(by_seed.values())
    cells = [np.mean([run[g][m] for run in runs]) for g in GROUPS for m in MEASURES]
    return [f"{cell:.3f}" for cell in [*cells, np.mean([run["kl_to_base"] for run in runs])]]


def at_twice_the_width(document: dict[str, Any] | None) -> list[str]:
    """The table of `wide.py`."""
    lines = [
        "## Both priors at twice the width",
        "",
        "A base model with a hidden size of 256, and LoRAs that learn for 30 epochs, at 0.005 and "
        "less. The protocol stands at the head of `benchmarks/evidence/wide.py`, which makes the "
        "runs; `true entropy` are arms that know the entropy of each question. Five seeds are "
        "planned; a difference without an interval is one seed's and says nothing of another.",
        "",
    ]
    if document is None:
        return [*lines, "Not run yet.", ""]
    return lines + at_a_point(document["arms"], document["base"], (*WIDE_ARMS, *WIDE_TRUTH))


def read_wide(path: Path = WIDE_RESULTS) -> dict[str, Any] | None:
    """The results of `wide.py`, or None where it has not run."""
    if not path.is_file():
        return None
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def text(document: dict[str, Any], wide: dict[str, Any] | None) -> str:
    """The page, of the map and of the table at twice the width."""
    points, base = document["points"], document["base"]
    chosen = demo_point(document)
    parts = [HEAD, "## Plain SFT, from well fitted to overfitted", "", *all_sft(points, base)]
    if chosen is not None:
        rate, epochs, above = chosen
        parts += [
            "## The demo's point",
            "",
            f"The rule picks {key(0.0, rate, epochs)}: SFT's NLL on `open` is "
            f"{100 * (above - 1):.1f} % above the least before it.",
            "",
            *at_a_point(points[key(0.0, rate, epochs)], base),
        ]
        noisy = key(NOISES[-1], rate, epochs)
        if noisy in points:
            parts += [f"## The same with {noisy}", "", *at_a_point(points[noisy], base)]
    parts += at_twice_the_width(wide)
    parts += [
        "## The map",
        "",
        "The mean over the three groups of log NLL, which each group counts in alike, as a "
        "difference in per cent of NLL; less is better. Bold: the 95 % interval over seeds is on "
        "one side of 0; none is corrected for how many there are. Points without all arms are left "
        "out.",
        "",
        *the_map(points),
        "At how many points better / worse:",
        "",
        *counted(points),
    ]
    return "\n".join(parts).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--wide", type=Path, default=WIDE_RESULTS)
    parser.add_argument("--page", type=Path, default=PAGE)
    args = parser.parse_args()
    document = json.loads(args.results.read_text(encoding="utf-8"))
    args.page.write_text(text(document, read_wide(args.wide)), encoding="utf-8")
    print(f"wrote {args.page}")


if __name__ == "__main__":
    main()
