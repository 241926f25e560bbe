"""Factual uncertainty: how far a response is contradicted, or its claims are not supported.

By consistency (SelfCheckGPT-NLI, Manakul et al. 2023), for the sentences s of r_i and the other
samples r_j of the prompt:

    u_f(r_i) = mean_s mean_{j != i} P(contradiction | premise r_j, hypothesis s)

with a softmax over entailment and contradiction only. A sentence that stands in r_j word for word
is not contradicted by it and is never sent to the model.

By a judge that rates each checkable claim of r_i:

    u_f(r_i) = (number of claims unknown or false) / (number of claims)

and 0 for a response that claims nothing checkable.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from ..calls.ask import Session
from ..calls.plan import Plan
from ..data.responses import ResponseSet
from ..data.sentences import split_sentences
from ..models.local.nli import NliModel
from ..sampling.base import Unsampled
from .base import DimensionScores, Group, Show, Usable
from .blocks import score_in_blocks
from .entailment import Entailment

Question = tuple[str, str]
"""(premise, hypothesis)"""

SINGLE: Final = "single usable response"

SUPPORTED: Final = "supported"
UNKNOWN: Final = "unknown"
FALSE: Final = "false"
VERDICTS: Final = (SUPPORTED, UNKNOWN, FALSE)


@dataclass(frozen=True)
class FactualByConsistency:
    """Factual uncertainty by contradiction.

    Attributes:
        entailment: the classifier.
        session: of the command; its cache keeps finished blocks.
    """

    name = "factual"
    compares_evidence = True
    entailment: Entailment
    session: Session

    def check(self) -> None:
        """Nothing is sent."""

    def plan(self, data: ResponseSet, unsampled: Unsampled | None, scorings: int) -> Plan:
        """One line."""
        return Plan([f"{self.name}: consistency, on this machine"])

    def score(self, usable: Usable, repeat: int, show: Show) -> DimensionScores:
        """Hold each response against the others to its prompt."""
        groups = usable.groups()
        identity = {"kind": "factual-block", **self.entailment.identity()}
        with show(f"{self.name} (consistency)", len(groups)) as progress:
            found = score_in_blocks(
                self.session.cache, identity, groups, self._score_block, progress
            )
        facts = {"method": "consistency", **self.entailment.facts()}
        scores = DimensionScores(usable.none(), facts=facts)
        for (_, rows), values in zip(usable.places, found, strict=True):
            # JSON has no NaN.
            scores.uncertainty[rows] = [math.nan if value is None else value for value in values]
        single = int(np.isnan(scores.uncertainty[usable.rows]).sum())
        scores.failures.update({SINGLE: single} if single else {})
        return scores

    def _score_block(self, groups: Sequence[Group]) -> list[Any]:
        found = factual_by_consistency(groups, self.entailment.load())
        self.entailment.forget()
        return list(found)


def factual_by_consistency(groups: Sequence[Group], nli: NliModel) -> list[list[float]]:
    """u_f of each response against the other samples; NaN where there is no other."""
    sentences = {
        text: split_sentences(text) for text in sorted({t for g in groups for t in g.texts})
    }
    asked = sorted(
        {
            question
            for group in groups
            if len(group.texts) > 1
            for question in contradiction_questions(sentences, group.texts, group.texts)
        }
    )
    answers = nli.contradiction([("", *question) for question in asked])
    contradiction = dict(zip(asked, answers.tolist(), strict=True))

    def score(group: Group, place: int) -> float:
        others = group.texts[:place] + group.texts[place + 1 :]
        if not others:
            return float("nan")
        return consistency(sentences[group.texts[place]], others, sentences, contradiction)

    return [[score(group, place) for place in range(len(group.texts))] for group in groups]


def contradiction_questions(
    sentences_of: Mapping[str, Sequence[str]], targets: Iterable[str], evidence: Iterable[str]
) -> list[Question]:
    """What has to be asked to check every target against every piece of evidence.

    Args:
        sentences_of: the sentences of every target and of all evidence.
        targets: texts to check.
        evidence: texts to check them against.

    Returns:
        Distinct (evidence, sentence), in a canonical order.
    """
    samples = sorted(set(evidence))
    questions = {
        (sample, sentence)
        for target in set(targets)
        for sentence in sentences_of[target]
        for sample in samples
        if sample != target and sentence not in sentences_of[sample]
    }
    return sorted(questions)


def consistency(
    sentences: Sequence[str],
    others: Sequence[str],
    sentences_of: Mapping[str, Sequence[str]],
    contradiction: Mapping[Question, float],
) -> float:
    """u_f of one response.

    Args:
        sentences: of the response; at least one.
        others: the other samples, repeats included; at least one.
        sentences_of: the sentences of the other samples.
        contradiction: P(contradiction) of every question of `contradiction_questions`.

    Returns:
        A number in [0, 1].
    """
    total = 0.0
    for other, count in sorted(Counter(others).items()):
        known = sentences_of[other]
        total += count * sum(
            0.0 if sentence in known else contradiction[other, sentence] for sentence in sentences
        )
    return total / (len(others) * len(sentences))


def unsupported_share(verdicts: Sequence[str]) -> float:
    """u_f from a judge's verdicts, each one of `VERDICTS`; 0 where there is no claim."""
    if not verdicts:
        return 0.0
    return sum(verdict != SUPPORTED for verdict in verdicts) / len(verdicts)
