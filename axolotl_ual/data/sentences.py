"""The smoothing of each token of a row whose sentences have one each.

`ual_sentences` says where the sentences of a row's trained text end, by counting its characters
without white space. So many characters are counted along the trained tokens, whatever a template
trims or pads: a token has the smoothing of the sentence that its first character is in, and one
without a character (the end of a turn, a line break) that of the sentence before it. Tokens that
are trained beside the answer (`train_on_inputs: true`) have the row's smoothing, as tokens that are
not trained.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
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
        self._text = TokenText(self._decode)
        ends = [
            tokenizer.encode(token, add_special_tokens=False)
            for token in getattr(strategy, "eot_tokens", None) or ()
        ]
        self._ends_of_turns = {ids[0] for ids in ends if len(ids) == 1}
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
        if sentences is None:
            return [np.empty(0, dtype=np.float32) for _ in pieces]
        # Pieces go on where those before them end, be it within a character.
        whole = _Piece(
            *([x for part in parts for x in part] for parts in zip(*pieces, strict=True))
        )
        ends = np.asarray([sentence["end"] for sentence in sentences])
        values = np.asarray([sentence["smoothing"] for sentence in sentences], dtype=np.float32)
        smoothing_T = np.full(len(whole.ids), row[SMOOTHING], dtype=np.float32)
        characters = 0
        for part, first_T, count in self._runs(whole):
            sentence_T = np.searchsorted(ends, first_T.clip(min=0), side="right")
            smoothing_T[part] = values[sentence_T.clip(max=len(values) - 1)]
            characters = count
        self._require(row, whole, characters, int(ends[-1]))
        return np.split(smoothing_T, np.cumsum(sizes)[:-1])

    def _decode(self, ids: Sequence[int]) -> str:
        """As samples are decoded that are scored."""
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

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

    def _runs(self, piece: _Piece) -> Iterator[tuple[slice, npt.NDArray[np.int64], int]]:
        """Runs of trained tokens, each token's first character, and the characters so far."""
        start = characters = 0
        kinds = [
            trained and (2 if token in self._ends_of_turns else 1)
            for token, trained in zip(piece.ids, piece.answer, strict=True)
        ]
        for kind, run in groupby(kinds):
            part = slice(start, start + len(list(run)))
            start = part.stop
            if kind == 1:
                first_T, count = self._text.first_characters(piece.ids[part])
                first_T, characters = first_T + characters, characters + count
                yield part, first_T, characters
            elif kind == 2:
                yield part, np.full(part.stop - part.start, characters - 1), characters

    def _require(self, row: Mapping[str, Any], piece: _Piece, found: int, scored: int) -> None:
        """Stop where tokens do not write the characters that were scored, or their beginning."""
        # A part of white space that is left by a cut passes for a character.
        if found == scored or (found <= scored + 1 and self._is_cut(piece)):
            return
        tokens = [
            token
            for token, trained in zip(piece.ids, piece.answer, strict=True)
            if trained and token not in self._ends_of_turns
        ]
        text = self._decode(tokens)
        shown = text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"
        raise DataError(
            f"{self.where}, row {row[NUMBER]}: its trained tokens write {found} characters "
            f"that are no white space, and the sentences of `{SENTENCES}` have {scored}: what is "
            f"trained is not what was scored. Trained: {shown!r}",
            "annotate the data again with this recipe. Where the template writes the text in its "
            "own way, the text spells a special token, or the tokenizer changes characters (some "
            f"bring text to the Unicode form NFC), mend the row, or set its `{SENTENCES}` to null, "
            "which smooths it as a whole",
        )

    def _is_cut(self, piece: _Piece) -> bool:
        """Whether the strategy cut the row: most do, at `sequence_len`, and chat templates not."""
        longest = getattr(self.strategy, "max_length", None)
        if longest is None or hasattr(self.strategy, "roles_to_train"):
            return False
        # The first token may have been taken off behind the cut.
        return len(piece.ids) >= int(longest) - 1
