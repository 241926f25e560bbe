"""The section of study 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats
from study import Results
from verdicts import AGAINST, NOT_RUN, SUPPORTED, UNKNOWN, Claim, Section

TITLE = "Study 1: estimators against the spread of many models' answers"
SPREADS = ("embedding", "lexical")
LENGTHS = ("prompt length", "response length")
Floats = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Correlation:
    """A rank correlation and what resamples of rows give."""

    value: float
    drawn: Floats

    def __str__(self) -> str:
        low, high = np.percentile(self.drawn, [2.5, 97.5])
        return f"{self.value:+.2f} [{low:+.2f}, {high:+.2f}]"


def correlation(
    values: Floats, spread: Floats, fixed: Mapping[str, Any], lengths: Floats | None = None
) -> Correlation:
    """Spearman's, over rows with a value; partial on the ranks of lengths (R, K) where given."""
    rng = np.random.default_rng(fixed["seed"])
    draws = rng.integers(len(values), size=(fixed["resamples"], len(values)))
    drawn = [_spearman(values, spread, lengths, rows) for rows in draws]
    whole = _spearman(values, spread, lengths, np.arange(len(values)))
    return Correlation(whole, np.array(drawn))


def _spearman(values: Floats, spread: Floats, lengths: Floats | None, rows: Floats) -> float:
    rows = rows[~np.isnan(values[rows])]
    first, second = stats.rankdata(values[rows]), stats.rankdata(spread[rows])
    if lengths is not None:
        ranks = np.apply_along_axis(stats.rankdata, 0, lengths[rows])
        given = np.column_stack([np.ones(len(rows)), ranks])
        first, second = (one - given @ np.linalg.lstsq(given, one)[0] for one in (first, second))
    if np.ptp(first) == 0 or np.ptp(second) == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def section(results: Results) -> Section:
    """The study's table and its claims."""
    found = results.read()
    spread = found.pop("spread", None)
    claim = "A judge tells better than perplexity how far good answers differ"
    if spread is None:
        return Section(TITLE, [f"{NOT_RUN.capitalize()}.\n"], [Claim(claim, NOT_RUN, "")])
    fixed = results.protocol
    lengths = np.column_stack([spread[name] for name in LENGTHS]).astype(np.float64)
    scored = {name: _floats(found[name]["values"]) for name in fixed["estimators"] if name in found}
    lines = [_head(spread, len(lengths)), _table(spread, scored, lengths, fixed)]
    missing = [name for name in fixed["estimators"] if name not in found]
    if missing:
        lines.append(f"Not run yet: {', '.join(missing)}.\n")
    return Section(TITLE, lines, [_claim(claim, spread, scored, fixed)])


def _floats(values: list[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in values])


def _head(spread: Mapping[str, Any], rows: int) -> str:
    halves = {name: float(stats.spearmanr(*spread["halves"][name]).statistic) for name in SPREADS}
    return (
        f"{rows} instructions of AlpacaEval, each answered by {spread['models']} models: the "
        "spread is 1 less the mean similarity of two answers, by sentence embeddings or by words. "
        "Of two halves of the models the spreads correlate by "
        + " and ".join(f"{value:.2f} ({name})" for name, value in halves.items())
        + ", and no estimator can reach much more. Spearman's rank correlation with 95 % "
        "bootstrap intervals over instructions; partial: given the ranks of both lengths.\n"
    )


def _table(
    spread: Mapping[str, Any],
    scored: Mapping[str, Floats],
    lengths: Floats,
    fixed: Mapping[str, Any],
) -> str:
    head = [f"{name}{kind}" for name in SPREADS for kind in ("", ", partial")]
    lines = ["| | rows | " + " | ".join(head) + " |", "|" + "---|" * (len(head) + 2)]
    baselines = {name: _floats(spread[name]) for name in LENGTHS}
    for name, values in (*baselines.items(), *scored.items()):
        cells = [name, str(int((~np.isnan(values)).sum()))]
        for measured in (_floats(spread[one]) for one in SPREADS):
            cells.append(str(correlation(values, measured, fixed)))
            own = name in LENGTHS
            cells.append("" if own else str(correlation(values, measured, fixed, lengths)))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _claim(
    words: str, spread: Mapping[str, Any], scored: Mapping[str, Floats], fixed: Mapping[str, Any]
) -> Claim:
    if not {"judge", "perplexity"} <= set(scored):
        return Claim(words, NOT_RUN, "")
    measured = _floats(spread["embedding"])
    one, other = (correlation(scored[name], measured, fixed) for name in ("judge", "perplexity"))
    less = Correlation(one.value - other.value, one.drawn - other.drawn)
    low, high = np.percentile(less.drawn, [2.5, 97.5])
    margin = fixed["margin"]
    verdict = UNKNOWN
    if low > 0:
        verdict = SUPPORTED
    elif high < 0 or (-margin < low and high < margin):
        verdict = AGAINST
    return Claim(words, verdict, f"{less} in Spearman's correlation, a judge of 135M parameters")
