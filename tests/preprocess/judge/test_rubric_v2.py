"""The second rubric, reasons, rubrics with a schema of their own, and both ways to score them."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging_kit import ATTACKS, sample

from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.calls.task import Unparsable
from axolotl_ual.preprocess.judge.frame import fence
from axolotl_ual.preprocess.judge.parse import expected_numbers
from axolotl_ual.preprocess.judge.rubric import load_rubric
from axolotl_ual.preprocess.judge.uncertainty import Uncertainty
from axolotl_ual.preprocess.models.server.completions import Completion
from axolotl_ual.settings.estimators import JudgeConfig


def task(score: Any = "verbalized", **judge: Any) -> Uncertainty:
    config = JudgeConfig(model="m", score=score, **{"rubric": "uncertainty-v2", **judge})
    return Uncertainty(config, load_rubric(config.rubric, reason=bool(config.reason)), score)


def test_answers_to_the_first_rubric_stay_valid() -> None:
    """The base of the key of every answer that a cache may hold."""
    first = task(rubric="uncertainty-v1")
    assert first.identity == {
        "kind": "judge",
        "model": "m",
        "rubric": first.rubric.sha256,
        "score": "verbalized",
        "temperature": 0.0,
        "max_sample_tokens": 16_000,
    }
    assert set(task(extra_body={"a": 1}).identity) - set(first.identity) == {"extra_body"}
    assert set(task(reasoning_effort="low").identity) - set(first.identity) == {"reasoning_effort"}
    assert set(task(headers={"a": "b"}, ca_file="x").identity) == set(first.identity)


@pytest.mark.parametrize(
    ("openness", "wrongness", "u"),
    [
        (0, 0, 0.0),
        (9, 0, 1.0),
        (0, 9, 1.0),
        (3, 0, 1 / 3),
        (3, 6, 7 / 9),  # 1 - (1 - 3/9) (1 - 6/9) = 1 - 2/3 * 1/3
    ],
)
def test_openness_and_wrongness_are_combined(openness: int, wrongness: int, u: float) -> None:
    answer = json.dumps({"openness": openness, "wrongness": wrongness})
    assert task().read(Completion(answer)).score == pytest.approx(u)


@given(st.integers(0, 9), st.integers(0, 9))
def test_more_of_either_is_more(openness: int, wrongness: int) -> None:
    scale = task().rubric.scale
    here = scale.uncertainty({"openness": openness, "wrongness": wrongness})
    assert 0 <= here <= 1
    assert here >= scale.uncertainty({"openness": max(0, openness - 1), "wrongness": wrongness})
    assert here >= scale.uncertainty({"openness": openness, "wrongness": max(0, wrongness - 1)})


@pytest.mark.parametrize(
    "answer",
    [
        '{"openness": 3}',
        '{"openness": 3, "wrongness": 10}',
        '{"openness": 0.3, "wrongness": 0.5}',
        '{"openness": 30, "wrongness": 0}',
        "3 0",
    ],
)
def test_numbers_on_another_scale_are_no_score(answer: str) -> None:
    with pytest.raises(Unparsable):
        task().read(Completion(answer))


def tokens(openness: str, wrongness: str, *top: tuple[str, float]) -> list[dict[str, Any]]:
    """The tokens of {"openness": O, "wrongness": W}; the first digit has these candidates."""
    likely = [{"token": text, "logprob": math.log(p)} for text, p in top]
    sure = [{"token": wrongness, "logprob": 0.0}]
    texts = ['{"', "openness", '":', openness, ",", ' "', "wrong", "ness", '":', wrongness, "}"]
    found: list[dict[str, Any]] = [{"token": text, "top_logprobs": []} for text in texts]
    found[3]["top_logprobs"], found[9]["top_logprobs"] = likely, sure
    return found


def test_the_expectation_of_each_digit() -> None:
    """Openness 3 and 4 at 0.5 and 0.3: 2.7 / 0.8 = 3.375; wrongness 0; u = 3.375 / 9 = 0.375."""
    given_ = tokens(" 3", " 0", (" 3", 0.5), ("4", 0.3), ("x", 0.2))
    completion = Completion('{"openness": 3, "wrongness": 0}', logprobs=given_)
    reading = task("expected").read(completion)
    assert reading.score == pytest.approx(0.375)
    assert reading.mass == pytest.approx(0.8)


def test_both_ways_to_score_are_one_scale() -> None:
    """All probability on the stated digits gives what stating them gives."""
    given_ = tokens(" 3", " 6", (" 3", 1.0))
    completion = Completion('{"openness": 3, "wrongness": 6}', logprobs=given_)
    assert task("expected").read(completion).score == pytest.approx(
        task().read(completion).score or -1
    )
    assert task("expected").read_stated(completion) == task().read(completion)


def test_digits_of_a_thought_are_passed_over() -> None:
    thought = [{"token": t} for t in ('<think>{"openness": ', "9", "}</think>")]
    given_ = [*thought, *tokens(" 3", " 0", (" 3", 1.0))]
    values, mass = expected_numbers('{"openness": 3, "wrongness": 0}', given_, task().rubric.scale)
    assert (values["openness"], mass) == (pytest.approx(3), pytest.approx(1))


def test_the_instruction_stands_before_and_behind_the_data() -> None:
    chat = task().chat(sample("Q?", "A."), 0)
    system, user = (message["content"] for message in chat.messages)
    framed, _, closing = user.rpartition(" END\n")
    assert "Q?" in framed and "A." in framed
    assert '"openness": N' in closing and "data" in closing
    assert chat.response_format is not None
    # 4.3 bytes a token are what tokenizers of 50,000 words make of it; 1,024 are cached.
    assert len(system) / 4.3 > 1200
    assert system == task().chat(sample("other", "texts"), 0).messages[0]["content"]


def test_a_reason_comes_before_the_numbers() -> None:
    asked = task(reason=True)
    chat = asked.chat(sample("Q?"), 0)
    assert chat.max_tokens == 512
    assert chat.response_format is not None
    schema = chat.response_format["json_schema"]["schema"]
    assert list(schema["properties"]) == ["reason", "openness", "wrongness"]
    assert '"reason": "one or two sentences"' in chat.messages[1]["content"]
    answer = '{"reason": "It {may} vary: 7.", "openness": 9, "wrongness": 0}'
    assert asked.read(Completion(answer)).score == 1
    assert asked.identity != task().identity
    with pytest.raises(ConfigError, match=r"reason: the rubric uncertainty-v1 does not ask"):
        load_rubric("uncertainty-v1", reason=True)


MACROS = "{% macro instructions(score) %}Rate.{% endmacro %}{% macro sample(marker, parts) %}"


def test_a_rubric_may_bring_its_schema(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    schema = {"properties": {"doubt": {"type": "integer", "minimum": 1, "maximum": 5}}}
    path.write_text(
        f"{{% set schema %}}{json.dumps(schema)}{{% endset %}}{MACROS}x{{% endmacro %}}"
    )
    mine = task(rubric=str(path))
    assert mine.read(Completion('{"doubt": 2}')).score == pytest.approx(0.25)
    assert '{"doubt": N}' in mine.reminder and "1 to 5" in mine.reminder
    path.write_text(f"{{% set schema %}}{{}}{{% endset %}}{MACROS}x{{% endmacro %}}")
    with pytest.raises(ConfigError, match="JSON Schema"):
        load_rubric(str(path))


def test_hostile_samples_stay_between_the_lines_of_the_frame() -> None:
    asked = [sample(ATTACKS[i % 10].format(i), ATTACKS[i // 20].format(-i)) for i in range(200)]
    for one in asked:
        marker = fence(one, 16_000).marker
        user = task().chat(one, 0).messages[1]["content"]
        question, answer = (turn.text for turn in one.turns)
        assert user.count(marker) == 4
        assert user.startswith(
            f"{marker} BEGIN\n{marker} INSTRUCTION role=user\n{question}\n"
            f"{marker} RESPONSE role=assistant\n{answer}\n{marker} END\n"
        )
