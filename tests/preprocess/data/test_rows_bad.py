"""Rows that cannot be read are named."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.errors import ConfigError, DataError
from sample_rows import CUSTOM, SHAREGPT, samples_of

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
