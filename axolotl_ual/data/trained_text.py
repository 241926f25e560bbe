"""The trained text of a row: its tokens, and the ways to read which characters they write.

Templates write tokens of their own among the trained ones, and texts spell such tokens: `<think>`
is either. So a row is read in several ways, of which the one counts that gives the characters that
were scored: special tokens are none; nor are any that were added to the vocabulary; or all are text
but those that begin or end a text.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, groupby
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import IGNORE_INDEX
from axolotl_ual.data.token_text import TokenText
from axolotl_ual.errors import UnsupportedError


class Piece(NamedTuple):
    """A sequence of tokens that was made of a row, and which of them are its answer."""

    ids: list[int]
    answer: list[bool]


class Reading(NamedTuple):
    """One way to read tokens: their text, and tokens that have none."""

    text: TokenText
    silent: frozenset[int]

    def first_characters(self, piece: Piece) -> tuple[npt.NDArray[np.int64], int]:
        """The first character of each token of an answer, and how many there are in all.

        Raises:
            UnsupportedError: the text of the tokens together is not that of them one by one.
        """
        first_T = np.zeros(len(piece.ids), dtype=np.int64)
        start = characters = 0
        kinds = [
            trained and (2 if token in self.silent else 1)
            for token, trained in zip(piece.ids, piece.answer, strict=True)
        ]
        for kind, run in groupby(kinds):
            part = slice(start, start + len(list(run)))
            start = part.stop
            if kind == 1:
                own_T, count = self.text.first_characters(piece.ids[part])
                first_T[part] = own_T + characters
                characters += count
            elif kind == 2:
                first_T[part] = characters - 1
        return first_T, characters


class TrainedText:
    """What a strategy of Axolotl's, of dialogues or of texts, trains of a row.

    Args:
        strategy: that has a tokenizer.
    """

    def __init__(self, strategy: Any) -> None:
        self.strategy = strategy
        self.tokenizer = strategy.tokenizer
        self.readings = list(self._make_readings())
        self._answers: Any = None
        if getattr(strategy, "train_on_inputs", False):
            self._answers = copy.copy(strategy)
            self._answers.train_on_inputs = False

    def pieces(self, source: Mapping[str, Any], tokenized: Mapping[str, Any]) -> list[Piece]:
        """The sequences that were made of a row.

        Args:
            source: the row as its strategy takes it.
            tokenized: what the strategy made of it: one sequence, or a list of them.
        """
        given = self._sequences(tokenized)
        found = [Piece(ids, [label != IGNORE_INDEX for label in labels]) for ids, labels in given]
        if self._answers is None:
            return found
        masked = self._sequences(self._answers.tokenize_prompt(source))
        answers = [[label != IGNORE_INDEX for label in labels] for _, labels in masked]
        if [ids for ids, _ in masked] != [ids for ids, _ in given] or not any(map(any, answers)):
            # A row that has no answer is one as a whole.
            return found
        return [Piece(ids, flags) for (ids, _), flags in zip(given, answers, strict=True)]

    def _sequences(self, tokenized: Mapping[str, Any]) -> list[tuple[list[int], list[int]]]:
        """Tokens and labels of each sequence."""
        ids = tokenized.get("input_ids", [])
        labels = tokenized.get("labels", ids)
        if not self.strategy.supports_batched:
            return [(list(ids), list(labels))]
        return [(list(one), list(other)) for one, other in zip(ids, labels, strict=True)]

    def characters(self, source: Mapping[str, Any], tokenized: Mapping[str, Any]) -> list[int]:
        """How many characters the trained text of a row has, by each way to read it.

        Args:
            source: the row as its strategy takes it.
            tokenized: what the strategy made of it: one sequence, or a list of them.

        Returns:
            Of each reading the characters that are no white space, -1 where tokens cannot be read
            one by one. Sentences with another number of characters are not found in the row.
        """
        pieces = self.pieces(source, tokenized)
        if not pieces:
            return []
        whole, found = joined(pieces), []
        for reading in self.readings:
            try:
                found.append(reading.first_characters(whole)[1])
            except UnsupportedError:
                found.append(-1)
        return found

    def _make_readings(self) -> Iterator[Reading]:
        ends = [
            self.tokenizer.encode(token, add_special_tokens=False)
            for token in getattr(self.strategy, "eot_tokens", None) or ()
        ]
        turns = frozenset(ids[0] for ids in ends if len(ids) == 1)
        silent, spelled = TokenText(self.decode), TokenText(partial(self.decode, spelled=True))
        added: dict[str, int] = getattr(self.tokenizer, "get_added_vocab", dict)()
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        named = [getattr(self.tokenizer, name, None) for name in names]
        around = frozenset(token for token in named if token is not None)
        yield Reading(silent, turns)
        yield Reading(silent, turns | frozenset(added.values()))
        yield Reading(spelled, turns | around)

    def decode(self, ids: Sequence[int], spelled: bool = False) -> str:
        """As samples are decoded that are scored, or with special tokens spelled out."""
        return str(
            self.tokenizer.decode(
                ids, skip_special_tokens=not spelled, clean_up_tokenization_spaces=False
            )
        )


def joined(pieces: Sequence[Piece]) -> Piece:
    """All sequences of a row as one: each goes on where the one before it ends.

    Be it within a character.
    """
    ids, answer = (list(chain.from_iterable(parts)) for parts in zip(*pieces, strict=True))
    return Piece(ids, answer)
