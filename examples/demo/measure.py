"""What held-out rows say about a model, and how well the estimated uncertainty fits the true one.

Only the tokens of the answer are looked at. A row is certain where its true entropy is 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.evaluation.likelihood import bootstrap_interval, mean_nll
from axolotl_ual.evaluation.reliability import calibration_error
from axolotl_ual.preprocess.data.rows import Sample, Turn
from axolotl_ual.preprocess.labels.ranks import average_ranks
from axolotl_ual.preprocess.models.local.causal import LocalModel, nll
from axolotl_ual.preprocess.models.local.encoding import Encoded, encode

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]

NUM_BINS: Final = 10
"""Bins of the calibration error."""


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """What a model makes of the answers of N rows, T tokens in all.

    Attributes:
        row: (T,) the row of a token.
        nll: (T,) negative log-likelihood in nats.
        confidence: (T,) probability of the most likely token.
        correct: (T,) whether that token is the one that follows.
    """

    row: Indices
    nll: Floats
    confidence: Floats
    correct: npt.NDArray[np.bool_]

    def of_rows(self, rows: Indices) -> AnswerTokens:
        """The tokens of rows; a row that is named twice counts twice."""
        starts = np.searchsorted(self.row, rows, side="left")
        counts = np.searchsorted(self.row, rows, side="right") - starts
        before = np.cumsum(counts) - counts
        index = np.repeat(starts - before, counts) + np.arange(counts.sum())
        return AnswerTokens(
            self.row[index], self.nll[index], self.confidence[index], self.correct[index]
        )


def token_nll(tokens: AnswerTokens) -> float:
    """Mean negative log-likelihood in nats per token."""
    return mean_nll([tokens.nll])


def token_ece(tokens: AnswerTokens) -> float:
    """Expected calibration error of the next token, over bins of equal mass."""
    return calibration_error(tokens.confidence, tokens.correct, NUM_BINS, "mass")


ECE: Final = f"ece_mass_{NUM_BINS}"
_MEASURES: Final = {"nll": token_nll, ECE: token_ece}


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file."""
    with path.open(encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def read_answers(base: Path, adapter: Path | None, rows: Sequence[dict[str, Any]]) -> AnswerTokens:
    """Let a model read rows of a chat dataset.

    Args:
        base: folder of the base model.
        adapter: folder of a LoRA adapter on it, or None for the base model itself.
        rows: with `messages`.
    """
    local = LocalModel.load(str(base), key="base_model", device="cpu")
    if adapter is not None:
        from peft import PeftModel

        local = LocalModel(PeftModel.from_pretrained(local.model, adapter).eval(), local.tokenizer)
    encoded = encode([_sample(row) for row in rows], local.tokenizer, local.max_positions or 512)
    sequences = [item for item in encoded if isinstance(item, Encoded)]
    assert len(sequences) == len(rows), "every row of the demo has an answer"
    found = dict(local.measure(sequences, _predictions, batch_tokens=8192))
    values = [found[index].astype(np.float64) for index in range(len(rows))]
    row = np.repeat(np.arange(len(rows)), [len(item) for item in values])
    likelihood, confidence, correct = np.concatenate(values).T
    return AnswerTokens(row, likelihood, confidence, correct > 0)


def compare(
    entropies: Floats, models: dict[str, AnswerTokens], first: str, second: str, seed: int
) -> dict[str, dict[str, Any]]:
    """Measure models on certain and on uncertain rows.

    Args:
        entropies: (N,) true entropies of the rows.
        models: tokens of the same N rows, by model.
        first: a model, and
        second: the one whose difference to it gets a 95 % bootstrap interval.
        seed: of the bootstrap.

    Returns:
        For "certain" and "uncertain": rows, mean true entropy, and for "nll" and "ece_mass_10"
        the value of each model, `difference` (second minus first) and its `interval`.
    """
    groups = {"certain": entropies == 0, "uncertain": entropies > 0}
    report: dict[str, dict[str, Any]] = {}
    for group, members in groups.items():
        rows = np.flatnonzero(members)
        report[group] = {"rows": len(rows), "entropy": float(entropies[rows].mean())}
        for name, measure in _MEASURES.items():
            report[group][name] = {
                **{model: measure(tokens.of_rows(rows)) for model, tokens in models.items()},
                **_difference(measure, models[first], models[second], rows, seed),
            }
    return report


def _difference(
    measure: Callable[[AnswerTokens], float],
    first: AnswerTokens,
    second: AnswerTokens,
    rows: Indices,
    seed: int,
) -> dict[str, Any]:
    def difference(drawn: Indices) -> float:
        return measure(second.of_rows(rows[drawn])) - measure(first.of_rows(rows[drawn]))

    return {
        "difference": difference(np.arange(len(rows))),
        "interval": bootstrap_interval(difference, len(rows), seed=seed),
    }


def rank_correlation(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation of two (N,) arrays: Pearson's, of their average ranks."""
    return float(np.corrcoef(average_ranks(a), average_ranks(b))[0, 1])


def _sample(row: dict[str, Any]) -> Sample:
    return Sample(
        tuple(
            Turn(message["role"], message["content"], message["role"] == "assistant")
            for message in row["messages"]
        )
    )


def _predictions(logits_NV: Any, targets_N: Any) -> Any:
    """Negative log-likelihood, confidence and correctness (N, 3) of each token: a measure."""
    import torch

    top_N, predicted_N = logits_NV.softmax(dim=1).max(dim=1)
    correct_N = (predicted_N == targets_N).to(top_N.dtype)
    return torch.stack([nll(logits_NV, targets_N), top_N, correct_N], dim=1)
