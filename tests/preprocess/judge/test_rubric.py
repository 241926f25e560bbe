"""The parser, the expectation over digits, the rubric and the fence."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging_kit import ATTACKS, estimate, sample

import judge_server
from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.data.sample import Sample, Turn
from axolotl_ual.preprocess.judge.frame import fence
from axolotl_ual.preprocess.judge.parse import (
    NoLogprobs,
    Unparsable,
    expected_score,
    parse_verbalized,
    read_digit,
)
from axolotl_ual.preprocess.judge.rubric import load_rubric

any_text = st.text(st.characters(codec=None))
"""Lone surrogates and control characters included."""


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ('{"uncertainty": 0}', 0.0),
        ('{"uncertainty": 8}', 0.08),
        ('{"uncertainty": 80}', 0.8),
        ('{"uncertainty": 100}', 1.0),
        ('{"uncertainty": 37.5}', 0.375),
        ('{"uncertainty": 0.0}', 0.0),
        (' \n{"reason": "varied", "uncertainty": 12}\n', 0.12),
        ('```json\n{"uncertainty": 12}\n```', 0.12),
        ('```\n{"uncertainty": 12}\n```', 0.12),
        ('<think>Perhaps {"uncertainty": 90}?</think>\n{"uncertainty": 12}', 0.12),
        ('Perhaps {"uncertainty": 90}?</think>\n{"uncertainty": 12}', 0.12),
        ('```JSON {"uncertainty": 12} ```', 0.12),
        ('Sure: {"uncertainty": 80}', 0.8),
        ('{"uncertainty": 80} because {it} varies', 0.8),
        ('{"uncertainty": "80"}', 0.8),
        ('{"uncertainty": " 80 %"}', 0.8),
        ('[{"uncertainty": 80}]', 0.8),
        ('{"rating": {"uncertainty": 80}}', 0.8),
        ('{"uncertainty": 80}<|im_end|>', 0.8),
        ('{"uncertainty": 80}{"uncertainty": 80}', 0.8),
        ("{'uncertainty': 80}", 0.8),
        ("{uncertainty: 80,}", 0.8),
        ('"{\\"uncertainty\\": 80}"', 0.8),
    ],
)
def test_scores(answer: str, score: float) -> None:
    assert parse_verbalized(answer) == pytest.approx(score)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "80",
        "0.8",
        "I would say 80.",
        '{"uncertainty": 0.8}',
        '{"uncertainty": 1.0}',
        '{"uncertainty": true}',
        '{"uncertainty": null}',
        '{"uncertainty": [80]}',
        '{"uncertainty": -1}',
        '{"uncertainty": 101}',
        '{"uncertainty": 1e400}',
        '{"uncertainty": NaN}',
        '{"uncertainty": Infinity}',
        '{"uncertainty": 80, "uncertainty": 10}',
        '{"Uncertainty": 80}',
        '{"uncertainty": 8',
        '<think>{"uncertainty": 12}',
        '{"uncertainty": "0.8"}',
        '{"uncertainty": "high"}',
        '{"uncertainty": 8} or {"uncertainty": 80}',
        '{"a": {"uncertainty": 8}, "b": {"uncertainty": 80}}',
        '{"a":' * 100_000,
        "[" * 100_000,
        '{"uncertainty": ' + "9" * 10_000 + "}",
    ],
)
def test_what_is_not_a_score(answer: str) -> None:
    with pytest.raises(Unparsable):
        parse_verbalized(answer)


@given(any_text)
def test_text_is_never_scored_unless_it_holds_the_object(text: str) -> None:
    """The object alone is what a slow search over all pairs of braces finds once."""
    try:
        score = parse_verbalized(text)
    except Unparsable:
        return
    found = [
        text[start : end + 1]
        for start, opening in enumerate(text)
        for end, closing in enumerate(text)
        if opening == "{" and closing == "}" and start < end
    ]
    assert sum('"uncertainty"' in one for one in found) >= 1
    assert 0 <= score <= 1


@given(st.integers(0, 100), st.text("ab \n{}[]:,`<>/", max_size=40), st.text("ab {}`", max_size=9))
def test_an_object_is_found_whatever_stands_around_it(n: int, before: str, after: str) -> None:
    assert parse_verbalized(f'{before}{{"uncertainty": {n}}}{after}') == n / 100


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_a_value_is_scored_as_it_stands_or_not_at_all(value: Any) -> None:
    try:
        score = parse_verbalized(json.dumps({"uncertainty": value}))
    except Unparsable:
        return
    value = float(value.strip(" %\n\t\r")) if isinstance(value, str) else value
    assert isinstance(value, float)
    assert score == pytest.approx(value / 100)
    assert value == 0 or 1 < value <= 100


def token(text: str, *candidates: tuple[str, float]) -> dict[str, Any]:
    top = [{"token": t, "logprob": math.log(p) if p else -math.inf} for t, p in candidates]
    return {"token": text, "top_logprobs": top}


def test_the_expectation_renormalises_and_keeps_the_mass() -> None:
    """Digits 3, 4 and " 4" have 0.5 + 0.2 + 0.1 = 0.8: (1.5 + 0.8 + 0.4) / 0.8 / 9 = 0.375."""
    place = token("3", ("3", 0.5), ("4", 0.2), (" 4", 0.1), ("the", 0.15), ("10", 0.05))
    score, mass = expected_score("3", [place])
    assert score == pytest.approx(0.375)
    assert mass == pytest.approx(0.8)


def test_a_blank_before_the_digit_is_passed_over() -> None:
    score, mass = expected_score(" 9", [token(" ", (" ", 1.0)), token("9", ("9", 1.0))])
    assert (score, mass) == (pytest.approx(1.0), pytest.approx(1.0))


@pytest.mark.parametrize("content", ["", "75", "7.5", "7 apples", "x", "７", "-7"])
def test_an_answer_that_is_not_one_digit(content: str) -> None:
    with pytest.raises(Unparsable):
        expected_score(content, [token("7", ("7", 1.0))])


@pytest.mark.parametrize(
    ("spelling", "before"),
    [
        ("▁7", ()),
        ("Ġ7", ()),
        ("<0x37>", ()),
        ("7", ("<|im_start|>", "\n")),
        ("7", ("<think>", "9", "</think>", "\n\n")),
        ("7", ("8", "?", "</think>")),
        ("7<|im_end|>", ()),
        ("7", ("```", "json", "\n")),
        ("7", ("**",)),
    ],
)
def test_the_digit_is_found_however_it_is_spelt(spelling: str, before: tuple[str, ...]) -> None:
    tokens = [token(text, (text, 1.0)) for text in before]
    score, mass = expected_score("7", [*tokens, token(spelling, (spelling, 0.9), ("the", 0.1))])
    assert (score, mass) == (pytest.approx(7 / 9), pytest.approx(0.9))


@pytest.mark.parametrize(
    "content", ["7", " 7\n", "```\n7\n```", "```json\n7\n```", "**7**", '"7"', "7\nIt varies by 3."]
)
def test_a_digit_in_its_wrapping(content: str) -> None:
    assert read_digit(content) == 7


@pytest.mark.parametrize(
    "content", ["```\n7\n8\n```", "```\n7\n``` or 8", "**7** of 9", "*7", "7/9", "Rating: 7 or 8"]
)
def test_a_digit_among_others(content: str) -> None:
    with pytest.raises(Unparsable):
        read_digit(content)


def test_the_bytes_of_a_token_are_its_text() -> None:
    place = {"token": "id:23", "bytes": [55], "top_logprobs": [{"bytes": [55], "logprob": 0.0}]}
    assert expected_score("7", [place]) == (pytest.approx(7 / 9), pytest.approx(1.0))


@pytest.mark.parametrize(("mass", "is_scored"), [(0.003, False), (0.24, False), (0.26, True)])
def test_a_digit_that_is_hardly_meant_is_no_score(mass: float, is_scored: bool) -> None:
    place = token("7", ("7", mass), ("The", 1 - mass))
    if is_scored:
        assert expected_score("7", [place])[1] == pytest.approx(mass)
        return
    with pytest.raises(Unparsable, match="probability"):
        expected_score("7", [place])


def test_an_answer_without_log_probabilities() -> None:
    for tokens in ([], [{"token": "7"}], [{"token": "7", "top_logprobs": []}]):
        with pytest.raises(NoLogprobs):
            expected_score("7", tokens)


probabilities = st.lists(st.floats(0.001, 1.0), min_size=10, max_size=10)


@given(probabilities, st.floats(0.0, 0.74))
def test_the_expectation_is_linear(weights: list[float], other: float) -> None:
    total = math.fsum(weights)
    digits = [(str(d), w / total * (1 - other)) for d, w in enumerate(weights)]
    score, mass = expected_score("5", [token("5", *digits, ("no", other))])
    wanted = math.fsum(d * w / total for d, w in enumerate(weights)) / 9
    assert score == pytest.approx(wanted)
    assert mass == pytest.approx(1 - other)


@given(st.lists(any_text, min_size=1, max_size=4), st.integers(64, 500))
def test_the_marker_is_in_no_text(texts: list[str], budget: int) -> None:
    asked = Sample(tuple(Turn("user", text, i % 2 == 1) for i, text in enumerate(texts)))
    fenced = fence(asked, budget)
    assert fenced == fence(asked, budget)
    for part, text in zip(fenced.parts, texts, strict=True):
        assert fenced.marker not in text
        encodable = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
        if not fenced.left_out and encodable == text:
            assert (part.head, part.tail) == (text, "")
    assert (
        sum(len((p.head + p.tail).encode()) for p in fenced.parts) <= max(4 * budget, 0)
        or not fenced.left_out
    )


def test_a_text_that_holds_its_own_marker_gets_another() -> None:
    marker = fence(sample("a", "b"), 100).marker
    asked = sample(f"a {marker}", f"{marker} END")
    assert fence(asked, 100).marker not in asked.turns[0].text + asked.turns[1].text


def test_long_responses_keep_head_and_tail() -> None:
    asked = sample("short", "begin " + "é" * 500_000 + " finish")
    fenced = fence(asked, 1000)
    question, answer = fenced.parts
    assert question.head == "short"
    assert answer.head.startswith("begin é") and answer.tail.endswith("é finish")
    assert len((answer.head + answer.tail).encode()) <= 4000
    assert fenced.left_out == len(asked.turns[1].text) - len(answer.head) - len(answer.tail)


def test_hostile_samples_reach_the_server_byte_for_byte(
    server: judge_server.Running, tmp_path: Path
) -> None:
    server.set(keep=True)
    asked = [
        sample(ATTACKS[i % 10].format(i), ATTACKS[(i // 10) % 10].format(-i)) for i in range(1000)
    ]
    result, _ = estimate(server, tmp_path, asked)
    assert not result.failures
    sent = {request["messages"][1]["content"]: request for request in server.requests()}
    assert len(sent) == 1000
    for one in asked:
        marker = fence(one, 16_000).marker
        question, answer = (turn.text for turn in one.turns)
        framed = (
            f"{marker} BEGIN\n{marker} INSTRUCTION role=user\n{question}\n"
            f"{marker} RESPONSE role=assistant\n{answer}\n{marker} END"
        )
        (system, user) = sent[framed]["messages"]
        assert user["content"].count(marker) == 4
        assert question not in system["content"]
        assert set(sent[framed]) <= {
            "model",
            "messages",
            "max_tokens",
            "temperature",
            "response_format",
        }


def test_lone_surrogates_are_replaced_and_counted(
    server: judge_server.Running, tmp_path: Path
) -> None:
    server.set(keep=True)
    result, _ = estimate(server, tmp_path, [sample("a\ud800b", "c")])
    assert result.facts["replaced_characters"] == 1
    assert "a\ufffdb" in server.requests()[0]["messages"][1]["content"]


def test_a_megabyte_is_cut_and_counted(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(keep=True)
    result, _ = estimate(server, tmp_path, [sample("q", "word " * 200_000)])
    assert result.facts["shortened"] == 1
    assert len(server.requests()[0]["messages"][1]["content"]) < 65_000


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{% macro instructions(score) %}x{% endmacro %}", "sample"),
        ("{% macro instructions(score) %", "unexpected|expected"),
        ("{% macro instructions(score) %}{{ nobody }}{% endmacro %}", "nobody"),
    ],
)
def test_a_wrong_rubric_is_named(tmp_path: Path, source: str, problem: str) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(source)
    with pytest.raises(ConfigError, match=problem):
        load_rubric(str(path))


def test_an_unknown_rubric_names_ours() -> None:
    with pytest.raises(ConfigError, match="uncertainty-v1"):
        load_rubric("uncertainty-v0")
