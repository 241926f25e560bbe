"""Rows as turns, and what they measure: by type, by guess, and for whole columns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.data.chat import chat_reader
from axolotl_ual.preprocess.data.chat_fields import ChatFields
from axolotl_ual.preprocess.data.sample import BadRow, Turn
from axolotl_ual.preprocess.report.folder import Part
from axolotl_ual.preprocess.report.rows import answer, dump, shown
from axolotl_ual.preprocess.report.texts import TextReader, measure_turns, text_reader


def reader_of(table: pa.Table, **entry: Any) -> TextReader:
    return text_reader(Part(Path("x.parquet"), "x", "x", entry, table.num_rows, table.schema))


def measured(table: pa.Table, **entry: Any) -> tuple[list[float], list[float]]:
    reader = reader_of(table, **entry)
    (batch,) = table.select(reader.columns).combine_chunks().to_batches()
    found = reader.measure(batch)
    return found.length_B.tolist(), found.turns_B.tolist()


ALPACA = pa.table(
    {
        "instruction": ["Add 1 and 1.", "Say hi."],
        "input": ["", "in French"],
        "output": ["2", "Salut"],
        "ual_uncertainty": pa.array([0.1, 0.2], pa.float32()),
    }
)


def test_alpaca_rows() -> None:
    reader = reader_of(ALPACA, type="alpaca")
    assert reader.columns == ["instruction", "input", "output"]
    row = {"instruction": "Say hi.", "input": "in French", "output": "Salut"}
    assert reader.turns(row) == (
        Turn("user", "Say hi.\n\nin French", False),
        Turn("assistant", "Salut", True),
    )
    assert measured(ALPACA, type="alpaca") == ([1.0, 5.0], [2.0, 2.0])


def test_a_type_of_ones_own() -> None:
    kind = {"field_instruction": "instruction", "field_output": "output", "format": "Q {input}"}
    # Prompt and response are plain text: two turns; "2" and "Salut" are trained.
    assert measured(ALPACA, type=kind) == ([1.0, 5.0], [2.0, 2.0])


def test_a_type_that_only_axolotl_reads_is_guessed() -> None:
    table = pa.table({"prompt": ["a"], "note": ["b"], "answer": ["ccc"], "n": [1]})
    assert reader_of(table, type="some.module").turns(table.to_pylist()[0]) == (
        Turn("prompt", "a", False),
        Turn("note", "b", False),
        Turn("answer", "ccc", True),
    )
    assert measured(table, type="some.module") == ([3.0], [3.0])


def test_sharegpt_is_guessed() -> None:
    table = pa.table(
        {"conversations": [[{"from": "human", "value": "q"}, {"from": "gpt", "value": "four"}]]}
    )
    assert measured(table) == ([4.0], [2.0])


def test_columns_that_are_not_those_of_the_type_are_guessed() -> None:
    table = pa.table({"prompt": ["a"], "response": ["bb"]})
    assert measured(table, type="alpaca") == ([2.0], [2.0])


def test_a_row_without_a_response_has_no_length() -> None:
    length, turns = measured(pa.table({"title": ["t"], "body": ["b"]}))
    assert np.isnan(length[0])
    assert turns == [2.0]


def test_tokens_are_counted_where_there_is_no_text() -> None:
    """Labels of -100 are not trained: 2 and 1 are left."""
    table = pa.table({"input_ids": [[1, 2, 3], [4, 5]], "labels": [[-100, 2, 3], [-100, 5]]})
    reader = reader_of(table)
    assert reader.unit == "tokens"
    assert measured(table)[0] == [2.0, 1.0]
    (turn,) = reader.turns(table.to_pylist()[0])
    assert turn == Turn("3 tokens, 2 of them trained", "1 2 3", True)


def test_parts_of_one_message_are_one_turn() -> None:
    turns = (
        Turn("user", "q", False),
        Turn("assistant", "bad", False),
        Turn("assistant", " good", True, True),
    )
    assert measure_turns(turns) == (5.0, 2.0)


ROLES = st.sampled_from(["user", "human", "assistant", "gpt", "system", "judge"])
MESSAGES = st.lists(st.tuples(ROLES, st.text(max_size=6)), min_size=1, max_size=5)


@given(
    st.lists(MESSAGES, min_size=1, max_size=6),
    st.sampled_from([None, ["assistant"], ["judge", "assistant"], ["gpt"]]),
    st.sampled_from([None, {"assistant": ["judge"], "user": ["assistant", "user"]}]),
    st.integers(0, 3),
)
def test_whole_columns_measure_as_row_by_row(
    rows: list[list[tuple[str, str]]], to_train: Any, roles: Any, skipped: int
) -> None:
    """What the reader makes of a row, where it can read it: a batch may begin anywhere."""
    entry: dict[str, Any] = {"type": "chat_template"}
    entry |= {"roles_to_train": to_train} if to_train else {}
    entry |= {"roles": roles} if roles else {}
    messages = [[{"role": role, "content": text} for role, text in row] for row in rows]
    table = pa.table({"messages": messages})
    reader = reader_of(table, **entry)
    (batch,) = table.to_batches()
    skipped = min(skipped, len(rows) - 1)
    found = reader.measure(batch.slice(skipped))
    read = chat_reader(ChatFields.of(entry, False, "x")).read
    for place, row in enumerate(table.to_pylist()[skipped:]):
        try:
            length, turns = measure_turns(read(row).turns)
        except BadRow:
            continue
        assert found.length_B[place] == length
        assert found.turns_B[place] == turns


def test_columns_that_add_to_the_messages_are_read_row_by_row() -> None:
    """A system column is one more turn; a flag of `weight` 0 leaves its message untrained."""
    messages = [[{"role": "user", "content": "q"}, {"role": "assistant", "content": "abc"}]]
    table = pa.table({"messages": messages, "system": ["Be brief."]})
    assert measured(table, type="chat_template") == ([3.0], [3.0])
    weighted = [[{**message, "weight": 0 if i else 1} for i, message in enumerate(messages[0])]]
    table = pa.table({"messages": weighted})
    entry = {"type": "chat_template", "message_field_training": "weight"}
    assert measured(table, **entry) == ([1.0], [2.0])


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ({"role": "assistant", "content": "a"}, "a"),
        ([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}], "a"),
        ([], ""),
        (None, ""),
        ({"reasoning_content": "r", "content": "a"}, "r\na"),
        ({"content": None, "tool_calls": [{"function": {"name": "f"}}]}, '{"name":"f"}'),
    ],
)
def test_answers_of_pairs(value: Any, text: str) -> None:
    assert answer(value) == text


def test_long_texts_are_cut_and_counted() -> None:
    assert shown("abcdef", 4) == ("abcd", 2)
    assert shown("abc", 4) == ("abc", 0)


def test_what_utf8_cannot_carry_is_replaced() -> None:
    assert dump({"t": [["user", "a\ud800b", 0]]}) == b'{"t":[["user","a?b",0]]}'
