"""What is judged is the text that Axolotl trains on."""

from __future__ import annotations

import json
from typing import Any

import datasets
import pytest

from axolotl_ual.preprocess.data.rows import NATIVE
from sample_rows import CHAT, CUSTOM, DETAILED, SHAREGPT, Rows, samples_of, trained
from tiny import make_tokenizer

pytestmark = pytest.mark.host


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
