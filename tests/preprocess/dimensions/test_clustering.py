"""Clusters by meaning and the entropies on them, on constructed responses."""

import itertools
import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.dimensions.clustering import (
    among_sampled,
    canonical_order,
    cluster_by_average_link,
    cluster_by_similarity,
    discrete_entropy,
    greedy_clusters,
    run_together,
    semantic_uncertainty,
    weighted_entropy,
)

# Each letter is a meaning; the digit makes the texts differ: "a1" and "a2" mean the same.
MEANINGS = st.lists(
    st.tuples(st.sampled_from("abcd"), st.integers(0, 3)).map(lambda t: f"{t[0]}{t[1]}"),
    min_size=1,
    max_size=10,
)


class Oracle:
    """Entails by a rule, and remembers every question."""

    def __init__(self, rule=lambda a, b: a[0] == b[0]):
        self.rule = rule
        self.asked = []

    def __call__(self, questions):
        self.asked.extend(questions)
        return [self.rule(premise, hypothesis) for _, premise, hypothesis in questions]


def cluster(texts, rule=lambda a, b: a[0] == b[0]):
    oracle = Oracle(rule)
    return run_together([greedy_clusters(texts)], oracle)[0], oracle


def test_known_clusters_give_the_hand_derived_scores():
    # a1 a2 a1 | b1 b2 | c1, so sizes 3, 2, 1 of n = 6.
    labels, _ = cluster(["a1", "b1", "a2", "c1", "a1", "b2"])
    assert labels.tolist() == [0, 1, 0, 2, 0, 1]
    # u_s = 1 - 3/6, 1 - 2/6, 1 - 1/6
    assert semantic_uncertainty(labels) == pytest.approx([1 / 2, 2 / 3, 1 / 2, 5 / 6, 1 / 2, 2 / 3])
    # SE = (1/2) ln 2 + (1/3) ln 3 + (1/6) ln 6 = 1.0114043, divided by ln 6 = 1.7917595
    expected = (math.log(2) / 2 + math.log(3) / 3 + math.log(6) / 6) / math.log(6)
    assert expected == pytest.approx(0.5644755, abs=1e-7)
    assert discrete_entropy(labels) == pytest.approx(expected, abs=1e-15)


def test_one_meaning_gives_zero_and_n_meanings_give_log_n():
    same, _ = cluster(["a1", "a2", "a3", "a1"])
    assert discrete_entropy(same) == 0.0
    assert semantic_uncertainty(same).tolist() == [0, 0, 0, 0]
    different, _ = cluster(["a", "b", "c", "d"])
    # SE = ln 4, so 1 once it is divided by ln 4; u_s = 1 - 1/4.
    assert discrete_entropy(different) == pytest.approx(1.0, abs=1e-15)
    assert semantic_uncertainty(different).tolist() == [0.75] * 4


def test_a_lost_response_does_not_lower_what_the_others_get():
    # Four responses, meanings a b c d: 3/4 each. One is lost: 2/3 each among three, and among the
    # four sampled 2/3 * (3/4) / (2/3) = 3/4 again. Pairs of two, one lost: 1/2 * (3/4) / (1/2).
    assert among_sampled([3 / 4] * 4, 4) == [3 / 4] * 4
    assert among_sampled([2 / 3] * 3, 4) == pytest.approx([3 / 4] * 3)
    assert among_sampled([1 / 2] * 2, 4) == pytest.approx([3 / 4] * 2)
    # a a b of four: a joins one of two others, so 1 + 3/2 of four, and 1 - 2.5/4 = 3/8; b: 3/4.
    assert among_sampled([1 / 3, 1 / 3, 2 / 3], 4) == pytest.approx([3 / 8, 3 / 8, 3 / 4])
    # Agreement stays agreement, and one response alone has nothing to disagree with.
    assert among_sampled([0.0] * 3, 8) == [0.0] * 3
    assert among_sampled([0.0], 8) == [0.0]


def test_a_single_response_has_no_entropy():
    labels, oracle = cluster(["a"])
    assert (labels.tolist(), discrete_entropy(labels), oracle.asked) == ([0], 0.0, [])
    assert weighted_entropy(labels, np.array([-2.0])) == 0.0


def test_likelihood_weighted_entropy():
    labels, _ = cluster(["a1", "a2", "b1"])
    # Weights e^l = 1/2, 1/4, 1/4: p = (3/4, 1/4).
    # SE = -(3/4) ln(3/4) - (1/4) ln(1/4) = 0.5623351, divided by ln 3 = 1.0986123
    value = weighted_entropy(labels, np.log([0.5, 0.25, 0.25]))
    assert value == pytest.approx(0.5623351446 / 1.0986122887, abs=1e-9)


def test_weighted_entropy_does_not_underflow():
    labels = np.array([0, 1])
    # exp(-5000) is 0 in double precision; equal likelihoods are p = 1/2 each all the same.
    assert weighted_entropy(labels, np.array([-5000.0, -5000.0])) == pytest.approx(1.0)
    assert math.isnan(weighted_entropy(labels, np.array([-1.0, math.nan])))


@given(MEANINGS)
def test_no_text_is_asked_twice_nor_against_itself(texts):
    _, oracle = cluster(texts)
    pairs = [(premise, hypothesis) for _, premise, hypothesis in oracle.asked]
    assert len(set(pairs)) == len(pairs)
    assert all(premise != hypothesis for premise, hypothesis in pairs)
    distinct = len(set(texts))
    assert len(pairs) <= distinct * (distinct - 1)


@given(MEANINGS, st.randoms(use_true_random=False), st.integers(0, 2**16))
def test_clusters_do_not_depend_on_the_order(texts, random, salt):
    # A rule that is neither transitive nor symmetric, as a model's entailment is.
    def rule(a, b):
        return zlib.crc32(f"{a}>{b}#{salt}".encode()) % 3 > 0

    before, _ = cluster(texts, rule)
    order = list(range(len(texts)))
    random.shuffle(order)
    after, _ = cluster([texts[i] for i in order], rule)
    assert after.tolist() == [before[i] for i in order]


def test_a_text_joins_the_first_cluster_whose_first_member_it_matches():
    # b matches a and c matches b, in both directions, but c does not match a: the canonical order
    # a, b, c puts b to a, and c, which is compared with a only, stands alone.
    matches = {("a", "b"), ("b", "a"), ("b", "c"), ("c", "b")}
    labels, _ = cluster(
        ["c", "b", "a"], lambda premise, hypothesis: (premise, hypothesis) in matches
    )
    assert labels.tolist() == [1, 0, 0]


def test_entailment_in_one_direction_is_not_enough():
    labels, oracle = cluster(["a", "b"], lambda premise, hypothesis: premise == "a")
    assert labels.tolist() == [0, 1]
    assert [q[1:] for q in oracle.asked] == [("a", "b"), ("b", "a")]


def test_prompts_share_rounds():
    rounds = []

    def ask(questions):
        rounds.append(len(questions))
        return [True] * len(questions)

    prompts = [[f"{i}{j}" for j in range(4)] for i in range(50)]
    labels = run_together([greedy_clusters(texts) for texts in prompts], ask)
    # All match: one forward round of 3 questions a prompt, one backward round.
    assert rounds == [150, 150]
    assert all(found.tolist() == [0, 0, 0, 0] for found in labels)


def test_prompts_do_not_depend_on_each_other():
    prompts = [["a1", "b1", "a2"], ["c"], ["d1", "d2"], ["e", "e"]]
    alone = [cluster(texts)[0].tolist() for texts in prompts]
    for order in itertools.permutations(range(4)):
        together = run_together([greedy_clusters(prompts[i]) for i in order], Oracle())
        assert [found.tolist() for found in together] == [alone[i] for i in order]


def test_most_frequent_text_leads():
    assert canonical_order(["z", "a", "z", "b"]) == ["z", "a", "b"]


# Similarities of four texts on a line: neighbours 0.8, next but one 0.5, ends 0.1.
LINE = np.array(
    [[1.0, 0.8, 0.5, 0.1], [0.8, 1.0, 0.8, 0.5], [0.5, 0.8, 1.0, 0.8], [0.1, 0.5, 0.8, 1.0]]
)


def test_average_link_merges_by_the_mean_similarity():
    # First {a, b} (0.8), then {c, d} (0.8); between them the mean is (0.5 + 0.1 + 0.8 + 0.5) / 4
    # = 0.475, which is below 0.6 and above 0.4.
    texts = ["a", "b", "c", "d"]
    assert cluster_by_average_link(texts, LINE, 0.6).tolist() == [0, 0, 1, 1]
    assert cluster_by_average_link(texts, LINE, 0.4).tolist() == [0, 0, 0, 0]
    assert cluster_by_average_link(texts, LINE, 0.9).tolist() == [0, 1, 2, 3]


def test_threshold_compares_with_the_first_member():
    # a takes b (0.8); c is 0.5 from a and opens its own cluster, which takes d.
    assert cluster_by_similarity(["a", "b", "c", "d"], LINE, 0.6).tolist() == [0, 0, 1, 1]
    assert cluster_by_similarity(["a", "b", "c", "d"], LINE, 0.5).tolist() == [0, 0, 0, 1]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_embedding_clusters_do_not_depend_on_the_order(kinds, random):
    vectors = np.random.default_rng(0).normal(size=(6, 3))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)

    def find(kinds, method):
        chosen = vectors[kinds]
        return method([str(k) for k in kinds], np.clip(chosen @ chosen.T, -1, 1), 0.5).tolist()

    order = list(range(len(kinds)))
    random.shuffle(order)
    for method in (cluster_by_average_link, cluster_by_similarity):
        before = find(kinds, method)
        after = find([kinds[i] for i in order], method)
        assert after == [before[i] for i in order]
        # Equal texts share a cluster.
        assert len({(k, c) for k, c in zip(kinds, before, strict=True)}) == len(set(kinds))
