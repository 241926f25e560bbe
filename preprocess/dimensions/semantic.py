"""The semantic dimension: how few of the responses to a prompt mean the same.

The formulas are in `clustering`; here they are fed by a classifier for entailment or by sentence
embeddings. Many prompts are scored at once, so that their questions share batches; a result depends
on the texts of its own prompt only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from itertools import permutations
from typing import Any, Final, Literal

import numpy as np

from axolotl_ual.settings.pairs import SemanticConfig
from axolotl_ual.settings.server import shaping

from ..calls.ask import Session
from ..calls.plan import Plan
from ..data.responses import ResponseSet
from ..data.sentences import split_sentences
from ..labels.similarity import word_overlap
from ..models.local.embedder import Embedder
from ..models.local.nli import NliModel
from ..sampling.base import Unsampled
from ..sampling.local import identity
from .base import DimensionScores, FloatArray, Group, IntArray, Show, Usable
from .blocks import score_in_blocks
from .clustering import (
    align_sentences,
    among_sampled,
    canonical_order,
    cluster_by_average_link,
    cluster_by_similarity,
    degree_uncertainty,
    discrete_entropy,
    greedy_clusters,
    run_together,
    semantic_uncertainty,
    weighted_entropy,
)
from .entailment import Entailment

EMBEDDING: Final = "ual.pairs.semantic.embedding"
Unit = Literal["response", "sentence"]
Linkage = Literal["average", "threshold"]

Score = Literal["cluster", "degree"]

Scored = tuple[IntArray, FloatArray]
"""Cluster number and u_s of each of some texts."""

ScoreAll = Callable[[Sequence[tuple[int, Sequence[str]]]], list[Scored]]
"""Scores many lists of texts, each with the place of its prompt."""


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


@dataclass(frozen=True)
class SemanticDimension:
    """Semantic uncertainty by entailment or by embeddings.

    Attributes:
        config: the recipe's `ual.pairs.semantic`.
        entailment: for `method: nli`.
        session: of the command; its cache keeps finished blocks.
    """

    name = "semantic"
    compares_evidence = True
    config: SemanticConfig
    entailment: Entailment
    session: Session

    def check(self) -> None:
        """Nothing is sent."""

    def plan(self, data: ResponseSet, unsampled: Unsampled | None, scorings: int) -> Plan:
        """One line."""
        return Plan([f"{self.name}: {self.config.method}, on this machine"])

    def score(self, usable: Usable, repeat: int, show: Show) -> DimensionScores:
        """Cluster the responses to each prompt by meaning."""
        identity = {"kind": "semantic-block", **self._model(), "unit": self.config.unit}
        if self.config.score != "cluster":
            identity["score"] = self.config.score
        groups = usable.groups()
        with show(f"{self.name} ({self.config.method})", len(groups)) as progress:
            score = self._by_entailment if self.config.method == "nli" else self._by_embedding()
            found = score_in_blocks(self.session.cache, identity, groups, score, progress)
        scores = DimensionScores(usable.none(), facts=self._facts())
        prompts = len(usable.data.prompts)
        cluster, entropy, weighted = (
            usable.none(),
            np.full(prompts, np.nan),
            np.full(prompts, np.nan),
        )
        for (prompt, rows), raw in zip(usable.places, found, strict=True):
            sampled = len(usable.data.responses[prompt])
            scores.uncertainty[rows] = among_sampled(raw["uncertainty"], sampled)
            if raw["clusters"]:
                cluster[rows] = raw["clusters"]
            entropy[prompt] = raw["entropy"]
            # JSON has no NaN.
            weighted[prompt] = math.nan if (w := raw["weighted_entropy"]) is None else w
        prompt_of = usable.data.prompt_of()
        scores.columns = {
            "cluster": cluster,
            "semantic_entropy": entropy[prompt_of],
            "semantic_entropy_weighted": weighted[prompt_of],
        }
        return scores

    def _by_entailment(self, groups: Sequence[Group]) -> list[Any]:
        found = semantic_by_nli(groups, self.entailment.load(), self.config.unit, self.config.score)
        self.entailment.forget()
        return [asdict(semantic) for semantic in found]

    def _by_embedding(self) -> Callable[[Sequence[Group]], list[Any]]:
        by, config = self.config.embedding, self.config

        @cache
        def embedder() -> Embedder:
            return Embedder.load(
                by.model, key=EMBEDDING, device=by.device, batch_size=by.batch_size
            )

        def score(groups: Sequence[Group]) -> list[Any]:
            found = semantic_by_embedding(
                groups, embedder(), by.similarity, by.linkage, config.unit, config.score
            )
            return [asdict(semantic) for semantic in found]

        return score

    def _model(self) -> dict[str, Any]:
        if self.config.method == "nli":
            return self.entailment.identity()
        by = self.config.embedding
        return {"embedding": {**shaping(by), "model": identity(by.model)}}

    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = {"method": self.config.method}
        if self.config.score != "cluster":
            facts["score"] = self.config.score
        if self.config.method == "nli":
            return {**facts, **self.entailment.facts()}
        return {**facts, "model": self.config.embedding.model}


def semantic_by_nli(
    groups: Sequence[Group], nli: NliModel, unit: Unit, score: Score = "cluster"
) -> list[Semantic]:
    """Cluster by bidirectional entailment, conditioned on the question.

    Args:
        groups: prompts.
        nli: the model.
        unit: whole responses or sentences.
        score: u_s by the size of a cluster, or by the probability of entailment both ways.
    """

    def cluster_all(parts: Sequence[tuple[int, Sequence[str]]]) -> list[IntArray]:
        def ask(questions: list[tuple[int, str, str]]) -> list[bool]:
            return nli.entails(
                [(groups[parts[i][0]].question, first, second) for i, first, second in questions]
            )

        return run_together([greedy_clusters(texts) for _, texts in parts], ask)

    def score_all(parts: Sequence[tuple[int, Sequence[str]]]) -> list[Scored]:
        labels = cluster_all(parts)
        if score == "cluster":
            return [(found, semantic_uncertainty(found)) for found in labels]
        asked = sorted(
            {
                (groups[place].question, first, second)
                for place, texts in parts
                for first, second in permutations(sorted(set(texts)), 2)
            }
        )
        entailed = dict(zip(asked, nli.entailment(asked).tolist(), strict=True))

        def alike(question: str, one: str, other: str) -> float:
            if one == other:
                return 1.0
            return float(entailed[question, one, other] + entailed[question, other, one]) / 2

        return [
            (
                found,
                degree_uncertainty(
                    np.array([[alike(groups[place].question, a, b) for b in texts] for a in texts])
                ),
            )
            for (place, texts), found in zip(parts, labels, strict=True)
        ]

    return _score(groups, unit, score_all, word_overlap)


def semantic_by_embedding(
    groups: Sequence[Group],
    embedder: Embedder,
    least: float,
    linkage: Linkage,
    unit: Unit,
    score: Score = "cluster",
) -> list[Semantic]:
    """Cluster by the cosine similarity of sentence embeddings.

    Args:
        groups: prompts.
        embedder: the model.
        least: similarity from which two texts, or two clusters, are one.
        linkage: average link, or comparison with the first member of a cluster.
        unit: whole responses or sentences.
        score: u_s by the size of a cluster, or by the cosine.
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

    def score_all(parts: Sequence[tuple[int, Sequence[str]]]) -> list[Scored]:
        found = []
        for _, texts in parts:
            similarity = similarities(texts)
            labels = method(texts, similarity, least)
            if score == "cluster":
                found.append((labels, semantic_uncertainty(labels)))
            else:
                same = np.array([[a == b for b in texts] for a in texts])
                graded = np.where(same, 1.0, np.maximum(similarity, 0.0))
                found.append((labels, degree_uncertainty(graded)))
        return found

    return _score(groups, unit, score_all, alike)


def _score(
    groups: Sequence[Group],
    unit: Unit,
    score_all: ScoreAll,
    similarity: Callable[[str, str], float],
) -> list[Semantic]:
    if unit == "sentence":
        return _of_sentences(groups, score_all, similarity)
    found = score_all([(place, group.texts) for place, group in enumerate(groups)])
    return [_of_responses(group, *scored) for group, scored in zip(groups, found, strict=True)]


def _of_responses(group: Group, labels: IntArray, uncertainty: FloatArray) -> Semantic:
    return Semantic(
        clusters=labels.tolist(),
        uncertainty=uncertainty.tolist(),
        entropy=discrete_entropy(labels),
        weighted_entropy=weighted_entropy(labels, np.array(group.mean_logprobs)),
    )


def _of_sentences(
    groups: Sequence[Group],
    score_all: ScoreAll,
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
    scored = dict(zip(parts, score_all(parts), strict=True))
    return [
        _mean_over_sentences(
            group, [[scored[place, tuple(members)] for members in own] for own in responses]
        )
        for place, (group, responses) in enumerate(zip(groups, aligned, strict=True))
    ]


def _mean_over_sentences(group: Group, scored: Sequence[Sequence[Scored]]) -> Semantic:
    logprobs = np.array(group.mean_logprobs)
    # Summed in a canonical order, so that the order of the responses leaves no trace in rounding.
    rank = {text: position for position, text in enumerate(canonical_order(group.texts))}
    order = sorted(range(len(scored)), key=lambda i: rank[group.texts[i]])
    uncertainty = [float(np.mean([values[i] for _, values in own])) for i, own in enumerate(scored)]
    return Semantic(
        clusters=[],
        uncertainty=uncertainty,
        entropy=_mean_of_means(
            [[discrete_entropy(labels) for labels, _ in scored[i]] for i in order]
        ),
        weighted_entropy=_mean_of_means(
            [[weighted_entropy(labels, logprobs) for labels, _ in scored[i]] for i in order]
        ),
    )


def _mean_of_means(values: Sequence[Sequence[float]]) -> float:
    return float(np.mean([np.mean(own) for own in values]))
