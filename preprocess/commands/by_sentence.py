"""What `annotate` does where sentences get an uncertainty: before the estimator, and after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from axolotl_ual.settings.sentence_rules import of_sentence_units
from axolotl_ual.settings.ual import AnnotateConfig

from ..data.by_sentence import BySentence
from ..data.recipe import Recipe
from ..data.sample import Sample
from ..estimators.base import Estimation
from ..labels.sentences import NONE_SCORED, Scored


def sentences_of(
    recipe: Recipe, settings: AnnotateConfig, samples: Sequence[Sample]
) -> BySentence | None:
    """The sentences of rows as samples; None where rows are what is scored.

    Raises:
        UnsupportedError: the recipe could not train on them.
    """
    if settings.unit == "row":
        return None
    for error in of_sentence_units(recipe.raw):
        raise error
    # Sampled answers are whole: they go on with no part of the response.
    return BySentence(samples, with_before=settings.estimator != "self_consistency")


def over_sentences(estimation: Estimation, sentences: BySentence) -> tuple[Estimation, Scored]:
    """An estimation of S sentences as one of their N rows, and what is known of the sentences."""
    scored = Scored.of(sentences, estimation.uncertainty)
    uncertainty = scored.means(scored.uncertainty_S)
    missing = int(np.isnan(uncertainty).sum())
    failed = {reason: number for reason, number in estimation.failures.items() if number}
    facts: dict[str, Any] = {"number": len(sentences), **({"failed": failed} if failed else {})}
    rows = replace(
        estimation,
        uncertainty=uncertainty,
        columns={name: scored.means(values) for name, values in estimation.columns.items()},
        failures={NONE_SCORED: missing} if missing else {},
        facts={**estimation.facts, "sentences": facts},
    )
    return rows, scored


def name_rows(unscored: Path, sentences: BySentence) -> None:
    """Name row and sentence where answers without a score name the place of a sentence."""
    if not unscored.exists():
        return
    named = []
    for line in unscored.read_bytes().splitlines():
        found = orjson.loads(line)
        row, number = sentences.place(found.pop("row"))
        named.append({"row": row, "sentence": number, **found})
    lines = (orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE) for line in named)
    unscored.write_bytes(b"".join(lines))


def sentences_line(facts: Mapping[str, Any]) -> str:
    """What is told of sentences on the screen."""
    line = f"{facts['number']:,} sentences"
    failed = facts.get("failed", {})
    if failed:
        reasons = ", ".join(f"{reason}: {number:,}" for reason, number in failed.items())
        line += f", {sum(failed.values()):,} without a score, which take the mean of their row"
        line += f" where it has one ({reasons})"
    return line
