"""The section of study 2."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from study import Results
from verdicts import (
    NOT_RUN,
    Claim,
    Difference,
    Section,
    by_seed,
    claim_of,
    higher,
    lower,
    not_higher,
    paired,
)

TITLE = "Study 2: tuning a real model on mixed text"
TOKEN = "nats a token"
GROUPS = ("gsm8k", "roleplay", "high entropy", "low entropy")
_INTERVALS = (
    "Differences to SFT in NLL a token, with 95 % intervals; those of one seed are over rows alone "
    "and say nothing of what another seed would give:\n"
)
_LOOKED_AT = (
    "Results of the first four arms were looked at when they had one, two, three and four seeds, "
    "before the five that were planned. Nothing was changed by what they showed, but whoever "
    "looks more than once errs more often than 5 % of the time.\n"
)
Run = Mapping[str, Any]
Verdict = Callable[[Difference, float], str]


@dataclass(frozen=True)
class Runs:
    """All runs of the study, and the model before tuning."""

    base: Run
    by_arm: Mapping[str, Mapping[int, Run]]

    def nll(self, run: Run, group: str) -> float:
        """Nats a token over the rows of a group."""
        rows = self.base["groups"][group]
        total: float = np.array(run["rows"]["nll"])[rows].sum()
        return total / float(np.array(self.base["tokens"])[rows].sum())

    def common(self, arm: str, reference: str) -> list[tuple[Run, Run]]:
        """Runs of two arms with equal seeds."""
        first, second = self.by_arm.get(arm, {}), self.by_arm.get(reference, {})
        return [(first[seed], second[seed]) for seed in sorted(first) if seed in second]

    def nll_difference(self, arm: str, reference: str, group: str) -> Difference | None:
        """Of NLL a token in a group, paired by row and seed."""
        pairs = self.common(arm, reference)
        if not pairs:
            return None
        rows = self.base["groups"][group]

        def sums(place: int) -> list[list[float]]:
            return [np.array(pair[place]["rows"]["nll"])[rows].tolist() for pair in pairs]

        return paired(sums(0), sums(1), np.array(self.base["tokens"])[rows].tolist())

    def kl_difference(self, arm: str, reference: str) -> Difference | None:
        """Of the divergence from the base model on neutral text."""
        pairs = self.common(arm, reference)
        if not pairs:
            return None
        sums = [[pair[place]["neutral"]["kl"] for pair in pairs] for place in (0, 1)]
        return paired(*sums, pairs[0][0]["neutral"]["tokens"])

    def difference(
        self, arm: str, reference: str, number: Callable[[Run], float]
    ) -> Difference | None:
        """Of one number a run."""
        pairs = self.common(arm, reference)
        if not pairs:
            return None
        values = [[number(pair[place]) for pair in pairs] for place in (0, 1)]
        return by_seed(*values)


def kl(run: Run) -> float:
    """KL(base || tuned) on neutral text, in nats a token."""
    return float(sum(run["neutral"]["kl"]) / sum(run["neutral"]["tokens"]))


def section(results: Results) -> Section:
    """The study's table and its claims."""
    found = results.read()
    base = found.pop("base", None)
    if base is None or not found:
        return Section(TITLE, [f"{NOT_RUN.capitalize()}.\n"], _claims(None, results.protocol))
    by_arm: dict[str, dict[int, Run]] = {}
    for run in found.values():
        by_arm.setdefault(run["arm"], {})[run["seed"]] = run
    runs = Runs(base, by_arm)
    return Section(TITLE, _lines(runs, results.protocol), _claims(runs, results.protocol))


def _claims(runs: Runs | None, fixed: Mapping[str, Any]) -> list[Claim]:
    """Each claim of the paper as a comparison of two arms."""
    margin = fixed["margin"]

    def nll(words: str, arm: str, reference: str, group: str, say: Verdict = lower) -> Claim:
        found = None if runs is None else runs.nll_difference(arm, reference, group)
        return claim_of(words, found, say, margin, TOKEN)

    def one(words: str, number: Callable[[Run], float], say: Verdict) -> Claim:
        found = None if runs is None else runs.difference("ual", "sft", number)
        return claim_of(words, found, say, margin)

    def divergence(words: str, arm: str) -> Claim:
        found = None if runs is None else runs.kl_difference(arm, "sft")
        return claim_of(words, found, lower, margin, TOKEN)

    high, low = "high entropy", "low entropy"
    return [
        nll("UAL answers uncertain prompts better than SFT (NLL, upper half by entropy)", "ual",
            "sft", high),
        nll("UAL answers certain prompts no worse than SFT (NLL, lower half by entropy)", "ual",
            "sft", low, not_higher),
        nll("UAL is better than the same smoothing for all rows (NLL)", "ual", "constant", "all"),
        nll("UAL is better than the same smoothings on shuffled rows (NLL)", "ual", "shuffled",
            "all"),
        nll("Certain rows smoothed more are worse than UAL (NLL)", "decreasing", "ual", "all",
            higher),
        nll("UAL by the source of a row is better than SFT (NLL)", "ual-by-source", "sft", "all"),
        nll("UAL by self-consistency is better than by perplexity (NLL)", "ual-self-consistency",
            "ual", "all"),
        nll("UAL to the reference prior is better than to the uniform one (NLL)",
            "ual-reference", "ual", "all"),
        nll("UAL to the reference prior is better than SFT (NLL)", "ual-reference", "sft", "all"),
        nll("UAL to the reference prior is better than the same for all rows (NLL)",
            "ual-reference", "constant-reference", "all"),
        divergence("UAL forgets less than SFT (KL to the base model on neutral text)", "ual"),
        divergence("UAL to the reference prior forgets less than SFT (KL)", "ual-reference"),
        one("UAL is better calibrated than SFT (ECE, 15 bins of equal mass)",
            lambda run: float(run["ece"]["all"]), lower),
        one("Hidden states gather better by their next token than after SFT (Silhouette)",
            lambda run: float(run["silhouette"]), higher),
    ]  # fmt: skip


def _lines(runs: Runs, fixed: Mapping[str, Any]) -> list[str]:
    planned = [arm for group in fixed["order"] for arm in group]
    arms = [arm for arm in planned if arm in runs.by_arm]
    missing = [
        f"{arm} ({len(runs.by_arm.get(arm, {}))} of {len(fixed['seeds'])})"
        for arm in planned
        if len(runs.by_arm.get(arm, {})) < len(fixed["seeds"])
    ]
    text = (
        f"{fixed['train_rows']} training rows, half of them GSM8K and half GPTeacher roleplay, "
        f"{fixed['epochs']} epochs; {fixed['held_out_rows']} held-out rows. Means over seeds; "
        "differences are to SFT at the same seeds.\n"
    )
    lines = [text, _table(runs, arms), _INTERVALS]
    lines.append(_differences(runs, [arm for arm in arms if arm != "sft"]))
    curve = _curve(runs)
    if curve:
        lines.append(curve)
    lines.append(_LOOKED_AT)
    if missing:
        lines.append(f"Seeds that are there: {', '.join(missing)}. `resume` makes the rest.\n")
    return lines


def _table(runs: Runs, arms: Sequence[str]) -> str:
    head = ["arm", "seeds", *(f"NLL {group}" for group in GROUPS), "ECE", "KL to base"]
    head += ["Silhouette", "distinct 1", "distinct 2"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for arm, found in [("base", [runs.base]), *((a, list(runs.by_arm[a].values())) for a in arms)]:
        cells = [arm, "" if arm == "base" else str(len(found))]
        cells += [f"{_mean(found, lambda r, g=group: runs.nll(r, g)):.3f}" for group in GROUPS]
        cells.append(f"{_mean(found, lambda r: r['ece']['all']):.3f}")
        cells.append("0" if arm == "base" else f"{_mean(found, kl):.3f}")
        cells.append(f"{_mean(found, lambda r: r['silhouette']):.3f}")
        for number in ("distinct_1", "distinct_2"):
            cells.append(f"{_mean(found, lambda r, n=number: r['diversity'][n]):.2f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mean(found: Sequence[Run], number: Callable[[Run], float]) -> float:
    return float(np.mean([number(run) for run in found]))


def _differences(runs: Runs, arms: Sequence[str]) -> str:
    names = ("all", *GROUPS)
    lines = ["| arm | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 1)]
    for arm in arms:
        cells = [runs.nll_difference(arm, "sft", group) for group in names]
        if all(cell is not None for cell in cells):
            lines.append(f"| {arm} | " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def _curve(runs: Runs) -> str:
    """How far SFT fits its rows."""
    found = list(runs.by_arm.get("sft", {}).values())
    if not found:
        return ""
    mean = np.mean([run["train_nll"] for run in found], axis=0)
    shown = ", ".join(f"{value:.2f}" for value in mean)
    return (
        f"SFT's own NLL on the rows that it trains on, epoch by epoch: {shown}; on held-out rows "
        f"{_mean(found, lambda run: runs.nll(run, 'all')):.2f} after, "
        f"{runs.nll(runs.base, 'all'):.2f} before tuning.\n"
    )
