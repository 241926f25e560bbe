"""Answers of pairs reach the trainer as they are, however short."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from axolotl.prompt_strategies.dpo import chat_template
from axolotl.utils.data import rl
from axolotl.utils.dict import DictDefault

import tiny
from axolotl_ual.data.answers import exact, pairs, with_tools
from axolotl_ual.errors import UnsupportedError

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
    # The template writes "<|user|>" before the answer: this is what goes wrong without us where
    # Axolotl looks for the answer's text; newer ones cut the prompt off first.
    mended = hasattr(chat_template, "_completion_after_prompt")
    assert (stock(row("user", "a"), tokenizer=tokenizer)["chosen"] == "user</s>") == mended
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


@pytest.mark.parametrize("idx", [0, 1])
def test_axolotls_loader_finds_the_type(tokenizer: Any, idx: int) -> None:
    """`axolotl_ual.pairs`, with the fields that its own entry names."""
    fields = {"field_messages": "dialogue", "field_chosen": "better", "field_rejected": "worse"}
    cfg = DictDefault(
        {
            "datasets": [{"type": "axolotl_ual.pairs"}, {"type": "axolotl_ual.pairs", **fields}],
            "chat_template": "tokenizer_default",
        }
    )
    transform, options = rl.load_dpo("axolotl_ual.pairs", cfg, dataset_idx=idx)
    sample = row("user", "a")
    if idx == 1:
        sample = {new: sample[old] for new, old in zip(fields.values(), sample, strict=True)}
    found = transform(sample, tokenizer=tokenizer)
    assert (found["chosen"], found["rejected"]) == ("user</s>", "a</s>")
    assert options == {"remove_columns": ["dialogue" if idx else "messages"]}


def test_a_loader_that_gives_something_else_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "default", lambda cfg, **_: print)
    with pytest.raises(UnsupportedError, match="gives builtin_function_or_method, not a transf"):
        pairs(CFG)


TOOLS = [{"type": "function", "function": {"name": "add"}}]
CALLING = {
    "role": "assistant",
    "content": "",
    "tool_calls": [{"type": "function", "function": {"name": "add", "arguments": {"x": 1}}}],
}
TEMPLATE = (
    "{% if tools %}TOOLS {{ tools | tojson }}{% endif %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function | tojson }}</call>{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def with_calls() -> dict[str, Any]:
    """A row as `pairs` writes it: texts, and the dialogue with its tools as JSON."""
    texts = row("plain", '{"name": "add", "arguments": {"x": 1}}')
    texts["messages"] = [{"role": "system", "content": json.dumps(TOOLS)}, *texts["messages"]]
    chat = {"messages": [{"role": "user", "content": "hi"}, CALLING], "tools": TOOLS}
    return {**texts, "chat": json.dumps({**chat, "rejected": CALLING})}


def test_tools_and_calls_are_rendered(tokenizer: Any) -> None:
    cfg = DictDefault({**CFG, "chat_template": "jinja", "chat_template_jinja": TEMPLATE})
    transform, _ = rl.load_dpo("axolotl_ual.pairs", cfg, dataset_idx=0)
    found = transform(with_calls(), tokenizer=tokenizer)
    call = '<call>{"name": "add", "arguments": {"x": 1}}</call>'
    tools = 'TOOLS [{"type": "function", "function": {"name": "add"}}]'
    assert found["prompt"] == f"{tools}[user]hi[assistant]{call}[assistant]"
    assert (found["chosen"], found["rejected"]) == ("plain", call)


def test_a_template_without_tools_gets_them_as_text(tokenizer: Any) -> None:
    stock, _ = chat_template.default(CFG)
    plain = exact(stock, FIELDS)
    ours = with_tools(plain, lambda tokenizer: str(tokenizer.chat_template))
    sample = with_calls()
    assert ours(sample, tokenizer=tokenizer) == plain(sample, tokenizer=tokenizer)
    assert '"name": "add"' in ours(sample, tokenizer=tokenizer)["prompt"]
