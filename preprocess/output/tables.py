"""The columns that commands write: name, dtype, meaning, and where the values come from.

Three tables in the order of their files: what is added to annotated rows, pairs, and responses.
Writer, card and manifest read them, so that a column is described in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from axolotl_ual import columns
from axolotl_ual.columns import ManifestColumn

from ..data.prompt import CHAT, MESSAGES
from ..data.responses import PROMPT_ID, RESPONSE, RESPONSE_CHAT, RESPONSE_ID, STATUS, Response
from ..labels.stages import StageCodes
from .folder import float_column
from .pairing import Pairing, floats, texts_if_any

T = TypeVar("T")
Filled = list[tuple[ManifestColumn, pa.Array]]
"""Columns with their values."""

_STAGE: Final = "stage of the curriculum: " + ", ".join(columns.STAGES)


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A column of a file.

    Attributes:
        name: in the file.
        dtype: as cards name it.
        meaning: a sentence for cards and the manifest.
        values: from what a command knows to an Arrow array, or None where the column is left out.
    """

    name: str
    dtype: str
    meaning: str
    values: Callable[[T], pa.Array | None]


def fill(table: Iterable[Column[T]], known: T) -> Filled:
    """The columns of a table that there is something for."""
    found = ((column, column.values(known)) for column in table)
    return [
        (ManifestColumn(name=column.name, dtype=column.dtype, meaning=column.meaning), values)
        for column, values in found
        if values is not None
    ]


@dataclass(frozen=True, slots=True)
class Annotations:
    """What is known about N rows.

    Attributes:
        uncertainty: float32 of shape (N,), NaN where there is none.
        smoothing: float32 of shape (N,).
        stages: codes of shape (N,).
        columns: what the estimator knows beside it, by name, float32 of shape (N,).
        sentences: the column of sentences of N rows; None without.
    """

    uncertainty: npt.NDArray[np.float32]
    smoothing: npt.NDArray[np.float32]
    stages: StageCodes
    columns: Mapping[str, npt.NDArray[np.float32]]
    sentences: pa.Array | None = None

    @property
    def missing(self) -> npt.NDArray[np.bool_]:
        """Bool of shape (N,): rows without an uncertainty."""
        return np.isnan(self.uncertainty)


def _stages(codes: StageCodes) -> pa.Array:
    return pa.array(np.array(columns.STAGES)[codes])


def _of_estimator(name: str, meaning: str) -> Column[Annotations]:
    return Column(name, "float32", meaning, lambda rows: _estimated(rows, name))


def _estimated(rows: Annotations, name: str) -> pa.Array | None:
    return float_column(rows.columns[name]) if name in rows.columns else None


ANNOTATED: Final[tuple[Column[Annotations], ...]] = (
    Column(
        columns.UNCERTAINTY,
        "float32",
        "0: every competent answerer would give this response; 1: equally good responses differ "
        "widely; null: not known",
        lambda rows: float_column(rows.uncertainty),
    ),
    Column(
        columns.SMOOTHING,
        "float32",
        "label smoothing of the sample's trained tokens",
        lambda rows: float_column(rows.smoothing),
    ),
    Column(columns.STAGE, "string", _STAGE, lambda rows: _stages(rows.stages)),
    Column(
        columns.SENTENCES,
        "list",
        "of each sentence of the response: where it ends, in characters that are no white space, "
        "its uncertainty and its smoothing; null: the row was not scored",
        lambda rows: rows.sentences,
    ),
    _of_estimator(
        columns.DISAGREEMENT, "standard deviation over the judges of a panel; null below two"
    ),
    _of_estimator(
        columns.SPREAD, "standard deviation of a judge's repeated scores; null below two"
    ),
    _of_estimator(
        columns.MASS, "probability that the digits of `score: expected` covered; null: none"
    ),
)


def annotated(rows: Annotations) -> Filled:
    """What is added to annotated rows; columns that the table does not know come last."""
    known = {column.name for column in ANNOTATED}
    others = [_of_estimator(n, "of the estimator") for n in rows.columns if n not in known]
    return fill((*ANNOTATED, *others), rows)


PAIRS: Final[tuple[Column[Pairing], ...]] = (
    Column(
        PROMPT_ID,
        "int64",
        "number of the prompt, as in the responses",
        lambda pairing: pa.array(pairing.prompt_of[pairing.chosen]),
    ),
    Column(
        MESSAGES,
        "list",
        "the dialogue up to the response: role and content",
        Pairing.pair_messages,
    ),
    Column(
        CHAT,
        "string",
        "JSON of a dialogue with tools or reasoning, in the shape of a chat API; null: it has none",
        Pairing.pair_chats,
    ),
    Column(
        "chosen",
        "struct",
        "role and content of the most reliable response",
        lambda pairing: pairing.answers(pairing.chosen),
    ),
    Column(
        "rejected",
        "struct",
        "role and content of a less reliable one",
        lambda pairing: pairing.answers(pairing.rejected),
    ),
    Column(
        columns.UNCERTAINTY_CHOSEN,
        "float32",
        "uncertainty of the chosen response, in [0, 1]",
        lambda pairing: float_column(pairing.uncertainty[pairing.chosen]),
    ),
    Column(
        columns.UNCERTAINTY_REJECTED,
        "float32",
        "uncertainty of the rejected response",
        lambda pairing: float_column(pairing.uncertainty[pairing.rejected]),
    ),
    Column(
        columns.GAP,
        "float32",
        "uncertainty of the rejected response less that of the chosen one, to six decimals",
        lambda pairing: float_column(pairing.paired.selection.gap),
    ),
    Column(
        columns.SMOOTHING,
        "float32",
        "flip probability in the preference loss; falls with the gap",
        lambda pairing: float_column(pairing.paired.smoothing),
    ),
    Column(columns.STAGE, "string", _STAGE, lambda pairing: _stages(pairing.paired.stages)),
)


def _said(
    name: str, kind: pa.DataType, dtype: str, meaning: str, value: Callable[[Response], Any]
) -> Column[Pairing]:
    return Column(name, dtype, meaning, lambda pairing: pairing.said(kind, value))


def _dimension(name: str, column: str, meaning: str) -> Column[Pairing]:
    return Column(
        column, "float32", meaning, lambda pairing: floats(pairing.scores.dimensions, name)
    )


def _of_dimension(name: str, meaning: str) -> Column[Pairing]:
    return Column(name, "float32", meaning, lambda pairing: floats(pairing.scores.columns, name))


_SAMPLED: Final[tuple[Column[Pairing], ...]] = (
    Column(
        PROMPT_ID,
        "int64",
        "number of the prompt, from 0",
        lambda pairing: pa.array(pairing.prompt_of),
    ),
    Column(
        RESPONSE_ID,
        "int32",
        "number of the response to its prompt, from 0",
        lambda pairing: pa.array(pairing.data.numbers(), type=pa.int32()),
    ),
    Column(MESSAGES, "list", "the dialogue up to the response", Pairing.messages),
    Column(CHAT, "string", "JSON of a dialogue with tools or reasoning; null: none", Pairing.chats),
    Column(
        RESPONSE_CHAT,
        "string",
        "JSON of a response that calls tools; null: it calls none",
        lambda pairing: texts_if_any([response.chat for response in pairing.responses]),
    ),
    _said(RESPONSE, pa.string(), "string", "text without outer white space", lambda r: r.text),
    _said(STATUS, pa.string(), "string", "usable, empty, truncated or failed", lambda r: r.status),
    _said("failure", pa.string(), "string", "why there is no response", lambda r: r.failure),
    Column(
        "duplicate_of",
        "int32",
        "earlier response to the prompt with the same text",
        lambda pairing: pa.array(pairing.data.duplicate_of(), type=pa.int32()),
    ),
    _said("finish_reason", pa.string(), "string", "as the server says", lambda r: r.finish_reason),
    _said("seed", pa.int64(), "int64", "of the request, or of the draw", lambda r: r.seed),
    _said("tokens", pa.int32(), "int32", "tokens of the response", lambda r: r.tokens),
    _said(
        "logprob_sum",
        pa.float64(),
        "float64",
        "log-probability of all tokens at temperature 1",
        lambda r: r.logprob_sum,
    ),
    _said("logprob_mean", pa.float64(), "float64", "the same per token", lambda r: r.logprob_mean),
)

_SCORED: Final[tuple[Column[Pairing], ...]] = (
    Column(
        "cluster",
        "int32",
        "number of its meaning among the responses to the prompt",
        lambda pairing: pairing.scored("cluster").cast(pa.int32()),
    ),
    Column(
        "semantic_entropy",
        "float32",
        "entropy over the prompt's meanings, divided by the logarithm of their largest number",
        lambda pairing: pairing.scored("semantic_entropy"),
    ),
    Column(
        "semantic_entropy_weighted",
        "float32",
        "the same, each response weighted by its likelihood",
        lambda pairing: pairing.scored("semantic_entropy_weighted"),
    ),
    _dimension("semantic", columns.SEMANTIC, "how few responses share its meaning"),
    _dimension("factual", columns.FACTUAL, "how far it is contradicted"),
    _dimension("value", columns.VALUE, "how far it departs from the principles"),
    _of_dimension("value_spread_principles", "standard deviation of `ual_value` over principles"),
    _of_dimension("value_spread_repeats", "standard deviation of `ual_value` over repeats"),
)

_USED: Final[tuple[Column[Pairing], ...]] = (
    Column(
        columns.UNCERTAINTY,
        "float32",
        "weighted mean of the dimensions; null: one is missing",
        lambda pairing: float_column(pairing.uncertainty),
    ),
    Column("used_as", "string", "chosen or rejected, where it is in a pair", Pairing.used_as),
)

RESPONSES: Final[tuple[Column[Pairing], ...]] = (*_SAMPLED, *_SCORED, *_USED)


def scored(pairing: Pairing) -> Filled:
    """Every response with every score, those of dimensions that the table does not know as well."""
    dimensions = [
        _dimension(name, f"{columns.PREFIX}{name}", f"uncertainty of the dimension {name}")
        for name in pairing.scores.dimensions
        if name not in ("semantic", "factual", "value")
    ]
    known = {column.name for column in RESPONSES}
    others = [
        _of_dimension(name, "of its dimension")
        for name in pairing.scores.columns
        if name not in known
    ]
    return fill((*_SAMPLED, *_SCORED, *dimensions, *others, *_USED), pairing)
