from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from axolotl_ual.errors import BackendError
from axolotl_ual.preprocess.data.rows import Sample, Turn
from axolotl_ual.preprocess.models.local.encoding import (
    NO_RESPONSE,
    NOT_VERBATIM,
    Encoded,
    Rendered,
    encode,
    render,
)
from tiny import make_tokenizer

BOS, EOS = "<s>", "</s>"
TEXTS = ["the answer is four", "who is the user?", "naïve 東京 🙂", "a b c d e f g h i j"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")), TEXTS * 3, 512)


@pytest.fixture
def plain_tokenizer(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(tokenizer, "chat_template", None)
    return tokenizer


def dialogue(*turns: tuple[str | None, str, bool]) -> Sample:
    return Sample(tuple(Turn(*turn) for turn in turns))


def one(sample: Sample, tokenizer: Any, max_length: int = 512) -> Encoded:
    (encoded,) = encode([sample], tokenizer, max_length)
    assert isinstance(encoded, Encoded)
    return encoded


def scored_text(encoded: Encoded, tokenizer: Any) -> str:
    return str(tokenizer.decode(encoded.ids[encoded.scored]))


def whole_text(encoded: Encoded, tokenizer: Any) -> str:
    return str(tokenizer.decode(encoded.ids))


def trained_texts(rendered: Rendered | str) -> list[str]:
    assert isinstance(rendered, Rendered)
    return [rendered.text[start:end] for start, end in rendered.spans]


def test_chat_template_scores_the_response_without_control_tokens(tokenizer: Any) -> None:
    encoded = one(dialogue(("user", "who?", False), ("assistant", "four", True)), tokenizer)
    # What follows the last scored token, the end-of-turn token, is dropped.
    assert whole_text(encoded, tokenizer) == "<|user|>\nwho?</s>\n<|assistant|>\nfour"
    assert scored_text(encoded, tokenizer) == "four"


@pytest.mark.parametrize("response", ["a", "user", "assistant", "<|user|>", "s", "\n", "who?"])
def test_response_that_the_template_also_writes_is_found_in_its_place(
    tokenizer: Any, response: str
) -> None:
    sample = dialogue(
        ("user", "who?", False), ("assistant", response, True), ("user", response, False)
    )
    rendered = render(sample, tokenizer)
    assert isinstance(rendered, Rendered)
    start = len("<|user|>\nwho?</s>\n<|assistant|>\n")
    assert rendered.spans == ((start, start + len(response)),)


def test_every_trained_turn_is_scored(tokenizer: Any) -> None:
    sample = dialogue(
        ("system", "be brief", False),
        ("user", "one?", False),
        ("assistant", "first", True),
        ("user", "two?", False),
        ("assistant", "not this", False),
        ("user", "three?", False),
        ("assistant", "third", True),
    )
    assert trained_texts(render(sample, tokenizer)) == ["first", "third"]
    assert scored_text(one(sample, tokenizer), tokenizer) == "firstthird"


@pytest.mark.parametrize("template", [True, False])
def test_a_message_of_which_a_part_is_trained_stays_one_message(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, template: bool
) -> None:
    whole = dialogue(("user", "Sum?", False), ("assistant", "Let me see: four.", True))
    parts = Sample(
        (
            Turn("user", "Sum?", False),
            Turn("assistant", "Let me see: ", False),
            Turn("assistant", "four", True, continues=True),
            Turn("assistant", ".", False, continues=True),
        )
    )
    if not template:
        monkeypatch.setattr(tokenizer, "chat_template", None)
    rendered, expected = render(parts, tokenizer), render(whole, tokenizer)
    assert isinstance(rendered, Rendered) and isinstance(expected, Rendered)
    assert rendered.text == expected.text
    assert trained_texts(rendered) == ["four"]


def test_template_that_strips(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    stripping = tokenizer.chat_template.replace("['content']", "['content'] | trim")
    monkeypatch.setattr(tokenizer, "chat_template", stripping)
    sample = dialogue(("user", "who?", False), ("assistant", "  four \n", True))
    assert trained_texts(render(sample, tokenizer)) == ["four"]


def test_template_that_rewrites_is_told(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rewriting = tokenizer.chat_template.replace("['content']", "['content'] | upper")
    monkeypatch.setattr(tokenizer, "chat_template", rewriting)
    sample = dialogue(("user", "who?", False), ("assistant", "four", True))
    assert encode([sample], tokenizer, 64) == [NOT_VERBATIM]


def test_template_that_refuses_is_told(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    refusing = "{{ raise_exception('roles must alternate') }}"
    monkeypatch.setattr(tokenizer, "chat_template", refusing)
    sample = dialogue(("user", "who?", False), ("assistant", "four", True))
    (reason,) = encode([sample], tokenizer, 64)
    assert reason == "the chat template refuses the dialogue: roles must alternate"


def test_rows_without_roles_are_concatenated_verbatim(tokenizer: Any) -> None:
    encoded = one(dialogue((None, "Q: who? A:", False), (None, " four", True)), tokenizer)
    assert whole_text(encoded, tokenizer) == f"{BOS}Q: who? A: four"
    assert scored_text(encoded, tokenizer) == " four"


def test_roles_without_a_template_become_paragraphs(plain_tokenizer: Any) -> None:
    encoded = one(dialogue(("user", "who?", False), ("assistant", "four", True)), plain_tokenizer)
    assert whole_text(encoded, plain_tokenizer) == f"{BOS}User: who?\n\nAssistant: four"
    assert scored_text(encoded, plain_tokenizer).strip() == "four"


def test_begin_of_sequence_is_never_doubled(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizer, "chat_template", "<s>" + tokenizer.chat_template)
    chat = one(dialogue(("user", "who?", False), ("assistant", "four", True)), tokenizer)
    text = one(dialogue((None, "<s>who?", False), (None, "four", True)), tokenizer)
    for encoded in (chat, text):
        assert encoded.ids[0] == tokenizer.bos_token_id
        assert (encoded.ids == tokenizer.bos_token_id).sum() == 1


@pytest.mark.parametrize("begin", [BOS, EOS])
def test_response_without_a_prompt_is_scored_wholly(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch, begin: str
) -> None:
    if begin == EOS:
        monkeypatch.setitem(tokenizer._special_tokens_map, "bos_token", None)
    encoded = one(dialogue((None, "four", True)), tokenizer)
    assert whole_text(encoded, tokenizer) == f"{begin}four"
    assert scored_text(encoded, tokenizer) == "four"


def test_prompt_is_cut_from_its_left_and_the_response_is_whole(tokenizer: Any) -> None:
    # One token a character, as "@" is in no merge.
    sample = dialogue((None, "@" * 100 + "%%%", False), (None, "four", True))
    whole = one(sample, tokenizer)
    num_response = int(whole.scored.sum())
    encoded = one(sample, tokenizer, max_length=num_response + 4)
    # Four tokens of prompt: the first of the sequence, and the last three.
    assert whole_text(encoded, tokenizer) == f"{BOS}%%%four"
    assert scored_text(encoded, tokenizer) == "four"
    assert encoded.prompt_cut and not encoded.response_cut


def test_response_too_long_by_itself_keeps_its_head(tokenizer: Any) -> None:
    sample = dialogue((None, "who?", False), (None, "0123456789", True))
    encoded = one(sample, tokenizer, max_length=5)
    # One token of context is needed to score the first.
    assert whole_text(encoded, tokenizer) == f"{BOS}0123"
    assert encoded.prompt_cut and encoded.response_cut


def test_long_prompts_do_not_make_responses_alike(tokenizer: Any) -> None:
    prompt = (None, "who?\n" * 200, False)
    texts = ["four", "seven"]
    encoded = [one(dialogue(prompt, (None, text, True)), tokenizer, 32) for text in texts]
    assert [scored_text(item, tokenizer) for item in encoded] == texts


def test_response_without_tokens(tokenizer: Any) -> None:
    assert encode([dialogue((None, "who?", False), (None, "", True))], tokenizer, 8) == [
        NO_RESPONSE
    ]
    assert encode([], tokenizer, 8) == []


def test_reasons_and_rows_keep_their_order(tokenizer: Any) -> None:
    good = dialogue((None, "who? ", False), (None, "four", True))
    bad = dialogue((None, "who?", False), (None, "", True))
    encoded = encode([bad, good, bad, good], tokenizer, 32)
    assert [isinstance(item, Encoded) for item in encoded] == [False, True, False, True]


def test_tokenizer_without_offsets_is_refused(tokenizer: Any) -> None:
    class Slow:
        is_fast = False

    with pytest.raises(BackendError, match="Slow does not map tokens to characters"):
        encode([dialogue((None, "four", True))], Slow(), 8)


words = st.text(st.characters(blacklist_categories=["Cs", "Co"]), max_size=20)


@settings(max_examples=150)
@given(
    prompt=words,
    response=words.filter(lambda text: bool(text.strip())),
    max_length=st.integers(2, 40),
    roles=st.booleans(),
)
def test_encoding_properties(
    tokenizer: Any, prompt: str, response: str, max_length: int, roles: bool
) -> None:
    user, assistant = ("user", "assistant") if roles else (None, None)
    sample = dialogue((user, prompt, False), (assistant, response, True))
    (whole,) = encode([sample], tokenizer, 10_000)
    (cut,) = encode([sample], tokenizer, max_length)
    assert isinstance(whole, Encoded) and isinstance(cut, Encoded)
    assert response.strip() in scored_text(whole, tokenizer)
    assert len(cut.ids) <= max_length and not cut.scored[0]
    assert cut.scored.sum() == min(whole.scored.sum(), max_length - 1)
    # The head of the response is what is left of it.
    np.testing.assert_array_equal(
        cut.ids[cut.scored], whole.ids[whole.scored][: int(cut.scored.sum())]
    )
    assert cut.response_cut == bool(whole.scored.sum() > cut.scored.sum())
