"""The column `ual_sentences` of data: whether it is as it must be, and whether it can be used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import SENTENCES, SMOOTHING
from axolotl_ual.data.tables import column_names, is_streamed, shown
from axolotl_ual.errors import DataError, UnsupportedError
from axolotl_ual.settings.sentence_rules import WHOLE, of_sentences
from axolotl_ual.settings.ual import UALConfig

NUMBER: Final = "ual_number"
"""What a row's number is called while its dataset is tokenised, for messages."""
_BATCH: Final = 10_000
_CLOSE: Final = 1e-5
"""How far a row's smoothing may be from the mean of its sentences: both are float32."""

Refuse = Callable[[str], UnsupportedError | None]
"""Of the name of data that have sentences: why the recipe cannot use these, or None."""

Numbers = npt.NDArray[np.float64]


def refusal(cfg: Any, ual: UALConfig) -> Refuse:
    """Tells why a recipe cannot use sentences."""
    return partial(of_sentences, cfg, ual)


def refuse_sentences(dataset: Any, column: str, where: str, refuse: Refuse) -> None:
    """Stop where a dataset has sentences that the recipe cannot use.

    Args:
        dataset: of rows or pairs.
        column: that has a value in rows with sentences.
        where: what messages call the dataset.
        refuse: of the recipe.

    Raises:
        UnsupportedError: naming dataset and setting.
    """
    error = refuse(f"{where} has the column `{SENTENCES}`")
    if error is not None and num_by_sentence(dataset, column):
        raise error


def refuse_tokenised(dataset: Any, config: Mapping[str, Any], refuse: Refuse) -> None:
    """Stop at sentences that no tokenisation came by."""
    refuse_sentences(dataset, SENTENCES, shown(config), refuse)
    if num_by_sentence(dataset, SENTENCES):
        raise UnsupportedError(
            f"{shown(config)} has the column `{SENTENCES}`, and its rows are tokenised already: "
            "which token is of which sentence is found while Axolotl tokenises",
            f"name the data as they were before they were tokenised, or {WHOLE}",
        )


def num_by_sentence(dataset: Any, column: str) -> int:
    """Rows whose sentences have a smoothing each; of a stream 1 where it has the column at all.

    Args:
        dataset: of rows.
        column: a list for each row, which is null or empty where the row has no sentences.
    """
    if column not in column_names(dataset):
        return 0
    if is_streamed(dataset):
        return 1
    import pyarrow.compute as pc

    number = 0
    for table in dataset.select_columns([column]).with_format("arrow").iter(_BATCH):
        values = table[column].combine_chunks().drop_null()
        if hasattr(values, "value_lengths"):
            values = values.filter(pc.greater(values.value_lengths(), 0))
        number += len(values)
    return number


def numbered(dataset: Any, entry: Mapping[str, Any]) -> Any | None:
    """A dataset whose sentences are as they must be, with the numbers of its rows.

    Args:
        dataset: N rows with a smoothing.
        entry: of `datasets:`.

    Returns:
        The dataset; None where no row has sentences.

    Raises:
        DataError: naming file and row.
    """
    if SENTENCES not in dataset.column_names:
        return None
    where, start, known = shown(entry), 0, 0
    batches = dataset.select_columns([SENTENCES, SMOOTHING]).with_format("arrow")
    for table in batches.iter(_BATCH):
        known += _check(table, where, start)
        start += table.num_rows
    if not known:
        return None
    rows = np.arange(len(dataset), dtype=np.int64)
    kept = [name for name in dataset.column_names if name != NUMBER]
    return dataset.select_columns(kept).add_column(NUMBER, rows)


def _check(table: Any, where: str, start: int) -> int:
    """Stop at a row whose sentences cannot be; how many rows have any."""
    import pyarrow as pa

    column = table[SENTENCES].combine_chunks()
    if pa.types.is_null(column.type):
        return 0
    if not _is_of_sentences(column.type):
        raise DataError(
            f"{where}: `{SENTENCES}` holds {column.type}, and must hold lists of objects with the "
            "numbers `end` and `smoothing`",
            "annotate the data again, or take the column out",
        )
    given = column.is_valid().to_numpy(zero_copy_only=False)
    lengths_R = column.drop_null().value_lengths().to_numpy(zero_copy_only=False)
    rows_R = np.flatnonzero(given)
    own_R = table[SMOOTHING].combine_chunks().filter(column.is_valid())
    row_S = np.repeat(np.arange(len(rows_R)), lengths_R)
    flat = column.flatten()
    end_S, smoothing_S = (
        flat.field(name).to_pandas().to_numpy(dtype=np.float64, na_value=np.nan)
        for name in ("end", "smoothing")
    )
    problem_R = _problems(
        end_S, smoothing_S, row_S, lengths_R, own_R.to_numpy(zero_copy_only=False)
    )
    for row, problem in zip(rows_R, problem_R, strict=True):
        if problem:
            raise DataError(
                f"{where}, row {start + row}: `{SENTENCES}` {problem}",
                "annotate the data again, or take the column out: each row is smoothed as a whole "
                "then",
            )
    return len(rows_R)


def _is_of_sentences(kind: Any) -> bool:
    import pyarrow as pa

    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if not is_list or not pa.types.is_struct(kind.value_type):
        return False
    kinds = {field.name: field.type for field in kind.value_type}
    end, smoothing = kinds.get("end"), kinds.get("smoothing")
    if end is None or smoothing is None:
        return False
    is_number = pa.types.is_floating(smoothing) or pa.types.is_integer(smoothing)
    return bool(pa.types.is_integer(end) and is_number)


def _problems(
    end_S: npt.NDArray[np.float64],
    smoothing_S: npt.NDArray[np.float64],
    row_S: npt.NDArray[np.int64],
    lengths_R: npt.NDArray[np.int64],
    own_R: npt.NDArray[np.float64],
) -> list[str]:
    """What is wrong with the sentences of each row, or nothing."""
    before_S = np.concatenate([[0.0], end_S[:-1]])
    first_R = np.cumsum(lengths_R) - lengths_R
    before_S[first_R[lengths_R > 0]] = 0.0
    share_S = end_S - before_S
    wrong = {
        "has an `end` that is not above the one before": ~(share_S > 0),
        "has a `smoothing` that is no number in [0, 1]": ~((smoothing_S >= 0) & (smoothing_S <= 1)),
    }
    problems = ["is an empty list" if not length else "" for length in lengths_R]
    for problem, bad_S in wrong.items():
        for row in row_S[bad_S]:
            problems[row] = problems[row] or problem
    count = len(lengths_R)
    mean_R = np.bincount(row_S, share_S * smoothing_S, count) / np.maximum(
        np.bincount(row_S, share_S, count), 1.0
    )
    for row in np.flatnonzero(~(np.abs(mean_R - own_R) <= _CLOSE)):
        problems[row] = problems[row] or (
            f"has a smoothing of {mean_R[row]:.6g} on average, a character, and `{SMOOTHING}` of "
            f"the row is {own_R[row]:.6g}"
        )
    return problems
