"""Study 2's exact match: which numbers of GSM8K does a tuned model get right?

    python benchmarks/evidence/exact.py resume --data DATA --work WORK

The arms are those of `training.py`, trained anew. `base.json` has the model before tuning;
`seed-S-ARM.json` a run. By row: whether the number of a generated answer is right; whether that
after `####` is, with the working given; and how many of the results in `<<48/2=24>>` are, each
with all before it given.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from mixed import SOURCES, Encoded, Row
from study import Place, Results, main
from training import Study, make
from tuning import Tuned, collate

from axolotl_ual.columns import IGNORE_INDEX
from axolotl_ual.preprocess.models.local.causal import LocalModel
from axolotl_ual.preprocess.models.local.generate import Draw, Generator

NAME = "exact"
BATCH = 16
FINAL = re.compile(r"####\s*(\S+)\s*$")
COMPUTED = re.compile(r"=([^=<>]+)>>")
NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
MARK = "####"


class ExactStudy(Study):
    """The model and the rows of study 2, and more questions of GSM8K."""

    def __init__(self, results: Results, place: Place) -> None:
        super().__init__(results, place)
        number = [row.source for row in self.mixture.held_out].count(SOURCES[0])
        self.rows, self.asked = self.mixture.held_out[:number], self.held_out[:number]

    def base(self) -> dict[str, Any]:
        """The model before tuning."""
        self.tuned.current.eval()
        return self._exact()

    def run(self, arm: str, seed: int, base: Mapping[str, Any]) -> dict[str, Any]:
        """Train an arm and measure it."""
        began = time.process_time()
        self.tuned.start(seed)
        losses = self.tuned.train(self.train, self.smoothing(arm, seed), "uniform", seed)
        trained = time.process_time()
        found = {"arm": arm, "seed": seed, "train_nll": losses, **self._exact()}
        self.tuned.stop()
        found["cpu_seconds"] = {
            "train": round(trained - began, 1),
            "measure": round(time.process_time() - trained, 1),
        }
        return found

    def _exact(self) -> dict[str, Any]:
        fixed = self.fixed["generated"]
        texts = answers(self.tuned, self.asked[: fixed["rows"]], fixed["tokens"])
        right = [
            float(final_number(text) == final_number(row.answer))
            for text, row in zip(texts, self.rows, strict=False)
        ]
        places = [numbers_of(row, self.tuned.tokenizer) for row in self.rows]
        given, computed, results = forced(self.tuned, self.asked, places)
        return {
            "generated": right,
            "marked": [float(MARK in text) for text in texts],
            "given": given,
            "computed": computed,
            "results": results,
        }


def answers(tuned: Tuned, rows: Sequence[Encoded], tokens: int) -> list[str]:
    """The likeliest answer to each prompt, token by token."""
    generator = Generator.of(LocalModel(tuned.current, tuned.tokenizer))
    prompts = [row.ids[: row.start] for row in rows]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        said = generator.generate(prompts, list(range(len(prompts))), Draw(0.0, 1.0, tokens))
    return [item.text for item in said]


def final_number(text: str) -> float | None:
    """The first number after the last `####`; without one, the last of the text."""
    _, mark, after = text.rpartition(MARK)
    found = NUMBER.findall(after)
    if not found:
        return None
    return float(found[0 if mark else -1].replace(",", ""))


def numbers_of(row: Row, tokenizer: Any) -> list[list[int]]:
    """Places, counted from the answer's first token, of the tokens of its numbers.

    Returns:
        Those of the final number, then those of each computed result.
    """
    ending = f"{row.answer}{tokenizer.eos_token}"
    spans = tokenizer(ending, add_special_tokens=False, return_offsets_mapping=True)
    offsets = spans["offset_mapping"]
    final = FINAL.search(row.answer)
    assert final is not None, row.answer
    return [
        [
            place
            for place, (first, last) in enumerate(offsets)
            if first < one.end(1) and last > one.start(1)
        ]
        for one in (final, *COMPUTED.finditer(row.answer))
    ]


@torch.inference_mode()
def forced(
    tuned: Tuned, rows: Sequence[Encoded], places: Sequence[Sequence[Sequence[int]]]
) -> tuple[list[float], list[float], list[float]]:
    """By row: whether the final number is predicted, how many results are, and their number."""
    given, computed, results = [], [], []
    for start in range(0, len(rows), BATCH):
        chosen = rows[start : start + BATCH]
        right = _predicted(tuned, chosen)
        for place, row in enumerate(chosen):
            # The prediction of a token stands at the one before it.
            of_answer = right[place, row.start - 1 :]
            final, *others = (bool(of_answer[one].all()) for one in places[start + place])
            given.append(float(final))
            computed.append(float(sum(others)))
            results.append(float(len(others)))
    return given, computed, results


def _predicted(tuned: Tuned, rows: Sequence[Encoded]) -> np.ndarray[Any, Any]:
    """Whether each token after the first is the likeliest one: (B, T - 1), False in prompts."""
    batch = collate(rows, tuned.tokenizer.pad_token_id)
    labels = batch.pop("labels")[:, 1:]
    row, place = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
    model = tuned.current
    inner = getattr(model, "get_base_model", lambda: model)()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = inner.lm_head(inner.model(**batch).last_hidden_state[row, place])
    right = torch.zeros(labels.shape, dtype=torch.bool)
    right[row, place] = logits.argmax(dim=1) == labels[row, place]
    found: np.ndarray[Any, Any] = right.numpy()
    return found


if __name__ == "__main__":
    main(NAME, str(__doc__), partial(make, kind=ExactStudy), None)
