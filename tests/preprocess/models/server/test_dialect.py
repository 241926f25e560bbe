"""A server that speaks otherwise: one row more in the table of what servers object to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from chat_stub import ChatStub, chat_stub, completion
from judging_kit import command, write_recipe

from axolotl_ual.preprocess.models.server import dialect
from axolotl_ual.preprocess.models.server.dialect import Chat, Dialect, Fallback
from axolotl_ual.settings.server import ServerConfig

OBJECTION = "this deployment keeps nothing: `store` must be false"


def picky(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Answers only where `store` is false."""
    if body.get("store") is False:
        return completion('{"uncertainty": 40}')
    return 400, {"error": {"message": OBJECTION, "param": "store"}}


@pytest.fixture
def server() -> Iterator[ChatStub]:
    with chat_stub(picky) as running:
        yield running


def test_a_dialect_from_outside_is_one_row(
    server: ChatStub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_recipe(tmp_path, server, rows=5)
    refused = command("annotate", path)
    assert refused.exit_code == 1 and OBJECTION in refused.output
    server.asked.clear()
    keep_nothing = Fallback(
        "store",
        re.compile(r"\bstore\b"),
        "the server is told to keep nothing",
        lambda body, chat: body.update(store=False),
    )
    monkeypatch.setattr(dialect, "FALLBACKS", (*dialect.FALLBACKS, keep_nothing))
    done = command("annotate", path)
    assert done.exit_code == 0, done.output
    assert "the server is told to keep nothing" in " ".join(done.output.split())
    # One request alone finds out, and is sent again; the other four go out right.
    assert [body.get("store") for body in server.asked] == [None] + [False] * 5


CHAT = Chat(
    [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "tool_calls": [{"id": "1"}]},
    ],
    max_tokens=5,
    temperature=0.5,
    top_logprobs=4,
    seed=3,
    n=2,
    top_p=0.9,
    logprobs=True,
    tools=[{"type": "function"}],
    plain=[{"role": "system", "content": "s and tools"}, {"role": "user", "content": "u and call"}],
)
CONFIG = ServerConfig(model="m", reasoning_effort="low")
WHOLE = {
    "model": "m",
    "messages": CHAT.messages,
    "max_tokens": 5,
    "temperature": 0.5,
    "logprobs": True,
    "top_logprobs": 4,
    "seed": 3,
    "n": 2,
    "top_p": 0.9,
    "reasoning_effort": "low",
    "tools": CHAT.tools,
}


@pytest.mark.parametrize(
    ("objection", "left_out", "written"),
    [
        ("logprobs are not supported", ["logprobs", "top_logprobs"], {}),
        ("use max_completion_tokens", ["max_tokens"], {"max_completion_tokens": 5}),
        ("top_p is refused", ["top_p"], {}),
        ("temperature is deprecated", ["temperature"], {}),
        ("unknown field seed", ["seed"], {}),
        ("n must be 1", ["n"], {}),
        ("no reasoning here", ["reasoning_effort"], {}),
        ("tools are unknown", ["tools"], {"messages": CHAT.plain}),
        (
            "system role not supported",
            [],
            {"messages": [{"role": "user", "content": "s\n\nu"}, CHAT.messages[2]]},
        ),
    ],
)
def test_what_a_server_objects_to(
    objection: str, left_out: list[str], written: dict[str, Any]
) -> None:
    said: list[str] = []
    written_for = Dialect(CONFIG, said.append)
    assert orjson.loads(written_for.body(CHAT)) == WHOLE
    assert written_for.adapt(CHAT, objection, "")
    kept = {name: value for name, value in WHOLE.items() if name not in left_out}
    assert orjson.loads(written_for.body(CHAT)) == {**kept, **written}
    assert len(said) == 1 and not written_for.adapt(CHAT, objection, "")


def test_top_p_goes_before_temperature_where_one_of_both_is_taken() -> None:
    written_for = Dialect(CONFIG, lambda line: None)
    objection = "temperature and top_p cannot both be specified"
    assert written_for.adapt(CHAT, objection, "")
    body = orjson.loads(written_for.body(CHAT))
    assert "top_p" not in body and body["temperature"] == 0.5


def test_tools_and_system_messages_go_together() -> None:
    written_for = Dialect(CONFIG, lambda line: None)
    for objection in ("system role not supported", "tools are unknown"):
        assert written_for.adapt(CHAT, objection, "")
    (message,) = orjson.loads(written_for.body(CHAT))["messages"]
    assert message == {"role": "user", "content": "s and tools\n\nu and call"}
