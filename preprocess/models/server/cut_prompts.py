"""Whether a server can have read the whole prompt, by the number of tokens that it counted.

Some servers cut what does not fit their context and say nothing (Ollama issues 17427 and 17889).
What they count is what is left, and that tells on them in four ways.

**The context.** Where it is known (`context.py`), a count of the context, or of what it leaves
beside `max_tokens`, is of what was cut, give or take 2. So is its half, give or take 4, where the
text is longer than 1.4 of that at the median rate of this server's whole prompts.

**The text.** No tokenizer puts much more than five bytes of prose into a token. Runs of one
character count once, since tokenizers join them; a character beyond ASCII counts as two.

    cut:  weight of the longest message / tokens > 7
          weight of all messages / tokens > 5, and tokens a multiple of 512, give or take 2

The first rule looks at one message, since some servers leave what is in their cache out of the
count; a count of a few tokens is no context.

**The rate.** A text of ASCII falls into pieces: words in parts of eight letters, numbers in parts
of three digits, runs of punctuation, breaks of lines. Tokens a piece differ little between prose,
code and markup, and have a floor (0.94 with a vocabulary of 131k, 1.02 with one of 32k); they are
more in any other language, where letters beyond ASCII are no pieces. With q the 5th percentile of
this server's own whole prompts, or 1.05 where that is less,

    cut:  tokens < 0.9 q pieces, and q pieces is more tokens than the longest whole prompt has,
          and the text is longer by 5 % at the median rate of characters

where the last rule keeps servers from being suspected that count a quarter of the characters.

**The ceiling.** What is cut ends where the context does, at the largest count of all. A count that
is the largest, give or take 2, is of what was cut where it is a round number and the text is longer
by 5 % at the median rate, or where another text had it that is shorter by a tenth. A count that a
cut prompt had is of another where the text is longer at that rate, and always where two had it.
What is a little beyond a context of which nothing is known passes until the second such prompt. A
text that has hardly more characters than the count has tokens is none of this: such a server counts
otherwise.

How many tokens an image has is not known: of prompts with images the first two rules alone are
asked, and no rate is learned.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from .content import images_in, said
from .rates import Rates

_RUN: Final = re.compile(r"(.)\1{3,}|\s+", re.DOTALL)
_PIECE: Final = re.compile(r"[A-Za-z]{1,8}|[0-9]{1,3}|[^\sA-Za-z0-9\x80-\U0010ffff]+\n*|\n+")
SMALLEST_CONTEXT: Final = 256
"""Tokens; what has fewer is no prompt that was cut."""
_MOST: Final = 7.0
_MOST_AT_A_ROUND_NUMBER: Final = 5.0
_ROUND: Final = 512
_ABOUT: Final = 2
_ABOUT_HALF: Final = 4
_KEPT: Final = 256
"""Rates that are remembered."""
_ENOUGH: Final = 8
"""Rates from which one is learned."""
_LEARNED_FIRST: Final = 64
"""Prompts whose rate is taken whatever their length; later only those of the longest are."""
_LONG: Final = 0.7
"""Part of the longest whole prompt below which none can be cut."""
_HIGHEST_LOW: Final = 1.05
_CLEARLY_LESS: Final = 0.9
_LONGER: Final = 1.05
_MUCH_LONGER: Final = 1.4
_LEAST_SIZE: Final = 1.4
"""Size of a token: Greek with a vocabulary of 32k has 1.6; tables of numbers alone have less."""
_MORE: Final = 1.1


class Length(NamedTuple):
    """How long a text is, in two ways.

    Attributes:
        size: characters, those beyond ASCII twice where there are any.
        pieces: parts of words and numbers, signs and lines, of ASCII.
    """

    size: int
    pieces: int


class CutPrompts:
    """Looks at every prompt that one server counted.

    Attributes:
        context: tokens that the server says it takes, prompt and answer together; None where it
            does not say.
    """

    def __init__(self) -> None:
        self.context: int | None = None
        self._by_size, self._by_pieces = Rates(_KEPT), Rates(_KEPT)
        self._largest, self._of_largest = 0, Length(0, 0)
        self._largest_size = self._seen = 0
        self._ceilings: deque[int] = deque(maxlen=_ENOUGH)

    def is_cut(
        self, messages: Sequence[Mapping[str, Any]], prompt_tokens: int, max_tokens: int
    ) -> bool:
        """Whether so many tokens cannot hold these messages.

        Args:
            messages: of a request.
            prompt_tokens: as the server counted them; 0 where it did not.
            max_tokens: of the request.
        """
        if prompt_tokens < SMALLEST_CONTEXT:
            return False
        texts = [said(message) for message in messages]
        size = sum(len(text) if text.isascii() else 2 * len(text) for text in texts)
        if self._is_at_the_context(prompt_tokens, max_tokens) or _weighs_too_much(
            texts, size, prompt_tokens
        ):
            self._ceilings.append(prompt_tokens)
            return True
        if next(images_in(messages), None) is not None:
            return False
        self._seen += 1
        if self._seen > _LEARNED_FIRST and size < _LONG * self._largest_size:
            return False
        length = Length(size, sum(_pieces(text) for text in texts))
        if self._is_too_long(length, prompt_tokens):
            self._ceilings.append(prompt_tokens)
            return True
        self._by_size.add(prompt_tokens / max(size, 1))
        self._by_pieces.add(prompt_tokens / max(length.pieces, 1))
        if prompt_tokens > self._largest:
            self._largest, self._of_largest = prompt_tokens, length
        self._largest_size = max(self._largest_size, size)
        return False

    def _is_at_the_context(self, tokens: int, max_tokens: int) -> bool:
        if self.context is None:
            return False
        whole = (self.context, self.context - max_tokens)
        return any(abs(tokens - most) <= _ABOUT for most in whole)

    def _is_too_long(self, text: Length, tokens: int) -> bool:
        """Whether a text is longer than its count, by this server's rates."""
        likely = self._likely(text)
        half = None if self.context is None else self.context // 2
        if half is not None and abs(tokens - half) <= _ABOUT_HALF:
            return likely > _MUCH_LONGER * tokens
        if len(self._by_size) < _ENOUGH or text.size < _LEAST_SIZE * tokens:
            return False
        least = min(self._by_pieces.percentile(5), _HIGHEST_LOW) * text.pieces
        by_size = self._by_size.median * text.size
        if least > max(tokens / _CLEARLY_LESS, self._largest) and by_size > _LONGER * tokens:
            return True
        if any(abs(tokens - ceiling) <= _ABOUT for ceiling in self._ceilings):
            return likely > tokens or self._ceilings.count(tokens) > 1
        if tokens < self._largest - _ABOUT:
            return False
        if _is_round(tokens) and likely > _LONGER * tokens:
            return True
        is_again = tokens <= self._largest + _ABOUT
        return is_again and text.size > _MORE * self._of_largest.size

    def _likely(self, text: Length) -> float:
        """Tokens of a text at the median rates, by the one that says more."""
        if len(self._by_size) == 0:
            return text.pieces
        return max(self._by_size.median * text.size, self._by_pieces.median * text.pieces)


def _weighs_too_much(texts: Sequence[str], size: int, tokens: int) -> bool:
    if size <= _MOST_AT_A_ROUND_NUMBER * tokens:
        return False
    weights = [_weight(text) for text in texts]
    return max(weights) > _MOST * tokens or (
        _is_round(tokens) and sum(weights) > _MOST_AT_A_ROUND_NUMBER * tokens
    )


def _is_round(tokens: int) -> bool:
    return (tokens + _ABOUT) % _ROUND <= 2 * _ABOUT and tokens > _ROUND - 3


def _weight(text: str) -> int:
    """About the bytes of a text that a tokenizer has to tell apart."""
    text = _RUN.sub(" ", text)
    others = 0 if text.isascii() else sum(not character.isascii() for character in text)
    return len(text) + others


@lru_cache(maxsize=8)
def _pieces(text: str) -> int:
    """About the tokens of a text in ASCII; the instructions of a run are counted once."""
    return len(_PIECE.findall(_RUN.sub(_once, text)))


def _once(run: re.Match[str]) -> str:
    return "\n" if "\n" in run[0] else " " if run[0].isspace() else run[0][0]
