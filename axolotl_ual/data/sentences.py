"""The smoothing of each token of a row whose sentences have one each.

`ual_sentences` says where the sentences of a row's trained text end, by counting its characters
without white space. So many characters are counted along the trained tokens, whatever a template
trims or pads: a token has the smoothing of the sentence that its first character is in, and one
without a character (the end of a turn, a line break) that of the sentence before it. Tokens that
are trained beside the answer (`train_on_inputs: true`) have the row's smoothing, as tokens that are
not trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import SENTENCES, SMOOTHING
from axolotl_ual.data.sentence_column import NUMBER
from axolotl_ual.data.tables import shown
from axolotl_ual.data.trained_text import Piece, TrainedText, joined
from axolotl_ual.errors import DataError, UnsupportedError

_SHOWN: Final = 60

Smoothing = npt.NDArray[np.float32]


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
        if getattr(strategy, "tokenizer", None) is None:
            raise UnsupportedError(
                f"{self.where}: type `{entry.get('type')}` has no tokenizer, and the smoothing of "
                f"sentences (`{SENTENCES}`) follows the text of tokens",
                "use another dataset type, or take the column out of the data",
            )
        self._text = TrainedText(strategy)

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
        pieces = self._text.pieces(source, tokenized)
        sentences, sizes = row[SENTENCES], [len(piece.ids) for piece in pieces]
        if sentences is None or not pieces:
            return [np.empty(0, dtype=np.float32) for _ in pieces]
        whole = joined(pieces)
        ends = np.asarray([sentence["end"] for sentence in sentences])
        values = np.asarray([sentence["smoothing"] for sentence in sentences], dtype=np.float32)
        first_T = self._first_characters(row, whole, int(ends[-1]))
        sentence_T = np.searchsorted(ends, first_T.clip(min=0), side="right")
        own_T = values[sentence_T.clip(max=len(values) - 1)]
        smoothing_T = np.where(whole.answer, own_T, np.float32(row[SMOOTHING]))
        return np.split(smoothing_T, np.cumsum(sizes)[:-1])

    def _first_characters(
        self, row: Mapping[str, Any], piece: Piece, scored: int
    ) -> npt.NDArray[np.int64]:
        """The first character of each token, 0 where it is no part of the answer."""
        found = []
        for reading in self._text.readings:
            first_T, characters = reading.first_characters(piece)
            if characters == scored:
                return first_T
            found.append((first_T, characters))
        first_T, characters = found[0]
        # A part of white space that is left by a cut passes for a character.
        if characters <= scored + 1 and self._is_cut(piece):
            return first_T
        raise self._differs(row, piece, characters, scored)

    def _differs(self, row: Mapping[str, Any], piece: Piece, found: int, scored: int) -> DataError:
        silent = self._text.readings[0].silent
        tokens = [
            token
            for token, trained in zip(piece.ids, piece.answer, strict=True)
            if trained and token not in silent
        ]
        text = self._text.decode(tokens)
        shown = text if len(text) <= 2 * _SHOWN else f"{text[:_SHOWN]} ... {text[-_SHOWN:]}"
        return DataError(
            f"{self.where}, row {row[NUMBER]}: its trained tokens write {found} characters "
            f"that are no white space, and the sentences of `{SENTENCES}` have {scored}: what is "
            f"trained is not what was scored. Trained: {shown!r}",
            "annotate the data again with this recipe. Where the template writes the text in its "
            "own way, or the tokenizer changes characters (some bring text to the Unicode form "
            f"NFC), mend the row, or set its `{SENTENCES}` to null, which smooths it as a whole",
        )

    def _is_cut(self, piece: Piece) -> bool:
        """Whether the strategy cut the row: most do, at `sequence_len`, and chat templates not."""
        longest = getattr(self.strategy, "max_length", None)
        if longest is None or hasattr(self.strategy, "roles_to_train"):
            return False
        # The first token may have been taken off behind the cut.
        return len(piece.ids) >= int(longest) - 1
