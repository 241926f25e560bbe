"""What `axolotl-ual pairs` asks: the whole prompt of every row, in the shape of a chat API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sampling_server
import yaml
from click.testing import CliRunner

from axolotl_ual.columns import Manifest
from axolotl_ual.preprocess.cli import main

pytestmark = pytest.mark.slow

Messages = list[dict[str, Any]]

ASKED = {"role": "user", "content": "Weather in Oslo?"}
SAID = {"role": "assistant", "content": "an answer to drop"}
SHORT = {"role": "system", "content": "Be short."}
HI = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"place": {"type": "string"}}},
    },
}
CALL = {
    "id": "abc",
    "type": "function",
    "function": {"name": "weather", "arguments": '{"place": "Oslo"}'},
}
CALLED: Messages = [
    ASKED,
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "sunny", "tool_call_id": "abc"},
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with sampling_server.running() as address:
        yield address


def run(folder: Path, url: str, rows: Sequence[Mapping[str, Any]], **entry: Any) -> Any:
    """Run the command on prompts; one principle is rated by the same server."""
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "prompts.jsonl").write_text(lines)
    server = {"model": "m", "base_url": url, "max_retries": 0}
    pairs = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        "sampling": {"backend": "api", "n": 4, "api": server},
        "judge": server,
        "semantic": {"method": "none"},
        "factual": {"method": "none"},
        "value": {"method": "judge", "repeats": 1, "principles": {"kind": "Be kind."}},
        "smoothing": {"mean": 0},
    }
    entry = {"path": str(folder / "prompts.jsonl"), "type": "chat_template.default", **entry}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"rl": "dpo", "datasets": [entry], "ual": {"pairs": pairs}}))
    return CliRunner().invoke(main, ["pairs", str(recipe)])


def asked(url: str) -> list[dict[str, Any]]:
    """The bodies of the requests for responses, the latest last."""
    return [body for body in sampling_server.stats(url)["bodies"] if body.get("n") == 4]


PARTS = [{"type": "text", "text": "Weather "}, {"type": "text", "text": "in Oslo?"}]
SHAREGPT = [{"from": "human", "value": "Weather in Oslo?"}, {"from": "gpt", "value": "dropped"}]
CASES: dict[str, tuple[dict[str, Any], dict[str, Any], Messages]] = {
    "a system column beside messages": (
        {"system": "Be short.", "messages": [ASKED]},
        {},
        [SHORT, ASKED],
    ),
    "messages as JSON": ({"messages": json.dumps([SHORT, ASKED, SAID])}, {}, [SHORT, ASKED]),
    "a prompt of messages": ({"prompt": [SHORT, ASKED]}, {}, [SHORT, ASKED]),
    "a prompt of messages as JSON": ({"prompt": json.dumps([ASKED, SAID])}, {}, [ASKED]),
    "a prompt of a whole request as JSON": (
        {"prompt": json.dumps({"messages": [SHORT, ASKED, SAID]})},
        {},
        [SHORT, ASKED],
    ),
    "a text with its context": (
        {"question": "Weather", "context": "in Oslo?", "response": "dropped"},
        {},
        [{"role": "user", "content": "Weather\n\nin Oslo?"}],
    ),
    "an object that is no dialogue": (
        {"prompt": '{"weather": "Oslo"}', "context": {"a": 1}},
        {},
        [{"role": "user", "content": '{"weather": "Oslo"}'}],
    ),
    "content parts": ({"messages": [{"role": "user", "content": PARTS}]}, {}, [ASKED]),
    "from and value": ({"conversations": SHAREGPT}, {}, [ASKED]),
    "mapped fields": (
        {"talk": [{"who": "me", "says": "Weather in Oslo?"}, {"who": "bot", "says": "dropped"}]},
        {
            "field_messages": "talk",
            "message_property_mappings": {"role": "who", "content": "says"},
            "roles": {"user": ["me"], "assistant": ["bot"]},
        },
        [ASKED],
    ),
    "fields mapped the deprecated way": (
        {"talk": [{"who": "user", "says": "Weather in Oslo?"}]},
        {
            "field_messages": "talk",
            "message_field_role": "who",
            "message_field_content": "says",
        },
        [ASKED],
    ),
    "a system message that the recipe drops": (
        {"messages": [SHORT, ASKED]},
        {"drop_system_message": True},
        [ASKED],
    ),
    "history of pairs": (
        {"instruction": "Weather in Oslo?", "output": "dropped", "history": [["Hi.", "Hello."]]},
        {"type": "alpaca"},
        [*HI, ASKED],
    ),
    "history of messages, system and input": (
        {"instruction": "Weather", "input": "in Oslo?", "system": "Be short.", "history": HI},
        {},
        [SHORT, *HI, {"role": "user", "content": "Weather\n\nin Oslo?"}],
    ),
    "an answer of null at the end": (
        {"messages": [ASKED, {"role": "assistant", "content": None}]},
        {},
        [ASKED],
    ),
    "a row of alpaca without an answer": (
        {"instruction": "Weather in Oslo?", "output": "", "system": "Be short."},
        {"type": "alpaca_w_system.load"},
        [SHORT, ASKED],
    ),
    "a custom type of preference data": (
        {"q": "Weather in Oslo?", "sys": "Be short.", "good": "x", "bad": "y"},
        {"type": {"field_prompt": "q", "field_system": "sys", "field_chosen": "good"}},
        [SHORT, ASKED],
    ),
    "chosen and rejected dialogues": ({"chosen": [ASKED, SAID], "rejected": []}, {}, [ASKED]),
    "the role of developers": (
        {"messages": [{"role": "developer", "content": "Be short."}, ASKED]},
        {},
        [SHORT, ASKED],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_the_server_sees_the_whole_prompt(name: str, tmp_path: Path, url: str) -> None:
    row, entry, expected = CASES[name]
    result = run(tmp_path, url, [row], **entry)
    assert result.exit_code == 0, result.output
    body = asked(url)[-1]
    assert body["messages"] == expected and "tools" not in body
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    assert table["messages"][0].as_py() == expected and "chat" not in table.column_names


def test_tools_and_calls_reach_server_judge_and_table(tmp_path: Path, url: str) -> None:
    rows = [{"messages": CALLED, "tools": [TOOL], "system": "Be short."}, {"messages": [ASKED]}]
    assert run(tmp_path, url, rows).exit_code == 0
    body = next(body for body in asked(url) if "tools" in body)
    assert body["tools"] == [TOOL]
    assert body["messages"] == [SHORT, *CALLED]
    # In texts: definitions behind the system message, the call as a line of JSON.
    tables = [pq.read_table(tmp_path / "out" / f"{n}.parquet") for n in ("train", "responses")]
    for table in tables:
        first, plain = table.to_pylist()[0], table.to_pylist()[-1]
        texts = [turn["content"] for turn in first["messages"]]
        assert texts[0] == f"Be short.\n\n{json.dumps([TOOL])}"
        assert texts[2] == '{"name": "weather", "arguments": {"place": "Oslo"}}'
        chat = json.loads(first["chat"])
        assert chat["tools"] == [TOOL] and chat["messages"][3] == CALLED[2]
        # Chat templates take arguments as objects.
        called = chat["messages"][2]["tool_calls"][0]["function"]["arguments"]
        assert called == {"place": "Oslo"}
        assert plain["chat"] is None
    judged = [body for body in sampling_server.stats(url)["bodies"] if "n" not in body]
    assert any(texts[2] in body["messages"][1]["content"] for body in judged)


def test_what_was_written_with_tools_is_read_back(tmp_path: Path, url: str) -> None:
    run(tmp_path, url, [{"messages": CALLED, "tools": json.dumps([TOOL["function"]])}])
    written = tmp_path / "out" / "responses.parquet"
    kept = tmp_path / "kept.parquet"
    kept.write_bytes(written.read_bytes())
    before = (tmp_path / "out" / "train.parquet").read_bytes()
    recipe = str(tmp_path / "recipe.yaml")
    result = CliRunner().invoke(main, ["pairs", recipe, "--from-responses", str(kept)])
    assert result.exit_code == 0, result.output
    assert written.read_bytes() == kept.read_bytes()
    assert (tmp_path / "out" / "train.parquet").read_bytes() == before


def test_calls_without_ids_get_some(tmp_path: Path, url: str) -> None:
    function = {"name": "weather", "arguments": {"place": "Oslo"}}
    messages = [
        ASKED,
        {"role": "assistant", "tool_calls": [{"function": function}, {"function": function}]},
        {"role": "tool", "content": "sunny"},
        {"role": "tool", "content": "still sunny"},
    ]
    assert run(tmp_path, url, [{"messages": messages}]).exit_code == 0
    _, called, first, second = asked(url)[-1]["messages"]
    ids = [call["id"] for call in called["tool_calls"]]
    assert ids == [first["tool_call_id"], second["tool_call_id"]] == ["call00000", "call00001"]
    assert called["content"] is None


def test_a_server_that_takes_no_tools_gets_them_as_text(tmp_path: Path) -> None:
    with sampling_server.running(tools="refused") as address:
        result = run(tmp_path, address, [{"messages": CALLED, "tools": [TOOL]}])
        assert result.exit_code == 0, result.output
        body = asked(address)[-1]
    assert "tools" not in body
    assert body["messages"] == [
        {"role": "system", "content": json.dumps([TOOL])},
        ASKED,
        {"role": "assistant", "content": '{"name": "weather", "arguments": {"place": "Oslo"}}'},
        {"role": "tool", "content": "sunny"},
    ]


def test_a_response_that_calls_a_tool_is_a_response(tmp_path: Path, url: str) -> None:
    messages = [{"role": "user", "content": "call weather"}]
    result = run(tmp_path, url, [{"messages": messages, "tools": [TOOL]}])
    assert result.exit_code == 0, result.output
    found = pq.read_table(tmp_path / "out" / "responses.parquet").to_pylist()
    called = [row for row in found if row["response_chat"]]
    assert len(called) == 2 and all(row["status"] == "usable" for row in found)
    # The server's answer: no content, one call whose place is the number of the choice.
    assert called[0]["response"] == '{"name": "weather", "arguments": {"place": "0"}}'
    message = json.loads(called[0]["response_chat"])
    assert message["content"] == "" and len(message["tool_calls"]) == 1


BAD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "no prompt": ({"text": "a"}, {}, "`prompt` is missing or null"),
    "blank": ({"prompt": " "}, {}, "`prompt` is empty"),
    "nothing to answer": (
        {"messages": [{"role": "assistant", "content": "a"}]},
        {},
        "`messages` has no turn that a response could follow",
    ),
    "null content": (
        {"messages": [{"role": "user", "content": None}]},
        {},
        "`messages[0].content` is missing or null",
    ),
    "unknown role": (
        {"messages": [{"role": "boss", "content": "a"}]},
        {},
        "`messages[0].role` is 'boss', which is none of",
    ),
    "broken JSON": ({"messages": '[{"role": "user", '}, {}, "`messages` is a string that is not"),
    "tools": ({"prompt": "a", "tools": ["hammer"]}, {}, "`tools[0]` is a string that is not JSON"),
    "history": (
        {"prompt": "a", "history": [["only one"]]},
        {},
        "`history[0]` is neither a message nor a pair",
    ),
    "no text before the response": (
        {"text": "all of it"},
        {"type": "completion"},
        "`row` has no prompt before its response",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_a_row_without_a_prompt_is_named_with_file_and_line(
    name: str, tmp_path: Path, url: str
) -> None:
    row, entry, said = BAD[name]
    before = len(asked(url))
    good = {"prompt": "fine"} if "type" not in entry else row
    result = run(tmp_path, url, [good, row], **entry)
    assert result.exit_code == 1
    assert f"prompts.jsonl: row 1 (line 2): {said}" in result.output, result.output
    assert len(asked(url)) == before and not (tmp_path / "out").exists()


def test_rows_without_a_prompt_can_be_left_out(tmp_path: Path, url: str) -> None:
    rows = [{"prompt": "first"}, {"prompt": " "}, {"prompt": "second"}]
    run(tmp_path, url, rows)
    recipe = yaml.safe_load((tmp_path / "recipe.yaml").read_text())
    recipe["ual"]["pairs"]["on_unreadable"] = "drop"
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(main, ["pairs", str(tmp_path / "recipe.yaml")])
    assert result.exit_code == 0, result.output
    assert "1 rows cannot be read and are left out" in result.output
    assert "row 1 (line 2): `prompt` is empty" in result.output
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.counts["prompts"] == 2 and manifest.counts["unreadable"] == 1
    assert manifest.sources[0].rows == 3
