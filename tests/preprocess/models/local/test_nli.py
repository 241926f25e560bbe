"""Questions to a real classifier: deduplicated, cut and batched."""

import math
import random

import numpy as np
import pytest
import tiny_nli
import torch

from axolotl_ual.errors import BackendError, ConfigError
from axolotl_ual.preprocess.models.local.classifier import SequenceClassifier, length_batches
from axolotl_ual.preprocess.models.local.nli import Labels, NliModel

KEY = "ual.pairs.nli"


def load(folder, max_length=128, **options):
    classifier = SequenceClassifier.load(str(folder), key=KEY, max_length=max_length, device="cpu")
    return NliModel(classifier, Labels.find(classifier.labels, None, KEY, True), **options)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return tiny_nli.make_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
    return tiny_nli.make_rule_model(tmp_path_factory.mktemp("rule"))


def sentence(rng, low=1, high=25):
    return " ".join(rng.choice(tiny_nli.WORDS[:500]) for _ in range(rng.randint(low, high)))


def some_questions(number, seed=0, context=True):
    rng = random.Random(seed)
    return [(sentence(rng) if context else "", sentence(rng), sentence(rng)) for _ in range(number)]


def watch(model):
    """Record the shape of every batch that reaches the model."""
    shapes = []
    forward = model.classifier.model.forward

    def recorded(**inputs):
        shapes.append(tuple(inputs["input_ids"].shape))
        return forward(**inputs)

    model.classifier.model.forward = recorded
    return shapes


def test_answers_equal_the_model_asked_one_by_one(bert):
    questions = some_questions(40)
    nli = load(bert)
    entails, contradiction = nli.entails(questions), nli.contradiction(questions)
    model, tokenizer = nli.classifier.model, nli.classifier.tokenizer
    for place, (context, premise, hypothesis) in enumerate(questions):
        inputs = tokenizer(f"{context} {premise}", f"{context} {hypothesis}", return_tensors="pt")
        with torch.inference_mode():
            entailment, _, contradicted = model(**inputs).logits[0].double().tolist()
            best = int(model(**inputs).logits[0].argmax())
        expected = math.exp(contradicted) / (math.exp(contradicted) + math.exp(entailment))
        assert contradiction[place] == pytest.approx(expected, abs=1e-5)
        assert entails[place] == (best == 0)
    assert {True, False} == set(entails)


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_answers_do_not_depend_on_the_batch(bert, batch_tokens):
    questions = some_questions(60, seed=1)
    expected = load(bert, batch_tokens=2000).contradiction(questions)
    shuffled = random.Random(2).sample(range(60), 60)
    nli = load(bert, batch_tokens=batch_tokens)
    found = nli.contradiction([questions[i] for i in shuffled])
    assert np.abs(found - expected[shuffled]).max() < 1e-5


def test_a_question_is_sent_once(bert):
    nli = load(bert)
    questions = some_questions(10)
    nli.entails(questions + questions[:5])
    nli.contradiction(questions)
    assert (nli.stats.asked, nli.stats.sent) == (25, 10)
    nli.forget()
    nli.entails(questions[:1])
    assert nli.stats.sent == 11
    assert nli.entails([]) == [] and nli.contradiction([]).shape == (0,)


def test_batches_are_of_similar_length_and_bounded(bert):
    nli = load(bert, batch_tokens=600)
    shapes = watch(nli)
    nli.entails(some_questions(80, seed=3))
    assert all(rows * length <= 600 for rows, length in shapes)
    assert [length for _, length in shapes] == sorted((shape[1] for shape in shapes), reverse=True)
    assert sum(rows for rows, _ in shapes) == 80 and len(shapes) < 20
    assert length_batches([5, 9, 5, 1], 10) == [[1], [0, 2], [3]]
    assert length_batches([30], 10) == [[0]]


def test_the_context_is_cut_and_the_response_is_not(rule):
    # 200 words of context twice do not fit in 64 tokens; the meanings at the end of premise and
    # hypothesis must still be read.
    context = " ".join(["what"] * 200)
    nli = load(rule, max_length=64)
    shapes = watch(nli)
    questions = [
        (context, "it is m1", "he is m1"),
        (context, "it is m1", "he is m2"),
        (context, "it is " * 14 + "m3", "he is " * 14 + "m3"),
    ]
    assert nli.entails(questions) == [True, False, True]
    assert nli.stats.context_cut == 3 and nli.stats.response_cut == 0
    # [CLS] [SEP] [SEP] leave 61 tokens: 3 + 3 of response and the context in equal parts of 27.
    assert max(length for _, length in shapes) in (63, 64)


def test_a_context_that_fits_is_whole(rule):
    nli = load(rule, max_length=64)
    # 2 * 27 + 3 + 3 + 3 = 63 tokens.
    nli.entails([(" ".join(["what"] * 27), "it is m1", "he is m1")])
    assert nli.stats.context_cut == 0


def test_responses_that_are_too_long_are_cut_last_and_counted(rule):
    nli = load(rule, max_length=64)
    long = "m1 " + "it " * 200
    assert nli.entails([("what is it", long, "m1"), ("what is it", "m2 " + long[3:], "m1")]) == [
        True,
        False,
    ]
    assert nli.stats.response_cut == 2


def test_contradiction_by_the_rule(rule):
    nli = load(rule)
    found = nli.contradiction([("", "m1", "m2"), ("", "m1", "m1"), ("", "m1", "the")])
    # Logits (entailment, contradiction): (0, 8), (8, 0), (0, 0).
    sure = 1 / (1 + math.exp(-8))
    assert found == pytest.approx([sure, 1 - sure, 0.5])


def test_a_threshold_takes_the_place_of_the_likeliest_label(rule):
    # P(entailment) of the rule's "same meaning" is e^8 / (e^8 + 2) = 0.99933.
    assert load(rule, threshold=0.999).entails([("", "m1", "m1")]) == [True]
    assert load(rule, threshold=0.9995).entails([("", "m1", "m1")]) == [False]


@pytest.mark.parametrize(
    ("names", "entailment", "contradiction"),
    [
        (["entailment", "neutral", "contradiction"], 0, 2),
        (["CONTRADICTION", "NEUTRAL", "ENTAILMENT"], 2, 0),
        (["contradict", "entail", "neutral"], 1, 0),
        (["non-contradiction", "contradiction", "entails"], 2, 1),
    ],
)
def test_labels_are_found_by_name(names, entailment, contradiction):
    assert Labels.find(names, None, KEY, True) == Labels(entailment, contradiction)


def test_a_classifier_without_contradiction_serves_clusters_only():
    names = ["entailment", "not_entailment"]
    assert Labels.find(names, None, KEY, contradiction=False) == Labels(0, None)
    with pytest.raises(ConfigError, match=r"no label .* says contradiction"):
        Labels.find(names, None, KEY, contradiction=True)


def test_labels_can_be_named():
    given = {"entailment": "LABEL_2", "contradiction": "LABEL_0"}
    names = ["LABEL_0", "LABEL_1", "LABEL_2"]
    assert Labels.find(names, given, KEY, True) == Labels(2, 0)
    with pytest.raises(ConfigError, match="says entailment or contradiction"):
        Labels.find(names, None, KEY, True)
    with pytest.raises(ConfigError, match="'LABEL_9' is no label"):
        Labels.find(names, {"entailment": "LABEL_9"}, KEY, False)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(BackendError, match=r"ual\.pairs\.nli\.model"):
        load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BackendError, match="sequence classifier"):
        load(tmp_path / "empty")
