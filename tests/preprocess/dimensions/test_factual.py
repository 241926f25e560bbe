"""Factual uncertainty by consistency and by verdicts, and the splitting into sentences."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.data.sentences import split_sentences
from axolotl_ual.preprocess.dimensions.factual import (
    consistency,
    contradiction_questions,
    unsupported_share,
)

A, B, C = "Paris is in France. It is big.", "Paris is in Texas.", "It is big."
SENTENCES = {text: split_sentences(text) for text in (A, B, C)}
CONTRADICTION = {
    (B, "Paris is in France."): 0.9,
    (B, "It is big."): 0.1,
    (C, "Paris is in France."): 0.2,
    (A, "Paris is in Texas."): 0.8,
    (C, "Paris is in Texas."): 0.4,
}


def test_questions_are_each_sentence_against_each_other_sample():
    # "It is big." stands in A and in C word for word: neither pair is asked.
    questions = contradiction_questions(SENTENCES, [A, B, C, C], [A, B, C, C])
    assert set(questions) == set(CONTRADICTION)
    assert len(questions) == len(CONTRADICTION)


def test_consistency_equals_the_hand_derived_mean():
    # A has two sentences against B and C:
    #   "Paris is in France." 0.9 and 0.2; "It is big." 0.1 and 0 (it stands in C).
    assert consistency(SENTENCES[A], [B, C], SENTENCES, CONTRADICTION) == pytest.approx(1.2 / 4)
    # B against A (0.8) and C twice (0.4): (0.8 + 2 * 0.4) / 3
    assert consistency(SENTENCES[B], [C, A, C], SENTENCES, CONTRADICTION) == pytest.approx(1.6 / 3)
    # C against A, where it stands word for word (0), and B (0.1)
    assert consistency(SENTENCES[C], [A, B], SENTENCES, CONTRADICTION) == pytest.approx(0.05)


def test_consistency_does_not_depend_on_the_order_of_the_samples():
    forward = consistency(SENTENCES[B], [A, C, C], SENTENCES, CONTRADICTION)
    assert consistency(SENTENCES[B], [C, C, A], SENTENCES, CONTRADICTION) == forward


def test_share_of_claims_that_are_not_supported():
    assert unsupported_share(["supported", "false", "unknown", "supported"]) == 0.5
    assert unsupported_share(["supported"]) == 0.0
    assert unsupported_share([]) == 0.0


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three?", ["One.", "Two!", "Three?"]),
        ("Dr. Smith paid 3.50 dollars. He left.", ["Dr. Smith paid 3.50 dollars.", "He left."]),
        ("J. R. Tolkien wrote it, e.g. The Hobbit.", ["J. R. Tolkien wrote it, e.g. The Hobbit."]),
        ("It was I. He knew.", ["It was I.", "He knew."]),
        ('He said "No." Then he left.', ['He said "No."', "Then he left."]),
        ("1. First\n2. Second", ["1. First", "2. Second"]),
        ("the value is 4. 5 is next.", ["the value is 4.", "5 is next."]),
        ("no full stop", ["no full stop"]),
        ("see example.com. it is fine", ["see example.com. it is fine"]),
        ("東京は首都です。人口は多い。", ["東京は首都です。", "人口は多い。"]),
        (
            "Run:\n```\na = 1. B = 2.\nprint(a)\n```\nDone.",
            [
                "Run:",
                "```\na = 1. B = 2.\nprint(a)\n```",
                "Done.",
            ],
        ),
        ("Really?! Yes...  No.", ["Really?!", "Yes...", "No."]),
        ("Élan. Über.", ["Élan.", "Über."]),
        ("  \n ", []),
    ],
)
def test_sentences(text, sentences):
    assert split_sentences(text) == sentences


@given(st.text(alphabet="ab. !?\n`A1。", max_size=60))
def test_splitting_loses_no_character_but_white_space(text):
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(sentence == sentence.strip() != "" for sentence in sentences)
