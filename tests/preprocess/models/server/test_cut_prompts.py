"""Prompts that a server cut, by what it counts. A word of up to eight letters is a piece."""

from __future__ import annotations

import pytest

from axolotl_ual.preprocess.models.server.cut_prompts import CutPrompts


def is_cut(looked: CutPrompts, text: str, tokens: int, max_tokens: int = 64) -> bool:
    return looked.is_cut([{"role": "user", "content": text}], tokens, max_tokens)


def taught(tokens_a_word: float = 1.0, context: int | None = None) -> CutPrompts:
    """Ten whole prompts of 300 to 1,200 words."""
    looked = CutPrompts()
    looked.context = context
    for words in range(300, 1300, 100):
        assert not is_cut(looked, "abc " * words, round(tokens_a_word * words))
    return looked


@pytest.mark.parametrize(
    ("text", "tokens", "cut"),
    [
        ("word " * 4000, 4000, False),  # 20,000 bytes, 5 for a token
        ("word " * 4000, 2048, True),  # 9.8 for a token
        ("word " * 2400, 2048, True),  # 5.9 for a token, and a round number
        ("word " * 2400, 2100, False),  # 5.7 for a token, and not a round one
        ("word " * 100, 100, False),
        ("word " * 4000, 0, False),  # not counted
        ("word " * 4000, 12, False),  # no context is so small: the server counts otherwise
        ("a" + " " * 100_000 + "b", 300, False),  # a run is a few tokens
        ("字" * 4000, 3000, False),  # 12,000 bytes; 1.3 characters for a token
    ],
)
def test_a_text_of_too_many_bytes(text: str, tokens: int, cut: bool) -> None:
    assert is_cut(CutPrompts(), text, tokens) is cut


@pytest.mark.parametrize(
    ("tokens", "cut"),
    [(4096, True), (4094, True), (4032, True), (4030, True), (4090, False), (4028, False)],
)
def test_a_count_of_the_context(tokens: int, cut: bool) -> None:
    """4,096, or 64 less for the answer."""
    looked = CutPrompts()
    looked.context = 4096
    assert is_cut(looked, "abc " * 4100, tokens) is cut


def test_half_the_context_is_no_proof_alone() -> None:
    """Ollama keeps half a context and 2 of what is longer than a context."""
    looked = taught(1.3, 3000)
    assert not is_cut(looked, "abc " * 1157, 1502)  # 1.3 * 1,157 = 1,504
    assert is_cut(looked, "abc " * 2400, 1502)  # 3,120 tokens


@pytest.mark.parametrize(
    ("words", "tokens", "cut"),
    [
        (2500, 2240, True),  # 0.9 * 2,500 = 2,250
        (2500, 2260, False),
        (1190, 1000, False),  # 0.9 * 1,190 = 1,071, but 1,200 words were read whole
        (1300, 1100, True),  # 0.9 * 1,300 = 1,170
    ],
)
def test_a_count_below_the_rate_of_others(words: int, tokens: int, cut: bool) -> None:
    assert is_cut(taught(), "abc " * words, tokens) is cut


def test_the_rate_of_others_is_learned() -> None:
    """A tokenizer of few tokens: 0.8 a word, so that 2,000 of 2,500 words are all of them."""
    assert not is_cut(taught(0.8), "abc " * 2500, 2000)
    # Seven are not enough to know it.
    looked = CutPrompts()
    for words in range(300, 1000, 100):
        is_cut(looked, "abc " * words, words)
    assert not is_cut(looked, "abc " * 2500, 2100)


def test_another_language_is_not_taken_for_a_cut_one() -> None:
    """1.6 tokens a word in all others, as of German, and 1.0 in this one, as of English."""
    assert not is_cut(taught(1.6), "abc " * 3000, 3000)
    looked = CutPrompts()
    for number in range(100, 1000, 50):
        assert not is_cut(looked, "语言模型 " * number, 5 * number)
    assert not is_cut(looked, "abc " * 6000, 6000)


def test_a_round_number_at_the_top() -> None:
    """2,048 tokens are a round number, and 2,200 words 7 % more."""
    assert is_cut(taught(), "abc " * 2200, 2048)
    assert not is_cut(taught(), "abc " * 2200, 2060)
    assert not is_cut(taught(), "abc " * 2100, 2048)
    looked = taught()
    assert not is_cut(looked, "abc " * 2500, 2500)
    # Another was longer, so there is room for more.
    assert not is_cut(looked, "abc " * 2200, 2048)


def test_texts_of_several_lengths_at_the_top() -> None:
    looked = taught()
    assert not is_cut(looked, "abc " * 2000, 1900)
    assert not is_cut(looked, "abc " * 2100, 1900)  # 5 % more
    assert is_cut(looked, "abc " * 2300, 1901)  # 15 % more
    # 2,000 words at 1.0 are more than 1,901.
    assert is_cut(looked, "abc " * 2000, 1901)
    # Two had it: it is the context, however short the text seems.
    assert is_cut(looked, "abc " * 1880, 1901)
    assert not is_cut(looked, "abc " * 1880, 1880)


def test_a_server_that_counts_characters_cuts_nothing() -> None:
    """A quarter of them: of "-188", a piece or two each four characters, fewer than its tokens."""
    looked = CutPrompts()
    for words in range(300, 1300, 100):
        assert not is_cut(looked, "abc " * words, words)
    assert not is_cut(looked, "-188\n" * 1040, 1300)


def test_a_server_that_always_counts_the_same_cuts_nothing() -> None:
    """5,000 tokens cannot be what is left of 1,200 to 4,800 characters."""
    looked = CutPrompts()
    for words in range(300, 1300, 100):
        assert not is_cut(looked, "abc " * words, 5000)


def test_numbers_of_three_digits_are_a_token() -> None:
    """A number and a word of eight letters are two tokens."""
    assert not is_cut(taught(), "abcdefgh 188 " * 1000, 2000)
