"""Answers of pairs reach the trainer as they are, however short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from axolotl.prompt_strategies.dpo import chat_template
from axolotl.utils.data import rl
from axolotl.utils.dict import DictDefault

import tiny
from axolotl_ual.data.answers import exact, exact_answers

FIELDS = {"chosen": "chosen", "rejected": "rejected"}
CFG = DictDefault(
    {"datasets": [{"type": "chat_template.default"}], "chat_template": "tokenizer_default"}
)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tiny.make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")))


def row(chosen: str, rejected: str) -> dict[str, Any]:
    return {
        "messages": [{"role": "user", "content": "hi"}],
        "chosen": {"role": "assistant", "content": chosen},
        "rejected": {"role": "assistant", "content": rejected},
    }


def test_short_answers_are_not_looked_for_in_the_template(tokenizer: Any) -> None:
    stock, _ = chat_template.default(CFG)
    # The template writes "<|user|>" before the answer: this is what goes wrong without us.
    assert stock(row("user", "a"), tokenizer=tokenizer)["chosen"] != "user</s>"
    found = exact(stock, FIELDS)(row("user", "a"), tokenizer=tokenizer)
    assert (found["chosen"], found["rejected"]) == ("user</s>", "a</s>")
    assert found["prompt"] == "<|user|>\nhi</s>\n<|assistant|>\n"


def test_other_answers_are_rendered_as_axolotl_does(tokenizer: Any) -> None:
    stock, _ = chat_template.default(CFG)
    for sample in (row("A longer answer.", "Another\none."), row("  x9 ", "y9")):
        ours = exact(stock, FIELDS)(sample, tokenizer=tokenizer)
        assert ours == stock(sample, tokenizer=tokenizer)
    texts = {**row("", ""), "chosen": "plain text", "rejected": "other text"}
    assert exact(stock, FIELDS)(texts, tokenizer=tokenizer) == stock(texts, tokenizer=tokenizer)


def test_axolotl_is_left_as_it_was(tokenizer: Any) -> None:
    stock = rl.load_dpo
    with exact_answers():
        transform, options = rl.load_dpo("chat_template.default", CFG, dataset_idx=0)
        assert transform(row("a", "b"), tokenizer=tokenizer)["chosen"] == "a</s>"
        assert options == {"remove_columns": ["messages"]}
    assert rl.load_dpo is stock
