"""Samples of one sentence each: what is asked about where `unit: sentence`.

A sentence of a response is a sample of its own. Its response is the sentence; its prompt is all
that comes before it, the response so far included, as the text that is gone on with:

    u_ij = U(y_ij | x_i, y_i1 .. y_i,j-1)

for an estimator U, so that whatever scores samples scores sentences. `with_before=False` leaves the
response so far out, for estimators that compare the sentence with whole answers to the prompt.

Sentences tile the trained turns: white space between two belongs to the first. They are counted in
characters that are no white space, because templates strip and pad.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final, NamedTuple, overload

import numpy as np
import numpy.typing as npt

from .sample import Sample, Turn
from .sentences import split_sentences

_NOTHING: Final = np.zeros(0, dtype=np.int64)


class Piece(NamedTuple):
    """A sentence of a sample: `turns[turn].text[start:end]`."""

    turn: int
    start: int
    end: int


def cut(sample: Sample) -> list[Piece]:
    """The sentences of the trained turns, in order; a turn of white space has none."""
    pieces = []
    for number, turn in enumerate(sample.turns):
        if not turn.trained:
            continue
        starts, place = [], 0
        for sentence in split_sentences(turn.text):
            place = turn.text.index(sentence, place)
            starts.append(place)
            place += len(sentence)
        if starts:
            ends = [*starts[1:], len(turn.text)]
            pieces += [Piece(number, s, e) for s, e in zip([0, *starts[1:]], ends, strict=True)]
    return pieces


def characters(text: str) -> int:
    """How many are no white space."""
    return sum(map(len, text.split()))


def sample_of(sample: Sample, piece: Piece, *, with_before: bool = True) -> Sample:
    """One sentence as a sample.

    Args:
        sample: the row.
        piece: one of its sentences.
        with_before: whether the prompt has what comes before the sentence in its turn.
    """
    before = [replace(turn, trained=False) for turn in sample.turns[: piece.turn]]
    turn = sample.turns[piece.turn]
    so_far = turn.text[: piece.start] if with_before else ""
    own = Turn(turn.role, turn.text[piece.start : piece.end], True, turn.continues)
    if so_far:
        before.append(Turn(turn.role, so_far, False, turn.continues))
        own = replace(own, continues=True)
    return Sample((*before, own), sample.has_images)


class BySentence(Sequence[Sample]):
    """The sentences of R rows as S samples, each made when it is asked for.

    Args:
        samples: of the rows; read once here, and again where sentences are asked for.
        with_before: see `sample_of`.

    Attributes:
        row_S: int64 of shape (S,), the row of each.
        end_S: int32 of shape (S,): characters that are no white space, from the beginning of the
            row's trained text to the end of the sentence.
        rows: R.
    """

    def __init__(self, samples: Sequence[Sample], *, with_before: bool = True) -> None:
        self._samples = samples
        self._with_before = with_before
        self._last: tuple[int, Sample, list[Piece]] | None = None
        row, end = [_NOTHING], [_NOTHING]
        for number, sample in enumerate(samples):
            sizes = [characters(sample.turns[p.turn].text[p.start : p.end]) for p in cut(sample)]
            row.append(np.full(len(sizes), number))
            end.append(np.cumsum(np.asarray(sizes, dtype=np.int64)))
        self.rows = len(samples)
        self.row_S: npt.NDArray[np.int64] = np.concatenate(row)
        self.end_S: npt.NDArray[np.int32] = np.concatenate(end).astype(np.int32)
        counts = np.bincount(self.row_S, minlength=self.rows)
        self.first_R: npt.NDArray[np.int64] = np.cumsum(counts) - counts

    @property
    def share_S(self) -> npt.NDArray[np.float64]:
        """Float64 of shape (S,): a sentence's part of its row's characters."""
        before = np.zeros_like(self.end_S)
        before[1:] = self.end_S[:-1]
        before[self.first_R] = 0
        last = np.append(self.first_R[1:], len(self)) - 1
        whole_S = self.end_S[last][self.row_S]
        share: npt.NDArray[np.float64] = (self.end_S - before) / whole_S
        return share

    def place(self, index: int) -> tuple[int, int]:
        """The row of a sentence, and its number there."""
        row = int(self.row_S[index])
        return row, index - int(self.first_R[row])

    def __len__(self) -> int:
        return len(self.row_S)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        row, number = self.place(range(len(self))[index])
        if self._last is None or self._last[0] != row:
            sample = self._samples[row]
            self._last = row, sample, cut(sample)
        _, sample, pieces = self._last
        return sample_of(sample, pieces[number], with_before=self._with_before)
