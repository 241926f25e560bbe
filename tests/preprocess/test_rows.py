"""Readers against Axolotl's own strategies, round trips, and bad rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.config import UALConfig
from axolotl_ual.errors import ConfigError, DataError
from axolotl_ual.preprocess.axolotl_yaml import Entry, Recipe
from axolotl_ual.preprocess.rows import NATIVE, Samples, Turn, read_samples
from tiny import make_tokenizer

Rows = Sequence[Mapping[str, Any]]


def entry_of(**raw: Any) -> Entry:
    raw.setdefault("path", "data.jsonl")
    return Entry(0, raw, raw["path"], raw.get("type"), "data.jsonl")


def samples_of(rows: Rows, *, recipe: Mapping[str, Any] | None = None, **raw: Any) -> Samples:
    entry = entry_of(**raw)
    table = datasets.Dataset.from_list([dict(row) for row in rows])
    settings = dict(recipe or {})
    return read_samples(
        table, entry, Recipe(Path("r.yaml"), settings, None, 42, UALConfig(), [entry])
    )


def turns_of(row: Mapping[str, Any], **raw: Any) -> tuple[Turn, ...]:
    recipe = raw.pop("recipe", None)
    return samples_of([row], recipe=recipe, **raw)[0].turns


def trained(samples: Samples) -> list[str]:
    return ["".join(turn.text for turn in sample.turns if turn.trained) for sample in samples]


# --- the same text as Axolotl trains ---------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def trained_by_axolotl(rows: Rows, tokenizer: Any, **raw: Any) -> list[str]:
    """Decoded trained tokens, without special ones, of what Axolotl makes of each row."""
    from axolotl.utils.data.wrappers import get_dataset_wrapper
    from axolotl.utils.dict import DictDefault
    from axolotl.utils.schemas.datasets import SFTDataset

    entry = DictDefault(SFTDataset(**{"path": "x", **raw}).model_dump(exclude_none=True))
    base, _, style = raw["type"].partition(":") if isinstance(raw["type"], str) else ("", "", "")
    wrapped, _ = get_dataset_wrapper(
        dataset_config=entry,
        tokenizer=tokenizer,
        cfg=DictDefault({"train_on_inputs": False, "sequence_len": 2048}),
        dataset_base_type=base or None,
        dataset=datasets.Dataset.from_list([dict(row) for row in rows]),
        dataset_prompt_style=style or None,
    )
    return [
        tokenizer.decode(
            [token for token, label in zip(ids, labels, strict=True) if label != -100],
            skip_special_tokens=True,
        )
        for ids, labels in zip(wrapped["input_ids"], wrapped["labels"], strict=True)
    ]


CHAT = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Two plus two?"},
            {"role": "assistant", "content": "Four."},
            {"role": "user", "content": "And three?"},
            {"role": "assistant", "content": "Seven, of course."},
        ]
    },
    {
        "messages": [
            {"role": "user", "content": "Capital of Peru?"},
            {"role": "assistant", "content": "Lima."},
        ]
    },
]
SHAREGPT = [
    {
        "conversations": [
            {"from": "human", "value": "Name a colour."},
            {"from": "gpt", "value": "Blue."},
        ]
    }
]
FLAGGED = [
    {
        "messages": [
            {"role": "user", "content": "One?", "train": None},
            {"role": "assistant", "content": "No.", "train": False},
            {"role": "user", "content": "Two?", "train": True},
            {"role": "assistant", "content": "Yes.", "train": True},
        ]
    }
]
# "Bad answer." is characters 0 to 10, " Good answer." 11 to 23: ends are inclusive.
DETAILED = [
    {
        "messages": [
            {"role": "user", "content": "Answer.", "detail": None},
            {
                "role": "assistant",
                "content": "Bad answer. Good answer.",
                "detail": [
                    {"begin_offset": 0, "end_offset": 10, "train": False},
                    {"begin_offset": 11, "end_offset": 23, "train": True},
                ],
            },
        ]
    }
]
PARTS = [
    {
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Think.", "train": None}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Let me think.", "train": False},
                    {"type": "text", "text": " It is four.", "train": True},
                ],
            },
        ]
    }
]
SYSTEM_COLUMN = [{"system": "Be kind.", "messages": CHAT[1]["messages"]}]
CUSTOM = {
    "field_instruction": "q",
    "field_input": "context",
    "field_output": "a",
    "field_system": "sys",
    "system_prompt": "You answer.",
    "system_format": "<<{system}>>\n",
    "format": "[{instruction} | {input}] ",
    "no_input_format": "[{instruction}] ",
}
CASES: dict[str, tuple[Rows, dict[str, Any], list[str]]] = {
    "chat": (CHAT, {"type": "chat_template"}, ["Four.Seven, of course.", "Lima."]),
    "chat, roles_to_train": (
        CHAT,
        {"type": "chat_template", "roles_to_train": ["human"]},
        ["Two plus two?And three?", "Capital of Peru?"],
    ),
    "chat, from and value": (
        SHAREGPT,
        {
            "type": "chat_template",
            "field_messages": "conversations",
            "message_property_mappings": {"role": "from", "content": "value"},
        },
        ["Blue."],
    ),
    "chat, deprecated from and value": (
        SHAREGPT,
        {
            "type": "chat_template",
            "field_messages": "conversations",
            "message_field_role": "from",
            "message_field_content": "value",
        },
        ["Blue."],
    ),
    "chat, roles": (
        SHAREGPT,
        {
            "type": "chat_template",
            "field_messages": "conversations",
            "message_property_mappings": {"role": "from", "content": "value"},
            "roles": {"assistant": ["human"], "user": ["gpt"]},
        },
        ["Name a colour."],
    ),
    "chat, message_field_training": (
        FLAGGED,
        {"type": "chat_template", "message_field_training": "train"},
        ["Two?Yes."],
    ),
    "chat, message_field_training_detail": (
        DETAILED,
        {"type": "chat_template", "message_field_training_detail": "detail"},
        [" Good answer."],
    ),
    "chat, content parts": (PARTS, {"type": "chat_template"}, [" It is four."]),
    "chat, system column": (
        SYSTEM_COLUMN,
        {"type": "chat_template", "roles_to_train": ["system"]},
        ["Be kind."],
    ),
    "chat, drop_system_message": (
        [{"messages": CHAT[0]["messages"]}],
        {
            "type": "chat_template",
            "drop_system_message": True,
            "roles_to_train": ["system", "assistant"],
        },
        ["Four.Seven, of course."],
    ),
    "chat, messages as JSON text": (
        [{"messages": json.dumps(CHAT[1]["messages"])}],
        {"type": "chat_template"},
        ["Lima."],
    ),
    "input_output": (
        [
            {
                "segments": [
                    {"label": False, "text": "Q: one?\n"},
                    {"label": True, "text": "A: two."},
                    {"label": False, "text": " (hint)"},
                    {"label": True, "text": " done"},
                ]
            }
        ],
        {"type": "input_output"},
        ["A: two. done"],
    ),
    "completion": ([{"text": "Once upon a time."}], {"type": "completion"}, ["Once upon a time."]),
    "completion, field": (
        [{"body": "Once more."}],
        {"type": "completion", "field": "body"},
        ["Once more."],
    ),
    "custom": (
        [
            {"q": "Who?", "context": "A book.", "a": "She.", "sys": "Be terse."},
            {"q": "When?", "context": "", "a": "Then.", "sys": ""},
            {"q": "Why?", "context": None, "a": "Thus.", "sys": None},
        ],
        {"type": CUSTOM},
        ["She.", "Then.", "Thus."],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_judged_is_what_axolotl_trains(name: str, tokenizer: Any) -> None:
    rows, raw, expected = CASES[name]
    samples = samples_of(rows, **raw)
    samples.check()
    assert trained(samples) == expected
    assert trained_by_axolotl(rows, tokenizer, **raw) == expected


ALPACA_ROW = {
    "instruction": "Add.",
    "input": "1 and 2",
    "output": "Three.",
    "system": "Count well.",
    "question": "How many?",
    "answer": "A few.",
    "response": "Several.",
    "system_prompt": "Guess.",
    "message_1": "Hello there.",
    "message_2": "Hello yourself.",
    "INSTRUCTION": "Shout.",
    "RESPONSE": "HEY.",
    "text": "All of it.",
    "messages": CHAT[1]["messages"],
    "segments": [{"label": False, "text": "in "}, {"label": True, "text": "out"}],
}


@pytest.mark.parametrize("name", NATIVE)
def test_every_native_type_is_one_of_axolotl_and_trains_the_same(name: str, tokenizer: Any) -> None:
    rows = [ALPACA_ROW, {**ALPACA_ROW, "input": ""}]
    assert trained(samples_of(rows, type=name)) == trained_by_axolotl(rows, tokenizer, type=name)


def test_chat_template_default_is_no_type_of_supervised_training(tokenizer: Any) -> None:
    # Axolotl knows `chat_template.default` for preference data only.
    assert "chat_template.default" not in NATIVE
    with pytest.raises(ValueError, match="unhandled"):
        trained_by_axolotl(CHAT, tokenizer, type="chat_template.default")


# --- the shape of samples --------------------------------------------------------------------


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


# --- bad rows --------------------------------------------------------------------------------

GOOD = {"instruction": "Add.", "output": "3"}
USER = {"role": "user", "content": "Hi."}
BAD: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    ({**GOOD, "output": None}, {"type": "alpaca"}, "`output` is missing or null"),
    ({**GOOD, "output": ""}, {"type": "alpaca"}, "`output` is an empty response: ''"),
    ({**GOOD, "output": " \n"}, {"type": "alpaca"}, r"`output` is an empty response: ' \n'"),
    ({**GOOD, "instruction": None}, {"type": "alpaca"}, "`instruction` is missing or null"),
    ({**GOOD, "output": 5}, {"type": "alpaca"}, "`output` is a number and not a text: 5"),
    ({**GOOD, "output": {"a": 1}}, {"type": "alpaca"}, "`output` is an object and not a text"),
    ({"text": "  "}, {"type": "completion"}, "`text` is an empty response"),
    ({"segments": []}, {"type": "input_output"}, "`segments` has nothing in it that is trained"),
    ({"segments": None}, {"type": "input_output"}, "`segments` is null and not a list"),
    (
        {"segments": [{"text": "a", "label": None}]},
        {"type": "input_output"},
        "`segments[0].label` is null and not true or false",
    ),
    (
        {"segments": [{"text": None, "label": True}]},
        {"type": "input_output"},
        "`segments[0].text` is missing or null",
    ),
    ({"messages": None}, {"type": "chat_template"}, "`messages` is missing or null"),
    ({"messages": []}, {"type": "chat_template"}, "`messages` is an empty list"),
    (
        {"messages": "not json"},
        {"type": "chat_template"},
        "`messages` is a string that is not JSON",
    ),
    ({"messages": [USER, None]}, {"type": "chat_template"}, "`messages[1]` is null and not a"),
    (
        {"messages": [USER, {"role": "assistant", "content": None}]},
        {"type": "chat_template"},
        "`messages[1].content` is missing or null",
    ),
    (
        {"messages": [{"from": "human", "value": "Hi."}]},
        {"type": "chat_template"},
        "`messages[0].role` is missing or null; the message has from, value",
    ),
    (
        {"messages": [USER]},
        {"type": "chat_template"},
        "`messages` has nothing in it that is trained on",
    ),
    (
        {"messages": [USER, {"role": "assistant", "content": " "}]},
        {"type": "chat_template"},
        "`messages` is an empty response: ' '",
    ),
    (
        {"messages": [{"role": "user", "content": [{"type": "image", "image": "x.png"}]}]},
        {"type": "chat_template"},
        "`messages[0].content[0]` has no text (type: 'image')",
    ),
    ({"q": "x", "a": None}, {"type": CUSTOM}, "`a` is missing or null"),
]


@pytest.mark.parametrize(("row", "raw", "problem"), BAD, ids=[problem for *_, problem in BAD])
def test_a_bad_row_is_named(row: dict[str, Any], raw: dict[str, Any], problem: str) -> None:
    samples = samples_of([row], **raw)
    with pytest.raises(DataError) as caught:
        samples.check()
    assert f"row 0: {problem}" in str(caught.value)
    with pytest.raises(DataError, match="row 0"):
        samples[0]


def test_check_names_the_first_bad_rows_and_counts_all() -> None:
    rows = [{"text": "" if i % 2 else "fine"} for i in range(40)]
    with pytest.raises(DataError) as caught:
        samples_of(rows, type="completion").check(limit=3)
    message = str(caught.value)
    assert "20 of 40 rows cannot be read" in message
    assert [f"row {i}: " in message for i in (1, 3, 5, 7)] == [True, True, True, False]
    assert "... and 17 more" in message


def test_a_column_that_is_nowhere_is_one_error_with_the_columns_there_are() -> None:
    with pytest.raises(DataError) as caught:
        samples_of(SHAREGPT, type="chat_template").check()
    assert "no row has the key `messages`" in str(caught.value)
    assert "`conversations`" in str(caught.value)
    assert "field_messages" in caught.value.fix


def test_annotated_data_are_refused() -> None:
    with pytest.raises(DataError, match="`ual_smoothing` already") as caught:
        samples_of([{**GOOD, "ual_smoothing": 0.1}], type="alpaca")
    assert "take `annotate:` out" in caught.value.fix


def test_a_type_is_needed() -> None:
    with pytest.raises(ConfigError, match="type: this key is needed"):
        samples_of([GOOD])


@pytest.mark.parametrize(
    ("raw", "key"),
    [
        ({"type": {"format": "{instruction} {question}"}}, "type.format"),
        ({"type": {"no_input_format": "{instruction"}}, "type.no_input_format"),
        ({"type": {"field_output": 3}}, "type.field_output"),
        ({"type": "chat_template", "roles": {"user": "human"}}, "roles"),
        ({"type": "chat_template", "roles_to_train": "assistant"}, "roles_to_train"),
        (
            {
                "type": "chat_template",
                "message_field_role": "from",
                "message_property_mappings": {"role": "who"},
            },
            "message_field_role",
        ),
    ],
)
def test_a_wrong_option_is_named(raw: dict[str, Any], key: str) -> None:
    with pytest.raises(ConfigError, match=key):
        samples_of([GOOD], **raw)
