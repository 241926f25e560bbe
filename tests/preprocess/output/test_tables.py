"""The tables of columns say what is written."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from axolotl_ual.preprocess.data.prompt import Prompt
from axolotl_ual.preprocess.data.responses import Response, ResponseSet
from axolotl_ual.preprocess.dimensions.scores import Scores
from axolotl_ual.preprocess.labels.pairs import Selection
from axolotl_ual.preprocess.output import tables
from axolotl_ual.preprocess.output.pairing import Paired, Pairing
from axolotl_ual.preprocess.output.tables import Annotations, Column, Filled

KINDS = {
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "string": pa.string(),
}


def annotations(**columns: list[float]) -> Annotations:
    return Annotations(
        np.array([0.5, np.nan], dtype=np.float32),
        np.array([0.1, 0.2], dtype=np.float32),
        np.array([0, 2], dtype=np.int8),
        {name: np.array(values, dtype=np.float32) for name, values in columns.items()},
    )


def pairing() -> Pairing:
    chat = '{"messages": [], "tools": []}'
    data = ResponseSet(
        [Prompt((("user", "q"),), chat)],
        [[Response("a", "stop", 1, -1.0, -1.0, 1), Response("b", chat="{}")]],
    )
    half = np.full(2, 0.5)
    scores = Scores(
        dimensions={"semantic": half, "factual": half, "value": half, "toy": half},
        columns={
            "cluster": np.array([0, np.nan]),
            "semantic_entropy": np.zeros(2),
            "semantic_entropy_weighted": np.zeros(2),
            "value_spread_principles": half,
            "value_spread_repeats": half,
            "toy_spread": half,
        },
    )
    none = np.zeros(0, dtype=np.int64)
    selection = Selection(np.array([0]), np.array([1]), np.array([0.5]), none, {})
    paired = Paired(
        selection, half, np.array([0.1], dtype=np.float32), np.array([1], dtype=np.int8)
    )
    return Pairing(data, scores, paired)


@pytest.mark.parametrize(
    "filled",
    [
        tables.annotated(annotations(ual_spread=[0, 1], ual_mass=[1, 1], ual_toy=[0, 0])),
        tables.fill(tables.PAIRS, pairing()),
        tables.scored(pairing()),
    ],
)
def test_every_column_is_of_the_dtype_that_it_says(filled: Filled) -> None:
    for column, values in filled:
        assert column.meaning
        if column.dtype in KINDS:
            assert values.type == KINDS[column.dtype], column.name
        else:
            assert str(values.type).startswith(column.dtype), column.name


def test_columns_that_no_table_knows_are_written_too() -> None:
    names = [column.name for column, _ in tables.annotated(annotations(ual_toy=[0, 1]))]
    assert names == ["ual_uncertainty", "ual_smoothing", "ual_stage", "ual_toy"]
    names = [column.name for column, _ in tables.scored(pairing())]
    assert names[-4:] == ["ual_toy", "toy_spread", "ual_uncertainty", "used_as"]
    assert len(names) == len(set(names))


def test_a_column_more_is_one_line() -> None:
    length: Column[Pairing] = Column(
        "length", "int64", "characters", lambda made: made.said(pa.int64(), lambda r: len(r.text))
    )
    [(described, values)] = tables.fill([length], pairing())
    assert (described.name, values.to_pylist()) == ("length", [1, 1])
