"""Which characters tokens begin with, white space aside.

A token is asked for its text alone, once for each of the vocabulary. One that holds a part of a
character says nothing alone: it is read together with those that follow, up to the next one that
ends where a character does. A part of a character that another token began counts as that
character.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import UnsupportedError

_PART: Final = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer writes for bytes that are no character."""

Decode = Callable[[Sequence[int]], str]


def num_letters(text: str) -> int:
    """Characters of a text that are no white space."""
    return sum(map(len, text.split()))


class TokenText:
    """Counts the characters that tokens write, without white space.

    Args:
        decode: token ids to text.
    """

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        self._alone: dict[int, int] = {}

    def first_characters(self, ids: Sequence[int]) -> tuple[npt.NDArray[np.int64], int]:
        """Where each of some tokens in a row begins.

        Args:
            ids: T tokens that are read together.

        Returns:
            For each token the number of its first character, counted from 0 over all of them; of
            one that has none, that of the last character before it, -1 where there is none. And how
            many characters there are in all.

        Raises:
            UnsupportedError: the text of the tokens together is not that of them one by one.
        """
        first_T = np.empty(len(ids), dtype=np.int64)
        place = total = 0
        while place < len(ids):
            count = self._letters_of(ids[place])
            if count >= 0:
                first_T[place] = total if count else total - 1
                place, total = place + 1, total + count
                continue
            end = self._end_of_character(ids, place)
            group = ids[place:end]
            first_T[place:end] = [total + first for first in self._within(group)]
            place, total = end, total + num_letters(self._decode(group))
        together = num_letters(self._decode(ids))
        if together != total:
            raise UnsupportedError(
                f"the tokenizer writes {together} characters for {len(ids)} tokens together and "
                f"{total} one by one, so it is not known which sentence a token is in",
                "take the column `ual_sentences` out of the data: each row is smoothed as a whole "
                "then",
            )
        return first_T, total

    def _letters_of(self, token: int) -> int:
        """Characters of a token; -1 where it holds a part of one."""
        found = self._alone.get(token)
        if found is None:
            text = self._decode([token])
            found = -1 if _PART in text else num_letters(text)
            self._alone[token] = found
        return found

    def _end_of_character(self, ids: Sequence[int], start: int) -> int:
        """Behind the first token that ends with a whole character, or behind the last one."""
        end = start + 1
        while end < len(ids) and self._decode(ids[start:end]).endswith(_PART):
            end += 1
        return end

    def _within(self, ids: Sequence[int]) -> Iterator[int]:
        """As `first_characters`, of tokens that share characters."""
        text = self._decode(ids)
        begin = 0
        for end in range(1, len(ids) + 1):
            written = self._decode(ids[:end])
            whole = _num_shared(written, text)
            # A character that was begun is the token's own as well.
            behind = whole + (len(written) > whole)
            before = num_letters(text[:begin])
            yield before if num_letters(text[begin:behind]) else before - 1
            begin = whole


def _num_shared(one: str, other: str) -> int:
    """Characters that two texts begin with alike."""
    number = 0
    for left, right in zip(one, other, strict=False):
        if left != right:
            break
        number += 1
    return number
