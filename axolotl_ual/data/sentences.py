"""The smoothing of each token of a row whose sentences have one each.

`ual_sentences` says where the sentences of a row's trained text end, by counting its characters
without white space. So many characters are counted along the trained tokens, whatever a template
trims or pads: a token has the smoothing of the sentence that its first character is in, and one
without a character (the end of a turn, a line break) that of the sentence before it. Tokens that
are trained beside the answer (`train_on_inputs: true`) have the row's smoothing, as tokens that are
not trained.

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
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import SENTENCES, SMOOTHING
from axolotl_ual.data.sentence_column import NUMBER
from axolotl_ual.data.tables import shown
from axolotl_ual.data.token_text import TokenText
from axolotl_ual.errors import DataError, UnsupportedError
from axolotl_ual.losses.encoding import IGNORE_INDEX

_SHOWN: Final = 60

Smoothing = npt.NDArray[np.float32]


class _Piece(NamedTuple):
    """A sequence of tokens that was made of a row, and which of them are its answer."""

    ids: list[int]
    answer: list[bool]


class _Reading(NamedTuple):
    """One way to read tokens: their text, and tokens that have none."""

    text: TokenText
    silent: frozenset[int]


class SentenceSmoothing:
    """Reads the smoothing of a row's tokens as Axolotl tokenises it.

    Args:
        strategy: Axolotl's, of one entry of `datasets:`.
        entry: of `datasets:`.

    Raises:
        UnsupportedError: the strategy has no tokenizer that could tell the text of a token.
    """

    def __init__(self, strategy: Any, entry: Mapping[str, Any]) -> None:
        self.where = shown(entry)
        self.strategy = strategy
        tokenizer = getattr(strategy, "tokenizer", None)
        if tokenizer is None:
            raise UnsupportedError(
                f"{self.where}: type `{entry.get('type')}` has no tokenizer, and the smoothing of "
                f"sentences (`{SENTENCES}`) follows the text of tokens",
                "use another dataset type, or take the column out of the data",
            )
        self.tokenizer = tokenizer
        self._readings = list(self._make_readings())
        self._answers: Any = None
        if getattr(strategy, "train_on_inputs", False):
            self._answers = copy.copy(strategy)
            self._answers.train_on_inputs = False

    def of_row(
        self, row: Mapping[str, Any], source: Mapping[str, Any], tokenized: Mapping[str, Any]
    ) -> list[Smoothing]:
        """The smoothing of each token of each sequence that was made of a row.

        Args:
            row: our columns of it, with its number.
            source: the row as its strategy takes it.
            tokenized: what the strategy made of it: one sequence, or a list of them.

        Returns:
            float32 of the length of each sequence; or of none, where the row has no sentences.

        Raises:
            DataError: the trained text is not the one whose sentences were scored.
        """
        pieces = self._pieces(source, tokenized)
        sentences, sizes = row[SENTENCES], [len(piece.ids) for piece in pieces]
        if sentences is None or not pieces:
            return [np.empty(0, dtype=np.float32) for _ in pieces]
        # Pieces go on where those before them end, be it within a character.
        ids, answer = (list(chain.from_iterable(parts)) for parts in zip(*pieces, strict=True))
        whole = _Piece(ids, answer)
        ends = np.asarray([sentence["end"] for sentence in sentences])
        values = np.asarray([sentence["smoothing"] for sentence in sentences], dtype=np.float32)
        first_T = self._first_characters(row, whole, int(ends[-1]))
        sentence_T = np.searchsorted(ends, first_T.clip(min=0), side="right")
        own_T = values[sentence_T.clip(max=len(values) - 1)]
        smoothing_T = np.where(answer, own_T, np.float32(row[SMOOTHING]))
        return np.split(smoothing_T, np.cumsum(sizes)[:-1])

    def trained_characters(
        self, source: Mapping[str, Any], tokenized: Mapping[str, Any]
    ) -> list[int]:
        """How many characters the trained text of a row has, by each way to read it.

        Args:
            source: the row as its strategy takes it.
            tokenized: what the strategy made of it: one sequence, or a list of them.

        Returns:
            Of each reading the characters that are no white space, -1 where tokens cannot be read
            one by one. Sentences with another number of characters are not found in the row.
        """
        pieces = self._pieces(source, tokenized)
        ids, answer = (list(chain.from_iterable(parts)) for parts in zip(*pieces, strict=True))
        found = []
        for reading in self._readings:
            try:
                found.append(_read(reading, _Piece(ids, answer))[1])
            except UnsupportedError:
                found.append(-1)
        return found

    def _make_readings(self) -> Iterator[_Reading]:
        ends = [
            self.tokenizer.encode(token, add_special_tokens=False)
            for token in getattr(self.strategy, "eot_tokens", None) or ()
        ]
        turns = frozenset(ids[0] for ids in ends if len(ids) == 1)
        silent, spelled = TokenText(self._decode), TokenText(partial(self._decode, spelled=True))
        added: dict[str, int] = getattr(self.tokenizer, "get_added_vocab", dict)()
        names = ("bos_token_id", "eos_token_id", "pad_token_id")
        named = [getattr(self.tokenizer, name, None) for name in names]
        around = frozenset(token for token in named if token is not None)
        yield _Reading(silent, turns)
        yield _Reading(silent, turns | frozenset(added.values()))
        yield _Reading(spelled, turns | around)

    def _decode(self, ids: Sequence[int], spelled: bool = False) -> str:
        """As samples are decoded that are scored, or with special tokens spelled out."""
        return str(
            self.tokenizer.decode(
                ids, skip_special_tokens=not spelled, clean_up_tokenization_spaces=False
            )
        )

    def _first_characters(
        self, row: Mapping[str, Any], piece: _Piece, scored: int
    ) -> npt.NDArray[np.int64]:
        """The first character of each token, 0 where it is no part of the answer."""
        found = []
        for reading in self._readings:
            first_T, characters = _read(reading, piece)
            if characters == scored:
                return first_T
            found.append((first_T, characters))
        first_T, characters = found[0]
        # A part of white space that is left by a cut passes for a character.
        if characters <= scored + 1 and self._is_cut(piece):
            return first_T
        raise self._differs(row, piece, characters, scored)

    def _pieces(self, source: Mapping[str, Any], tokenized: Mapping[str, Any]) -> list[_Piece]:
        given = self._sequences(tokenized)
        found = [_Piece(ids, [label != IGNORE_INDEX for label in labels]) for ids, labels in given]
        if self._answers is None:
            return found
        masked = self._sequences(self._answers.tokenize_prompt(source))
        answers = [[label != IGNORE_INDEX for label in labels] for _, labels in masked]
        if [ids for ids, _ in masked] != [ids for ids, _ in given] or not any(map(any, answers)):
            # A row that has no answer is one as a whole.
            return found
        return [_Piece(ids, flags) for (ids, _), flags in zip(given, answers, strict=True)]

    def _sequences(self, tokenized: Mapping[str, Any]) -> list[tuple[list[int], list[int]]]:
        """Tokens and labels of each sequence."""
        ids = tokenized.get("input_ids", [])
        labels = tokenized.get("labels", ids)
        if not self.strategy.supports_batched:
            return [(list(ids), list(labels))]
        return [(list(one), list(other)) for one, other in zip(ids, labels, strict=True)]

    def _differs(self, row: Mapping[str, Any], piece: _Piece, found: int, scored: int) -> DataError:
        silent = self._readings[0].silent
        tokens = [
            token
            for token, trained in zip(piece.ids, piece.answer, strict=True)
            if trained and token not in silent
        ]
        text = self._decode(tokens)
        shown = text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"
        return DataError(
            f"{self.where}, row {row[NUMBER]}: its trained tokens write {found} characters "
            f"that are no white space, and the sentences of `{SENTENCES}` have {scored}: what is "
            f"trained is not what was scored. Trained: {shown!r}",
            "annotate the data again with this recipe. Where the template writes the text in its "
            "own way, or the tokenizer changes characters (some bring text to the Unicode form "
            f"NFC), mend the row, or set its `{SENTENCES}` to null, which smooths it as a whole",
        )

    def _is_cut(self, piece: _Piece) -> bool:
        """Whether the strategy cut the row: most do, at `sequence_len`, and chat templates not."""
        longest = getattr(self.strategy, "max_length", None)
        if longest is None or hasattr(self.strategy, "roles_to_train"):
            return False
        # The first token may have been taken off behind the cut.
        return len(piece.ids) >= int(longest) - 1


def _read(reading: _Reading, piece: _Piece) -> tuple[npt.NDArray[np.int64], int]:
    """The first character of each token of an answer, and how many there are in all."""
    first_T = np.zeros(len(piece.ids), dtype=np.int64)
    start = characters = 0
    kinds = [
        trained and (2 if token in reading.silent else 1)
        for token, trained in zip(piece.ids, piece.answer, strict=True)
    ]
    for kind, run in groupby(kinds):
        part = slice(start, start + len(list(run)))
        start = part.stop
        if kind == 1:
            own_T, count = reading.text.first_characters(piece.ids[part])
            first_T[part] = own_T + characters
            characters += count
        elif kind == 2:
            first_T[part] = characters - 1
    return first_T, characters
