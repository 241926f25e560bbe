"""How alike two texts are: the overlap of their words, in any script.

    sim(a, b) = 2 |A n B| / (|A| + |B|)        F1 of the multisets A and B of units

A unit is a word (letters, digits and the marks on them, case folded) where a script parts words by
spaces. Chinese, Japanese, Thai, Lao, Khmer, Burmese and Tibetan do not: a whole sentence would be
one word, and two paraphrases would share nothing. There a unit is a pair of neighbouring characters
(bigrams, as retrieval in these languages has them: Manning, Raghavan and Schuetze 2008, 2.2.1), and
a character that stands alone is itself. Punctuation is no unit.

Rivals: ROUGE-L, which keeps order; chrF, which takes character n-grams of every script and so
scores unrelated English above 0.2; embeddings, which see that different words mean the same.
"""

from __future__ import annotations

import functools
import itertools
import re
import sys
import unicodedata
from collections import Counter
from typing import Final

_UNSPACED: Final = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u1950-\u19df\u1a20-\u1aaf"  # Tai Le, New Tai Lue, Tai Tham
    "\u3005-\u3007\u3040-\u312f\u31f0-\u31ff"  # Japanese syllables, bopomofo
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)


def units(text: str) -> Counter[str]:
    """The words of a text, or pairs of characters in scripts without spaces, with their counts."""
    if text.isascii():
        return Counter(re.findall(r"\w+", text.lower()))
    folded = unicodedata.normalize("NFKC", text).casefold()
    found: Counter[str] = Counter()
    for match in _runs().finditer(folded):
        if match.lastgroup == "word":
            found[match.group()] += 1
            continue
        characters = _characters().findall(match.group())
        found.update("".join(pair) for pair in itertools.pairwise(characters))
        if len(characters) == 1:
            found[characters[0]] += 1
    return found


def overlap(one: Counter[str], other: Counter[str]) -> float:
    """F1 of two multisets of units, in [0, 1]; 1 for two without any."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 1.0


def word_overlap(one: str, other: str) -> float:
    """F1 of the units of two texts; 1 for equal texts."""
    return 1.0 if one == other else overlap(units(one), units(other))


@functools.cache
def _runs() -> re.Pattern[str]:
    marks = _marks()
    letter = rf"(?:(?![{_UNSPACED}])[\w{marks}])"
    return re.compile(rf"(?P<word>{letter}+)|(?P<unspaced>(?:(?=[{_UNSPACED}])[\w{marks}])+)")


@functools.cache
def _characters() -> re.Pattern[str]:
    """A character with the marks on it."""
    return re.compile(rf".[{_marks()}]*")


@functools.cache
def _marks() -> str:
    r"""All combining marks as the inside of a character class: `\w` has none of them."""
    return "".join(
        chr(place)
        for place in range(sys.maxunicode + 1)
        if unicodedata.category(chr(place)).startswith("M")
    )
