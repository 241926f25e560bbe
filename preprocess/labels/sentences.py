"""From the uncertainty of each sentence to that of its row, and to the column of both.

With n_ij the characters of sentence j of row i that are no white space,

    w_ij = n_ij / sum_j n_ij        u_i = sum_j w_ij u_ij        eps_i = sum_j w_ij eps_ij

so that a row counts as much as any other, and as much as without sentences. A sentence without a
score takes the mean over those of its row that have one; a row without any has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from axolotl_ual.labels.smoothing import SmoothingMap, solve_smoothing

NONE_SCORED = "no sentence with a score"

Numbers = npt.NDArray[np.float64]


class Cut(Protocol):
    """Where the sentences of N rows are, as of `Scored`."""

    row_S: npt.NDArray[np.int64]
    end_S: npt.NDArray[np.int32]
    rows: int

    @property
    def share_S(self) -> Numbers:
        """The part of its row that each is."""
        ...


@dataclass(frozen=True, slots=True)
class Scored:
    """The sentences of N rows, S in all.

    Attributes:
        row_S: int64 of shape (S,), ascending: the row of each.
        end_S: int32 of shape (S,): where it ends, in characters of its row.
        share_S: float64 of shape (S,): its part of the row.
        uncertainty_S: float32 of shape (S,); NaN in rows without any.
        rows: N.
    """

    row_S: npt.NDArray[np.int64]
    end_S: npt.NDArray[np.int32]
    share_S: Numbers
    uncertainty_S: npt.NDArray[np.float32]
    rows: int

    @classmethod
    def of(cls, sentences: Cut, uncertainty_S: npt.NDArray[np.float32]) -> Scored:
        """Sentences that were scored; those that could not be take the mean of their row."""
        row_S, share_S = sentences.row_S, sentences.share_S
        mean_R = weighted(uncertainty_S, row_S, share_S, sentences.rows)
        filled = np.where(np.isnan(uncertainty_S), mean_R[row_S], uncertainty_S)
        return cls(row_S, sentences.end_S, share_S, filled.astype(np.float32), sentences.rows)

    def among(self, places: npt.NDArray[np.int64], rows: int) -> Scored:
        """The same sentences, of rows that are some of others.

        Args:
            places: of the N rows among those, ascending.
            rows: how many those are.
        """
        return Scored(places[self.row_S], self.end_S, self.share_S, self.uncertainty_S, rows)

    def means(self, values_S: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The mean over the sentences of each row, float32 of shape (N,); NaN: there is none."""
        return weighted(values_S, self.row_S, self.share_S, self.rows).astype(np.float32)

    def solve(
        self, mean: float, max: float, decreasing: bool, weight: npt.NDArray[np.int64] | None
    ) -> SmoothingMap:
        """The map by which the mean over rows of eps_i is `mean`.

        Args:
            mean: of the smoothing.
            max: of the smoothing of a sentence.
            decreasing: see `solve_smoothing`.
            weight: how often each of the N rows counts; None: once.

        Raises:
            ConfigError: the mean cannot be reached.
        """
        counted = self.share_S if weight is None else self.share_S * weight[self.row_S]
        used = counted > 0
        return solve_smoothing(
            self.uncertainty_S[used], mean, max, decreasing, weight=counted[used]
        )

    @property
    def agree(self) -> bool:
        """Whether the sentences of each row have one uncertainty, as if it were the row's."""
        is_first = np.ones(len(self.row_S), dtype=np.bool_)
        is_first[1:] = self.row_S[1:] != self.row_S[:-1]
        first_S = self.uncertainty_S[is_first][np.cumsum(is_first) - 1]
        return bool(np.array_equal(first_S, self.uncertainty_S, equal_nan=True))

    def column(
        self, smoothing_S: npt.NDArray[np.float32], whole: npt.NDArray[np.bool_]
    ) -> pa.Array:
        """`ual_sentences`: lists of structs, null where no sentence was scored.

        Args:
            smoothing_S: of each sentence.
            whole: bool of shape (N,): rows that are smoothed as a whole, and null.
        """
        known = ~np.isnan(self.uncertainty_S) & ~whole[self.row_S]
        number_R = np.bincount(self.row_S[known], minlength=self.rows)
        ends = np.concatenate([[0], np.cumsum(number_R)]).astype(np.int32)
        fields = {
            "end": pa.array(self.end_S[known], pa.int32()),
            "uncertainty": pa.array(self.uncertainty_S[known], pa.float32()),
            "smoothing": pa.array(smoothing_S[known], pa.float32()),
        }
        values = pa.StructArray.from_arrays(list(fields.values()), names=list(fields))
        return pa.ListArray.from_arrays(
            pa.array(ends), values, mask=pa.array(np.asarray(number_R == 0))
        )


def weighted(
    values_S: npt.NDArray[np.float32],
    row_S: npt.NDArray[np.int64],
    share_S: Numbers,
    rows: int,
) -> Numbers:
    """Mean over the sentences of each row that have a value; exact where these are equal.

    Args:
        values_S: of sentences; NaN: none.
        row_S: of each, ascending.
        share_S: what each counts.
        rows: N.

    Returns:
        float64 of shape (N,), NaN where no sentence has a value.
    """
    known = ~np.isnan(values_S)
    values, row, share = values_S[known].astype(np.float64), row_S[known], share_S[known]
    base_R = np.full(rows, np.nan)
    base_R[row[::-1]] = values[::-1]
    beyond_R = np.bincount(row, weights=share * (values - base_R[row]), minlength=rows)
    whole_R = np.bincount(row, weights=share, minlength=rows)
    mean_R: Numbers = base_R + beyond_R / np.where(whole_R > 0, whole_R, 1.0)
    return mean_R
