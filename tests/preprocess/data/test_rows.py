"""The shape of samples, and text that comes back verbatim."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.data.rows import Turn
from sample_rows import CHAT, CUSTOM, DETAILED, samples_of, turns_of


def test_alpaca_turns() -> None:
    row = {"instruction": "Add.", "input": "1, 2", "output": "3", "system": "Be quick."}
    assert turns_of(row, type="alpaca") == (
        Turn("user", "Add.\n\n1, 2", False),
        Turn("assistant", "3", True),
    )
    assert turns_of(row, type="alpaca_w_system.load_instruct")[0] == Turn(
        "system", "Be quick.", False
    )
    assert turns_of({**row, "input": None}, type="alpaca")[0].text == "Add."


def test_alpaca_without_an_input_column() -> None:
    assert turns_of({"instruction": "Hi.", "output": "Ho."}, type="alpaca")[0].text == "Hi."


def test_numbers_in_a_prompt_are_written_as_axolotl_writes_them() -> None:
    # A CSV column of numbers: the prompt of row 0 is "12", and an input of 0 is no input.
    samples = samples_of([{"instruction": 12, "input": 0, "output": "a"}], type="alpaca")
    assert samples[0].turns[0].text == "12"


def test_a_custom_prompt_is_plain_text_as_rendered() -> None:
    row = {"q": "Who?", "context": "A book.", "a": "She.", "sys": "Be terse."}
    sample = samples_of([row], type=CUSTOM)[0]
    assert sample.turns == (
        Turn(None, "<<Be terse.>>\n[Who? | A book.] ", False),
        Turn(None, "She.", True),
    )
    assert not sample.has_roles
    # The recipe's system_prompt holds where there is no such column.
    del row["sys"]
    assert turns_of(row, type=CUSTOM)[0].text.startswith("<<You answer.>>\n")


def test_a_partly_trained_message_is_several_turns_of_one_message() -> None:
    turns = turns_of(DETAILED[0], type="chat_template", message_field_training_detail="detail")
    assert turns[1:] == (
        Turn("assistant", "Bad answer.", False),
        Turn("assistant", " Good answer.", True, continues=True),
    )


def test_tools_join_the_system_message_and_calls_follow_the_content() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    call = {"function": {"name": "add", "arguments": '{"x": 1}'}}
    messages = [
        {"role": "user", "content": "Add.", "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [call]},
    ]
    row = {"messages": json.dumps(messages), "tools": json.dumps(tools)}
    turns = turns_of(row, type="chat_template")
    assert turns[0] == Turn("system", json.dumps(tools), False)
    assert turns[-1] == Turn("assistant", '{"name": "add", "arguments": {"x": 1}}', True)
    with_system = [{"role": "system", "content": "Hi."}, *messages]
    turns = turns_of({**row, "messages": json.dumps(with_system)}, type="chat_template")
    assert turns[:2] == (
        Turn("system", "Hi.", False),
        Turn("system", f"\n\n{json.dumps(tools)}", False, continues=True),
    )


def test_reasoning_comes_before_the_content() -> None:
    message = {"role": "assistant", "content": "4.", "reasoning_content": "2 and 2."}
    row = {"messages": [{"role": "user", "content": "2+2?"}, message]}
    assert turns_of(row, type="chat_template")[-1].text == "2 and 2.\n\n4."


def test_train_on_inputs_changes_no_sample_that_has_a_response() -> None:
    on = {"train_on_inputs": True}
    assert turns_of(CHAT[0], type="chat_template", recipe=on) == turns_of(
        CHAT[0], type="chat_template"
    )


def test_train_on_inputs_makes_a_row_without_a_response_all_response() -> None:
    row = {"segments": [{"label": False, "text": "all "}, {"label": False, "text": "of it"}]}
    on = {"train_on_inputs": True}
    assert [turn.trained for turn in turns_of(row, type="input_output", recipe=on)] == [True, True]
    asked = {"messages": [{"role": "user", "content": "Hm."}]}
    assert turns_of(asked, type="chat_template", recipe=on) == (Turn("user", "Hm.", True),)


def test_samples_are_a_sequence() -> None:
    rows = [{"text": f"row {i}"} for i in range(2500)]
    samples = samples_of(rows, type="completion")
    assert len(samples) == 2500
    assert [sample.turns[0].text for sample in samples] == [row["text"] for row in rows]
    assert samples[-1].turns[0].text == "row 2499"
    assert [sample.turns[0].text for sample in samples[1:3]] == ["row 1", "row 2"]
    with pytest.raises(IndexError):
        samples[2500]


# --- text comes back verbatim ----------------------------------------------------------------

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
RESPONSE = TEXT.filter(lambda text: bool(text.strip()))


@given(instruction=TEXT, input=TEXT, output=RESPONSE)
def test_alpaca_round_trip(instruction: str, input: str, output: str) -> None:
    row = {"instruction": instruction, "input": input, "output": output}
    prompt, response = turns_of(row, type="alpaca")
    assert response == Turn("assistant", output, True)
    assert prompt.text == (f"{instruction}\n\n{input}" if input else instruction)


@given(st.lists(st.tuples(st.booleans(), TEXT), max_size=6), RESPONSE)
def test_input_output_round_trip(segments: list[tuple[bool, str]], last: str) -> None:
    segments = [*segments, (True, last)]
    row = {"segments": [{"label": label, "text": text} for label, text in segments]}
    turns = turns_of(row, type="input_output")
    assert [(turn.trained, turn.text) for turn in turns] == segments


@given(st.lists(st.tuples(st.sampled_from(["user", "assistant"]), TEXT), max_size=6), RESPONSE)
def test_chat_round_trip(messages: list[tuple[str, str]], last: str) -> None:
    messages = [*messages, ("assistant", last)]
    row = {"messages": [{"role": role, "content": content} for role, content in messages]}
    turns = turns_of(row, type="chat_template")
    assert [(turn.role, turn.text) for turn in turns] == messages
    assert [turn.trained for turn in turns] == [role == "assistant" for role, _ in messages]


@given(
    content=st.text("ab ", min_size=1, max_size=12),
    spans=st.lists(st.tuples(st.integers(-2, 14), st.integers(-2, 14), st.booleans()), max_size=4),
)
def test_training_details_cut_by_character(
    content: str, spans: list[tuple[int, int, bool]]
) -> None:
    # A character is trained when any trained span has it; the slow way to say so.
    wanted = "".join(
        c
        for i, c in enumerate(content)
        if any(train and begin <= i <= end for begin, end, train in spans)
    )
    detail = [{"begin_offset": b, "end_offset": e, "train": t} for b, e, t in spans]
    asked = {"role": "user", "content": "?", "train": True}
    message = {"role": "assistant", "content": content, "train": None, "detail": detail}
    row = {"messages": json.dumps([asked, message])}
    turns = turns_of(
        row,
        type="chat_template",
        message_field_training="train",
        message_field_training_detail="detail",
    )[1:]
    assert "".join(turn.text for turn in turns) == content
    assert "".join(turn.text for turn in turns if turn.trained) == wanted
