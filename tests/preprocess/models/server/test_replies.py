"""Thinking, retry times, prompts that were cut, certificates: the pure parts."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.errors import BackendError
from axolotl_ual.preprocess.models.server.address import find_server
from axolotl_ual.preprocess.models.server.replies import read_reply
from axolotl_ual.preprocess.models.server.retry_times import named_retry_time
from axolotl_ual.preprocess.models.server.thinking import split_thinking
from axolotl_ual.preprocess.models.server.transport import Reply
from axolotl_ual.preprocess.models.server.trust import Trust
from axolotl_ual.settings.server import ServerConfig

WORDS = st.text("ab 7{}\n", max_size=20)


@given(st.lists(WORDS, max_size=3), WORDS.map(str.strip))
def test_blocks_before_an_answer_are_thinking(thoughts: list[str], answer: str) -> None:
    text = "".join(f"<think>{thought}</think>" for thought in thoughts) + answer
    parts = split_thinking(text)
    assert (parts.answer, parts.is_open) == (answer, False)
    assert parts.thinking == "".join(thoughts).strip()


@given(WORDS, WORDS)
def test_a_block_that_never_closes_holds_no_answer(thought: str, more: str) -> None:
    for text in (f"<think>{thought}", f"<think>{thought}</think>{more}[THINK]x"):
        assert split_thinking(text).is_open
    assert split_thinking(f"<think>{thought}").answer == ""


def test_an_answer_may_speak_of_the_tags() -> None:
    text = "Write `<think>` first and `</think>` after it."
    assert split_thinking(text).answer == text


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("Please try again in 20s. Contact us", 20.0),
        ("Please retry in 35.5s.", 35.5),
        ("Please retry after 7 seconds.", 7.0),
        ("try again in 7m12.5s", 432.5),
        ("Please try again in 350ms", 0.35),
        ("Please try again in 1h2m3s.", 3723.0),
        ("Try again in about 2 hours", 7200.0),
        ("Please wait 30 seconds", 30.0),
        ("Limit 6000, Requested 700. Try again later.", None),
    ],
)
def test_times_in_words(said: str, seconds: float | None) -> None:
    assert named_retry_time({}, {}, said) == (seconds and pytest.approx(seconds))


def test_a_reply_may_hold_numbers_that_json_has_not() -> None:
    body = b'{"choices": [{"message": {"content": "7"}, "finish_reason": "stop", "x": -Infinity}]}'
    completion = read_reply(Reply(200, body)).completion
    assert completion is not None
    assert completion.content == "7"


@given(st.binary(max_size=200), st.sampled_from([200, 400, 404, 429, 500]))
def test_any_bytes_are_read(body: bytes, status: int) -> None:
    assert read_reply(Reply(status, body)).completion is None


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["error", "choices", "message", "content", "usage", "code", "detail"]
                ),
                inner,
                max_size=3,
            )
        ),
        max_leaves=12,
    ),
    st.sampled_from([200, 400, 500]),
)
def test_any_json_is_read(body: object, status: int) -> None:
    read_reply(Reply(status, json.dumps(body).encode()))


@pytest.mark.parametrize(
    ("base_url", "api_version", "chat_url"),
    [
        ("http://h/v1/", None, "http://h/v1/chat/completions"),
        ("http://h/v1/chat/completions", None, "http://h/v1/chat/completions"),
        (
            "https://x.openai.azure.com/openai/deployments/d?api-version=1",
            None,
            "https://x.openai.azure.com/openai/deployments/d/chat/completions?api-version=1",
        ),
        ("http://h/d", "2", "http://h/d/chat/completions?api-version=2"),
    ],
)
def test_addresses_as_people_have_them(
    base_url: str, api_version: str | None, chat_url: str
) -> None:
    config = ServerConfig(model="m", base_url=base_url, api_version=api_version)
    assert find_server(config).chat_url == chat_url


def test_certificates_that_cannot_be_read_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BackendError, match=r"ual\.x\.ca_file: the certificates in /none\.pem"):
        Trust("/none.pem", "ual.x")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere.pem")
    with pytest.raises(BackendError, match="REQUESTS_CA_BUNDLE: the certificates in /nowhere"):
        Trust(None, "ual.x")
