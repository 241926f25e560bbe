"""Study 4: preference pairs in stages, against other ways of using the same pairs.

    python benchmarks/evidence/staged.py resume --data DATA --work WORK

Pairs are HH-RLHF's harmless ones. A pair is the clearer, the less likely its rejected answer is to
the base model than its chosen one. Arms take equally many steps: all pairs in stages from clear to
unclear; the same shuffled; the clear third alone, three times; all, each smoothed by how unclear it
is. `pairs.json` has the base model and the gaps; `seed-S-ARM.json` a run.
"""

from __future__ import annotations

import gzip
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mixed import Encoded, Row, encode_row
from smollm import model_folder
from study import Place, Results, main
from tuning import Tuned, collate

from axolotl_ual.columns import IGNORE_INDEX
from axolotl_ual.labels.ranks import rank
from axolotl_ual.losses.preference import pair_margin, preference_loss
from axolotl_ual.preprocess.labels.pairs import smooth_pairs, stage_pairs

NAME = "staged"
ARMS = ("staged", "shuffled", "clear", "smoothed")
HUMAN, ASSISTANT = "\n\nHuman: ", "\n\nAssistant: "
BATCH = 16
Floats = np.ndarray[Any, Any]


def questions_and_answers(content: bytes) -> list[list[Row]]:
    """Pairs (chosen, rejected) of one question, in the order of the file."""
    found = []
    for line in gzip.decompress(content).decode("utf-8").splitlines():
        pair = json.loads(line)
        parts = [pair[name].split(ASSISTANT) for name in ("chosen", "rejected")]
        if any(len(part) != 2 for part in parts) or parts[0][0] != parts[1][0]:
            continue
        asked = parts[0][0].removeprefix(HUMAN).strip()
        answers = [part[1].strip() for part in parts]
        if asked and all(answers) and answers[0] != answers[1]:
            found.append([Row(asked, answer, "harmless") for answer in answers])
    return found


def read_pairs(content: bytes, fixed: Mapping[str, Any], tokenizer: Any) -> list[list[Encoded]]:
    """Those that are short enough, in the protocol's order."""
    found = questions_and_answers(content)
    encoded = [[encode_row(row, tokenizer) for row in pair] for pair in found]
    short = [p for p in encoded if max(len(item.ids) for item in p) <= fixed["most_tokens"]]
    order = np.random.default_rng(fixed["data_seed"]).permutation(len(short))
    return [short[number] for number in order]


@dataclass(frozen=True)
class Step:
    """A step of training.

    Attributes:
        number: from 1.
        of: how many there are.
        pairs: numbers of the pairs that it trained.
        margins: theirs before it, as `Study.margins` has them.
    """

    number: int
    of: int
    pairs: list[int]
    margins: list[float]


class Study:
    """The model, the pairs and their gaps, which all runs share."""

    arms: tuple[str, ...] = ARMS

    def __init__(self, results: Results, place: Place) -> None:
        torch.set_num_threads(1)
        self.fixed = results.protocol
        self.tuned = Tuned(model_folder(place), self.fixed)
        pairs, gap = self.read(place)
        count = self.fixed["train_pairs"]
        self.train = pairs[:count]
        self.held_out = pairs[count : count + self.fixed["held_out_pairs"]]
        self.before = {name: self.score(part) for name, part in self._parts.items()}
        if gap is None:
            self.gap = gaps(self.before["train"], lengths(self.train))
        else:
            self.gap = gap[: len(self.train)]

    def read(self, place: Place) -> tuple[list[list[Encoded]], Floats | None]:
        """Pairs for training and then for measuring, and their gaps where they come with some."""
        content = place.sources.read("harmless")
        return read_pairs(content, self.fixed, self.tuned.tokenizer), None

    @property
    def _parts(self) -> dict[str, list[list[Encoded]]]:
        return {"train": self.train, "held_out": self.held_out}

    def base(self) -> dict[str, Any]:
        """The gaps, and how often the base model finds the chosen answer likelier."""
        held = self.before["held_out"]
        mean = held / lengths(self.held_out)
        return {
            "gap": self.gap.tolist(),
            "pairs": len(self.held_out),
            "chosen is likelier": float((mean[:, 0] > mean[:, 1]).mean()),
        }

    @torch.no_grad()
    def score(self, pairs: Sequence[Sequence[Encoded]]) -> Floats:
        """Log-probability (P, 2) of each answer."""
        flat = [item for pair in pairs for item in pair]
        found = [self.log_p(flat[start : start + BATCH]) for start in range(0, len(flat), BATCH)]
        return torch.cat(found).reshape(-1, 2).double().numpy()

    def log_p(self, rows: Sequence[Encoded]) -> torch.Tensor:
        """Log-probability of each answer under the model as it is."""
        batch = collate(rows, self.tuned.tokenizer.pad_token_id)
        labels = batch.pop("labels")[:, 1:]
        row, place = (labels != IGNORE_INDEX).nonzero(as_tuple=True)
        model = self.tuned.current
        inner = getattr(model, "get_base_model", lambda: model)()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = inner.lm_head(inner.model(**batch).last_hidden_state[row, place])
        each = logits.float().log_softmax(dim=1).gather(1, labels[row, place][:, None])[:, 0]
        return torch.zeros(len(rows)).index_add(0, row, each)

    def order(self, arm: str, seed: int) -> list[int]:
        """Numbers of the pairs, in the order of training."""
        rng = np.random.default_rng(seed)
        stages = stage_pairs(self.gap, None)
        clear = np.flatnonzero(stages == 0)
        found: list[int] = []
        for _ in range(self.fixed["epochs"]):
            if arm == "staged":
                for stage in range(3):
                    found += rng.permutation(np.flatnonzero(stages == stage)).tolist()
            elif arm == "clear":
                again = math.ceil(len(self.gap) / len(clear))
                drawn = [one for _ in range(again) for one in rng.permutation(clear).tolist()]
                found += drawn[: len(self.gap)]
            else:
                found += rng.permutation(len(self.gap)).tolist()
        return found

    def run(self, arm: str, seed: int) -> dict[str, Any]:
        """Train an arm; measure it at its end and, for stability, on the way."""
        began = time.process_time()
        measured = []
        for step in self.steps(arm, seed):
            marks = [max(1, round(step.of * part / 3)) for part in (1, 2, 3)]
            if step.number in marks:
                measured += [self.margins().tolist()] * marks.count(step.number)
        return {
            "arm": arm,
            "seed": seed,
            "margins": measured,
            "cpu_seconds": round(time.process_time() - began, 1),
        }

    def steps(self, arm: str, seed: int) -> Iterator[Step]:
        """Train an arm, pausing after each step."""
        eps = np.zeros(len(self.gap), dtype=np.float32)
        if arm == "smoothed":
            smoothing = self.fixed["smoothing"]
            eps, _ = smooth_pairs(self.gap, smoothing["mean"], smoothing["max"])
        self.tuned.start(seed)
        order, size = self.order(arm, seed), self.fixed["batch"]
        batches = [order[start : start + size] for start in range(0, len(order), size)]
        weights = [weight for weight in self.tuned.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=self.fixed["learning_rate"], weight_decay=0.0)
        for number, batch in enumerate(batches, start=1):
            self.tuned.model.train()
            margins = self._step(batch, eps, optimizer, weights)
            self.tuned.model.eval()
            yield Step(number, len(batches), batch, margins)
        self.tuned.stop()

    def _step(
        self, batch: Sequence[int], eps: Floats, optimizer: Any, weights: Sequence[Any]
    ) -> list[float]:
        rows = [self.train[one][place] for place in (0, 1) for one in batch]
        before = torch.from_numpy(self.before["train"][list(batch)].T.reshape(-1)).float()
        ratio = self.log_p(rows) - before
        margin = pair_margin(ratio, torch.ones(len(rows)), "sigmoid")
        beta = torch.full_like(margin, self.fixed["beta"])
        loss, smoothed = preference_loss(
            margin, torch.from_numpy(eps[list(batch)]), beta, "sigmoid"
        )
        (loss + smoothed).mean().backward()
        torch.nn.utils.clip_grad_norm_(list(weights), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        found: list[float] = (beta * margin).detach().tolist()
        return found

    def margins(self) -> Floats:
        """Of held-out pairs: beta times how much tuning favours the chosen answer (log-ratio)."""
        ratio = self.score(self.held_out) - self.before["held_out"]
        found: Floats = self.fixed["beta"] * (ratio[:, 0] - ratio[:, 1])
        return found


def lengths(pairs: Sequence[Sequence[Encoded]]) -> Floats:
    """Tokens (P, 2) of the answers."""
    return np.array([[len(item.ids) - item.start for item in pair] for pair in pairs])


def gaps(log_p: Floats, tokens: Floats) -> Floats:
    """In [0, 1]: half of 1 plus the rank of the rejected answer's NLL less that of the chosen's."""
    ranks = rank((-log_p / tokens).reshape(-1)).reshape(-1, 2)
    found: Floats = ((1.0 + ranks[:, 1] - ranks[:, 0]) / 2.0).astype(np.float32)
    return found


def make(results: Results, place: Place, kind: type[Study] = Study) -> None:
    """Make every run that is missing."""
    planned = [(arm, seed) for seed in results.protocol["seeds"] for arm in kind.arms]
    missing = [(arm, seed) for arm, seed in planned if not results.has(f"seed-{seed}-{arm}")]
    if results.has("pairs") and not missing:
        print("nothing is missing")
        return
    study = kind(results, place)
    if not results.has("pairs"):
        results.write("pairs", study.base())
    for arm, seed in missing:
        results.write(f"seed-{seed}-{arm}", study.run(arm, seed))
        print(f"seed-{seed}-{arm}: written", flush=True)


if __name__ == "__main__":
    main(NAME, str(__doc__), make, None)
