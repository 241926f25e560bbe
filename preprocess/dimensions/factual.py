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

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

Question = tuple[str, str]
"""(premise, hypothesis)"""

SUPPORTED: Final = "supported"
UNKNOWN: Final = "unknown"
FALSE: Final = "false"
VERDICTS: Final = (SUPPORTED, UNKNOWN, FALSE)


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
