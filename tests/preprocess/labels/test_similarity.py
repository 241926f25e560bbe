from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.preprocess.labels.similarity import overlap, units, word_overlap


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hello, World! hello", {"hello": 2, "world": 1}),
        # Chinese: neighbours, not across punctuation; a single character is itself.
        ("猫在垫子。狗", {"猫在": 1, "在垫": 1, "垫子": 1, "狗": 1}),
        # Each word of a mixed text by its own script.
        ("漢字 and カナ 3d", {"漢字": 1, "and": 1, "カナ": 1, "3d": 1}),
        # Hindi parts words by spaces, and its vowel signs belong to them.
        ("हिन्दी भाषा", {"हिन्दी": 1, "भाषा": 1}),
        # Thai does not: a mark stays with its letter.
        ("ที่นี่", {"ที่นี่": 1}),
        # Wide and narrow forms, case, composed and decomposed letters are the same.
        ("ＡＢ É", {"ab": 1, "é": 1}),
        ("... ?!", {}),
    ],
)
def test_units_by_hand(text: str, found: dict[str, int]) -> None:
    assert dict(units(text)) == {unicodedata.normalize("NFKC", u): n for u, n in found.items()}


def test_overlap_by_hand() -> None:
    # 巴黎是首都 and 首都是巴黎 share 巴黎 and 首都 of four pairs each: 2 * 2 / 8.
    assert word_overlap("巴黎是首都", "首都是巴黎") == 0.5
    assert word_overlap("巴黎", "里昂") == 0.0
    assert overlap(units("!"), units("?")) == 1.0
    assert word_overlap("!", "word") == 0.0


@given(st.text(max_size=30), st.text(max_size=30))
def test_overlap_is_symmetric_bounded_and_1_for_equal_texts(one: str, other: str) -> None:
    assert word_overlap(one, other) == word_overlap(other, one)
    assert 0.0 <= word_overlap(one, other) <= 1.0
    assert overlap(units(one), units(one)) == 1.0


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=40))
def test_ascii_has_no_way_of_its_own(text: str) -> None:
    # A letter outside ASCII at the end sends the text through the general way.
    assert units(text) + units("é") == units(text + " é")
