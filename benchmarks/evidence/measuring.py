"""What a tuned model makes of held-out rows, of neutral text, and of open prompts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from mixed import Encoded
from tuning import Tuned, collate

from axolotl_ual.columns import IGNORE_INDEX
from axolotl_ual.evaluation.clustering import silhouettes
from axolotl_ual.evaluation.predictions import MEASURES, Predictions, sum_by_row
from axolotl_ual.preprocess.models.local.causal import LocalModel
from axolotl_ual.preprocess.models.local.generate import Draw, Generator

Floats = np.ndarray[Any, Any]
ECE = next(measure for measure in MEASURES if measure.name == "ece_mass_15")
KEPT = ("nll", "entropy", "correct", "brier")
BATCH = 16


@torch.inference_mode()
def _batches(
    model: Any, rows: Sequence[Encoded], pad: int
) -> Iterator[tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Row numbers, labels, logits (N, V) and last hidden states (N, H) of answers' tokens."""
    model.eval()
    for start in range(0, len(rows), BATCH):
        batch = collate(rows[start : start + BATCH], pad)
        labels = batch.pop("labels")[:, 1:]
        row, place = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            inner = getattr(model, "get_base_model", lambda: model)()
            hidden = inner.model(**batch).last_hidden_state[row, place]
            logits = inner.lm_head(hidden).float()
        yield row + start, labels[row, place], logits, hidden.float()


def predictions(tuned: Tuned, rows: Sequence[Encoded]) -> tuple[Predictions, Floats, Floats]:
    """Predictions at the answers' tokens, the last hidden states there, and the tokens."""
    parts: list[list[torch.Tensor]] = []
    states, tokens = [], []
    for row, label, logits, hidden in _batches(tuned.current, rows, tuned.tokenizer.pad_token_id):
        log_p = logits.log_softmax(dim=1)
        p = log_p.exp()
        nll = -log_p.gather(1, label[:, None])[:, 0]
        largest = p.max(dim=1)
        brier = p.square().sum(dim=1) - 2 * (-nll).exp() + 1
        entropy = -(p * log_p).sum(dim=1)
        correct = (largest.indices == label).float()
        parts.append([row, nll, entropy, largest.values, correct, brier])
        states.append(hidden.numpy())
        tokens.append(label.numpy())
    row, *others = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    found = Predictions(row, len(rows), *others)
    return found, np.concatenate(states), np.concatenate(tokens)


def summed(found: Predictions, groups: dict[str, Floats]) -> dict[str, Any]:
    """Sums by row, and the calibration error by group of rows."""
    sums = sum_by_row(found)
    errors = {
        name: float(ECE.value({key: value[members].sum(axis=0) for key, value in sums.items()}))
        for name, members in groups.items()
    }
    rows = {name: sums[name].tolist() for name in KEPT}
    return {"rows": rows, "ece": errors}


def clustering(states: Floats, tokens: Floats, fixed: dict[str, Any]) -> float:
    """Silhouette coefficient of last hidden states by the token that follows them."""
    frequent = [token for token, _ in Counter(tokens.tolist()).most_common(fixed["tokens"])]
    places = np.flatnonzero(np.isin(tokens, frequent))
    rng = np.random.default_rng(fixed["seed"])
    chosen = np.sort(rng.permutation(places)[: fixed["states"]])
    return float(silhouettes(states[chosen], [str(token) for token in tokens[chosen]]).mean())


@torch.inference_mode()
def divergence(tuned: Tuned, rows: Sequence[Encoded]) -> dict[str, list[float]]:
    """KL(base || tuned) by row, in nats, and the tokens that it is a sum over."""
    sums, count = np.zeros(len(rows)), np.zeros(len(rows))
    pad = tuned.tokenizer.pad_token_id
    own = _batches(tuned.model, rows, pad)
    for row, _, logits, _ in own:
        start = int(row[0])
        with tuned.model.disable_adapter():
            ((_, _, before, _),) = _batches(tuned.model, rows[start : start + BATCH], pad)
        log_p, log_q = before.log_softmax(dim=1), logits.log_softmax(dim=1)
        each = (log_p.exp() * (log_p - log_q)).sum(dim=1).numpy()
        np.add.at(sums, row.numpy(), each)
        np.add.at(count, row.numpy(), 1.0)
    return {"kl": sums.tolist(), "tokens": count.tolist()}


def diversity(tuned: Tuned, rows: Sequence[Encoded], fixed: dict[str, Any]) -> dict[str, float]:
    """Shares of distinct words and pairs of words in answers sampled at temperature 1."""
    generator = Generator.of(LocalModel(tuned.current, tuned.tokenizer))
    prompts = [row.ids[: row.start] for row in rows]
    draw = Draw(1.0, fixed["top_p"], fixed["tokens"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said = generator.generate(prompts, list(range(len(prompts))), draw)
    found = {"stopped": float(np.mean([item.stopped for item in said]))}
    for length in (1, 2):
        grams = [
            tuple(words[place : place + length])
            for words in (item.text.lower().split() for item in said)
            for place in range(len(words) - length + 1)
        ]
        found[f"distinct_{length}"] = len(set(grams)) / max(len(grams), 1)
    return found
