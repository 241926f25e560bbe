"""Semantic uncertainty: responses that mean the same form a cluster.

    u_s(r_i) = 1 - |cluster(r_i)| / n                          uncertainty of a response
             = (1 - |cluster(r_i)| / m) (1 - 1/n) / (1 - 1/m)  where m of the n are usable
    SE       = -sum_c p(c) ln p(c)                             semantic entropy of the prompt
    p(c)     = |c| / n                                         discrete
    p(c)     = sum_{i in c} exp(l_i) / sum_i exp(l_i)          likelihood-weighted

with l_i the mean log-probability of the tokens of response i (length-normalised). Both entropies
are divided by ln n, their largest value, so that they lie in [0, 1].

A response that agrees with no other has u_s = 1 - 1/n. Were it 1 - 1/m where only m of n sampled
responses are usable, the gaps of such prompts would be smaller for that reason alone, and their
pairs would drift to a later stage. The second line is the first with the size that the cluster
would have among n: each of the n - 1 others joins it as often as one of the m - 1 does.

A graded rival, `score: degree` (Lin et al., "Generating with Confidence", arXiv 2305.19187), asks
how alike and not whether the same:

    u_s(r_i) = 1 - 1/m sum_j w_ij       w_ii = 1, w_ij = (P(i entails j) + P(j entails i)) / 2
                                        or max(0, cos(r_i, r_j))

It is the first formula where w is 1 within clusters and 0 between them, and is brought to n in the
same way. It tells responses apart that are all alone in their clusters, and asks more: every
ordered pair of distinct texts.

Two responses mean the same where each entails the other. Clusters are greedy (Kuhn et al. 2023,
Farquhar et al. 2024): a response joins the first cluster whose first member it matches. Entailment
is not transitive, so the outcome depends on the order; here the order is canonical (the most
frequent text first, then by code point), which makes the clusters a function of the multiset of
texts. Rival definitions: uqlm accepts either direction and divides by ln(n + 1); lm-polygraph
leaves the question out of the entailment input.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

Question = tuple[str, str]
"""(premise, hypothesis): does the first entail the second?"""

Clustering = Generator[list[Question], Sequence[bool], IntArray]
"""Asks for entailments in rounds; returns the cluster number of each text."""

Ask = Callable[[list[tuple[int, str, str]]], Sequence[bool]]
"""Answers (number of the clustering, premise, hypothesis) for many clusterings at once."""


def canonical_order(texts: Sequence[str]) -> list[str]:
    """The distinct texts, the most frequent first, then by code point."""
    counts = Counter(texts)
    return sorted(counts, key=lambda text: (-counts[text], text))


def greedy_clusters(texts: Sequence[str]) -> Clustering:
    """Cluster one prompt's responses by bidirectional entailment.

    Each round compares the first member of a cluster with all texts that have none. The backward
    direction is asked only where the forward one holds, and equal texts are one text, so that at
    most k (k - 1) directed pairs are asked for k distinct texts.

    Args:
        texts: n responses.

    Returns:
        Cluster numbers of shape (n,); see `number_clusters`.
    """
    waiting = canonical_order(texts)
    cluster_of: dict[str, int] = {}
    number = 0
    while waiting:
        first, *others = waiting
        members = {first}
        if others:
            forward = yield [(first, other) for other in others]
            matches = [other for other, holds in zip(others, forward, strict=True) if holds]
            if matches:
                backward = yield [(other, first) for other in matches]
                members.update(
                    other for other, holds in zip(matches, backward, strict=True) if holds
                )
        cluster_of.update(dict.fromkeys(members, number))
        waiting = [other for other in others if other not in members]
        number += 1
    return number_clusters(texts, [cluster_of[text] for text in texts])


def run_together(clusterings: Sequence[Clustering], ask: Ask) -> list[IntArray]:
    """Advance many clusterings in step, so that their questions share batches.

    Args:
        clusterings: from `greedy_clusters`, one per prompt.
        ask: answers the questions of one round.
    """
    results: list[IntArray] = [np.empty(0, dtype=np.int64)] * len(clusterings)
    waiting: dict[int, list[Question]] = {}

    def advance(index: int, answers: Sequence[bool] | None) -> None:
        clustering = clusterings[index]
        try:
            waiting[index] = next(clustering) if answers is None else clustering.send(answers)
        except StopIteration as stop:
            results[index] = stop.value

    for index in range(len(clusterings)):
        advance(index, None)
    while waiting:
        asked, waiting = waiting, {}
        answers = ask([(i, *question) for i, questions in asked.items() for question in questions])
        start = 0
        for index, questions in asked.items():
            advance(index, answers[start : start + len(questions)])
            start += len(questions)
    return results


def cluster_by_similarity(texts: Sequence[str], similarity: FloatArray, least: float) -> IntArray:
    """Cluster greedily, two texts matching where their similarity is at least `least`.

    Args:
        texts: n responses.
        similarity: (n, n), symmetric; equal texts have equal rows.
        least: threshold of a match.

    Returns:
        Cluster numbers of shape (n,).
    """
    place = {text: index for index, text in enumerate(texts)}

    def ask(questions: list[tuple[int, str, str]]) -> list[bool]:
        return [bool(similarity[place[a], place[b]] >= least) for _, a, b in questions]

    return run_together([greedy_clusters(texts)], ask)[0]


def cluster_by_average_link(texts: Sequence[str], similarity: FloatArray, least: float) -> IntArray:
    """Agglomerative clusters: merge while the mean similarity of two clusters is at least `least`.

    Args:
        texts: n responses.
        similarity: (n, n), symmetric, at most 1; equal texts have equal rows.
        least: merging stops below it.

    Returns:
        Cluster numbers of shape (n,).
    """
    # Not needed where nothing is embedded, and only installed where things are.
    from scipy.cluster.hierarchy import fcluster, linkage

    n = len(texts)
    if n == 1:
        return np.zeros(1, dtype=np.int64)
    rank = {text: position for position, text in enumerate(canonical_order(texts))}
    order = sorted(range(n), key=lambda index: rank[texts[index]])
    distance = np.maximum(1.0 - similarity[np.ix_(order, order)], 0.0)
    condensed = distance[np.triu_indices(n, k=1)]
    merged = fcluster(linkage(condensed, method="average"), 1.0 - least, criterion="distance")
    labels = np.empty(n, dtype=np.int64)
    labels[order] = merged
    return number_clusters(texts, labels.tolist())


def number_clusters(texts: Sequence[str], labels: Sequence[int]) -> IntArray:
    """Number clusters from 0, the largest first, then by their least text.

    Args:
        texts: n responses.
        labels: any cluster labels of shape (n,).
    """
    members: defaultdict[int, list[str]] = defaultdict(list)
    for text, label in zip(texts, labels, strict=True):
        members[label].append(text)
    ordered = sorted(members, key=lambda label: (-len(members[label]), min(members[label])))
    number = {label: position for position, label in enumerate(ordered)}
    return np.array([number[label] for label in labels], dtype=np.int64)


def align_sentences(
    sentences: Sequence[Sequence[str]], similarity: Callable[[str, str], float]
) -> list[list[list[str]]]:
    """Set beside each sentence its counterpart in every other response.

    Long responses are scored sentence by sentence: a sentence and its counterparts, one from each
    response, are clustered as short responses are. A response of one sentence is its own
    counterpart everywhere, so that for short responses both ways of scoring agree.

    Args:
        sentences: of each of n responses; none is empty.
        similarity: how alike two sentences are; the most alike is the counterpart.

    Returns:
        For each response and each of its sentences the n members, the sentence itself in its place.
    """
    known: dict[tuple[str, int], str] = {}

    def counterpart(sentence: str, other: int) -> str:
        found = known.get((sentence, other))
        if found is None:
            found = min(sentences[other], key=lambda text: (-similarity(sentence, text), text))
            known[sentence, other] = found
        return found

    return [
        [
            [sentence if j == i else counterpart(sentence, j) for j in range(len(sentences))]
            for sentence in own
        ]
        for i, own in enumerate(sentences)
    ]


def semantic_uncertainty(labels: IntArray) -> FloatArray:
    """u_s = 1 - |cluster| / m of each of m usable responses; `labels` has shape (m,)."""
    sizes = np.bincount(labels)
    uncertainty: FloatArray = 1.0 - sizes[labels] / len(labels)
    return uncertainty


def degree_uncertainty(similarity: FloatArray) -> FloatArray:
    """u_s = 1 - sum_j w_ij / m; `similarity` is w, of shape (m, m), with 1 on its diagonal."""
    uncertainty: FloatArray = np.clip(1.0 - similarity.mean(axis=1), 0.0, 1.0)
    return uncertainty


def among_sampled(uncertainty: Sequence[float], sampled: int) -> list[float]:
    """u_s of the m usable responses of a prompt, as if all n sampled ones were usable.

    Args:
        uncertainty: 1 - |cluster| / m of each, or by degree.
        sampled: n, at least m.
    """
    usable = len(uncertainty)
    if usable in (1, sampled):
        return list(uncertainty)
    factor = (1.0 - 1.0 / sampled) / (1.0 - 1.0 / usable)
    return [value * factor for value in uncertainty]


def discrete_entropy(labels: IntArray) -> float:
    """Semantic entropy with p(c) = |c| / n, divided by ln n; 0 for a single response."""
    return _normalised_entropy(np.bincount(labels) / len(labels), len(labels))


def weighted_entropy(labels: IntArray, mean_logprobs: FloatArray) -> float:
    """Semantic entropy with likelihood-weighted p(c), divided by ln n.

    Args:
        labels: cluster numbers of shape (n,).
        mean_logprobs: mean token log-probability of each response, shape (n,). The largest is
            taken off first, so that long, unlikely responses do not underflow to 0 / 0.

    Returns:
        A number in [0, 1], or NaN where a log-probability is missing.
    """
    if not np.all(np.isfinite(mean_logprobs)):
        return math.nan
    weights = np.exp(mean_logprobs - mean_logprobs.max())
    mass = np.bincount(labels, weights=weights)
    return _normalised_entropy(mass / mass.sum(), len(labels))


def _normalised_entropy(probabilities: FloatArray, n: int) -> float:
    if n < 2:
        return 0.0
    positive = probabilities[probabilities > 0]
    entropy = -float(np.sum(positive * np.log(positive)))
    return min(max(entropy / math.log(n), 0.0), 1.0)
