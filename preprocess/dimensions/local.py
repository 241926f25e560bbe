"""Scores of sampled responses by local models: what the estimators' formulas are fed with.

Each function takes many prompts at once, so that their questions share batches, and gives one
result for each. A result depends on the texts of its own prompt only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..labels.similarity import word_overlap
from ..models.local.embedder import Embedder
from ..models.local.nli import NliModel
from .factual import consistency, contradiction_questions
from .semantic import (
    IntArray,
    align_sentences,
    canonical_order,
    cluster_by_average_link,
    cluster_by_similarity,
    discrete_entropy,
    greedy_clusters,
    run_together,
    semantic_uncertainty,
    weighted_entropy,
)
from .sentences import split_sentences

FloatArray = npt.NDArray[np.float64]
Unit = Literal["response", "sentence"]
Linkage = Literal["average", "threshold"]

ClusterAll = Callable[[Sequence[tuple[int, Sequence[str]]]], list[IntArray]]
"""Clusters many lists of texts, each with the place of its prompt."""


@dataclass(frozen=True, slots=True)
class Group:
    """The usable responses of one prompt, n of them.

    Attributes:
        question: what entailment is conditioned on.
        texts: the responses, none empty.
        mean_logprobs: mean token log-probability of each, NaN where it is not known.
    """

    question: str
    texts: tuple[str, ...]
    mean_logprobs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Semantic:
    """Semantic uncertainty of one prompt's n responses.

    Attributes:
        clusters: cluster number of each response; empty where sentences were clustered.
        uncertainty: u_s of each response.
        entropy: discrete semantic entropy, divided by ln n.
        weighted_entropy: likelihood-weighted, divided by ln n; NaN without log-probabilities.
    """

    clusters: list[int]
    uncertainty: list[float]
    entropy: float
    weighted_entropy: float


def semantic_by_nli(groups: Sequence[Group], nli: NliModel, unit: Unit) -> list[Semantic]:
    """Cluster by bidirectional entailment, conditioned on the question."""

    def cluster_all(parts: Sequence[tuple[int, Sequence[str]]]) -> list[IntArray]:
        def ask(questions: list[tuple[int, str, str]]) -> list[bool]:
            return nli.entails(
                [(groups[parts[i][0]].question, first, second) for i, first, second in questions]
            )

        return run_together([greedy_clusters(texts) for _, texts in parts], ask)

    if unit == "response":
        labels = cluster_all([(place, group.texts) for place, group in enumerate(groups)])
        return [_of_responses(*pair) for pair in zip(groups, labels, strict=True)]
    return _of_sentences(groups, cluster_all, word_overlap)


def semantic_by_embedding(
    groups: Sequence[Group], embedder: Embedder, least: float, linkage: Linkage, unit: Unit
) -> list[Semantic]:
    """Cluster by the cosine similarity of sentence embeddings.

    Args:
        groups: prompts.
        embedder: the model.
        least: similarity from which two texts, or two clusters, are one.
        linkage: average link, or comparison with the first member of a cluster.
        unit: whole responses or sentences.
    """
    method = cluster_by_average_link if linkage == "average" else cluster_by_similarity
    pieces = [
        [text for response in group.texts for text in split_sentences(response)]
        if unit == "sentence"
        else list(group.texts)
        for group in groups
    ]
    distinct = sorted({text for texts in pieces for text in texts})
    vectors = embedder.embed(distinct)
    row = {text: place for place, text in enumerate(distinct)}

    def similarities(texts: Sequence[str]) -> FloatArray:
        chosen = vectors[[row[text] for text in texts]]
        return np.clip(chosen @ chosen.T, -1.0, 1.0)

    def alike(one: str, other: str) -> float:
        return float(vectors[row[one]] @ vectors[row[other]])

    def cluster_all(parts: Sequence[tuple[int, Sequence[str]]]) -> list[IntArray]:
        return [method(texts, similarities(texts), least) for _, texts in parts]

    if unit == "response":
        labels = cluster_all([(place, group.texts) for place, group in enumerate(groups)])
        return [_of_responses(*pair) for pair in zip(groups, labels, strict=True)]
    return _of_sentences(groups, cluster_all, alike)


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


def _of_responses(group: Group, labels: IntArray) -> Semantic:
    return Semantic(
        clusters=labels.tolist(),
        uncertainty=semantic_uncertainty(labels).tolist(),
        entropy=discrete_entropy(labels),
        weighted_entropy=weighted_entropy(labels, np.array(group.mean_logprobs)),
    )


def _of_sentences(
    groups: Sequence[Group],
    cluster_all: ClusterAll,
    similarity: Callable[[str, str], float],
) -> list[Semantic]:
    """Score sentences among their counterparts; a response is the mean over its sentences."""
    aligned = [
        align_sentences([split_sentences(text) for text in group.texts], similarity)
        for group in groups
    ]
    parts = sorted(
        {
            (place, tuple(members))
            for place, responses in enumerate(aligned)
            for sentences in responses
            for members in sentences
        }
    )
    labels = dict(zip(parts, cluster_all(parts), strict=True))
    return [
        _mean_over_sentences(
            group, [[labels[place, tuple(members)] for members in own] for own in responses]
        )
        for place, (group, responses) in enumerate(zip(groups, aligned, strict=True))
    ]


def _mean_over_sentences(group: Group, labels: Sequence[Sequence[IntArray]]) -> Semantic:
    logprobs = np.array(group.mean_logprobs)
    # Summed in a canonical order, so that the order of the responses leaves no trace in rounding.
    rank = {text: position for position, text in enumerate(canonical_order(group.texts))}
    order = sorted(range(len(labels)), key=lambda i: rank[group.texts[i]])
    uncertainty = [
        float(np.mean([semantic_uncertainty(found)[i] for found in own]))
        for i, own in enumerate(labels)
    ]
    return Semantic(
        clusters=[],
        uncertainty=uncertainty,
        entropy=_mean_of_means([[discrete_entropy(found) for found in labels[i]] for i in order]),
        weighted_entropy=_mean_of_means(
            [[weighted_entropy(found, logprobs) for found in labels[i]] for i in order]
        ),
    )


def _mean_of_means(values: Sequence[Sequence[float]]) -> float:
    return float(np.mean([np.mean(own) for own in values]))
