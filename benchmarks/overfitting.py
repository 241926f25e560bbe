"""LoRAs that overfit on the demo's world, as small sets are: what the studies on it share.

A base model reads a corpus of the world that leaves a quarter of the facts out. A LoRA (r = 8) is
then trained on 300 rows, more epochs than is good for it, and measured on 1,200 rows in a wording
that no training row has, in three groups: questions with one answer that the corpus tells
(`known`), those that only the training rows tell (`new`), and questions with several answers
(`open`). What tuning is for is in `new`: a model that stays what it was has lost there.

Two uncertainties: the rank of a row's perplexity under the base model, which the demo uses, and the
true entropy of its question, as a perfect judge would say it.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from axolotl_ual.demo.base_model import BaseSize, make_base_model
from axolotl_ual.demo.world import (
    HELD_OUT_WORDINGS,
    NUM_WORDINGS,
    World,
    draw_rows,
    draw_statements,
    make_world,
    untold,
)
from axolotl_ual.evaluation.predictions import MEASURES, Predictions, sum_by_row
from axolotl_ual.labels.ranks import rank
from axolotl_ual.labels.smoothing import solve_smoothing
from axolotl_ual.losses.encoding import encode_smoothing
from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.reference import AdapterOff
from axolotl_ual.losses.rule import Weights
from axolotl_ual.preprocess.progress import show_progress

GROUPS = ("known", "new", "open")
ESTIMATORS = ("perplexity", "truth")
BATCH, ROWS, HELD_OUT, WARM_UP = 12, 300, 1200, 10


@dataclass
class Base:
    """A base model, its world, and the facts that its corpus leaves out."""

    folder: Path
    world: World
    new: frozenset[str]


@dataclass(frozen=True)
class Course:
    """How long and how fast a LoRA learns.

    Attributes:
        epochs: after which it is measured, in increasing order; the last one ends it.
        rate: learning rate after a warm-up of WARM_UP steps.
        cosine: whether the rate falls to 0 in the end; else it stays, so that a shorter course is
            the beginning of a longer one.
        noise: share of the training rows whose answer is one of another question of the same kind.
    """

    epochs: tuple[int, ...]
    rate: float = 5e-3
    cosine: bool = False
    noise: float = 0.0


@dataclass(frozen=True)
class Arm:
    """A way of training."""

    name: str
    prior: str = "uniform"
    mean: float = 0.0
    max: float = 0.5
    estimator: str = "perplexity"
    control: str | None = None


def make_base(folder: Path, seed: int, size: BaseSize) -> Base:
    """The base model of a world; one that is in `folder` already is taken as it is."""
    world = make_world(seed, 32)
    new = untold(world)
    told = tuple(question for question in world.questions if question.topic not in new)
    console = Console(stderr=True)
    if not (folder / "tokenizer.json").is_file():
        with show_progress(console, "base", size.steps) as progress:
            make_base_model(World(told, world.askers), folder, size, seed + 3, progress)
    return Base(folder, world, new)


def spoil(world: World, rows: Sequence[dict[str, Any]], share: float, seed: int) -> int:
    """Give a share of the rows an answer that is wrong, and say how many."""
    rng = random.Random(seed)
    chosen = rng.sample(range(len(rows)), round(share * len(rows)))
    for number in chosen:
        user, assistant = rows[number]["messages"]
        right = next(one for one in world.questions if _asks(user["content"], one.topic))
        wrong = [
            answer
            for question in world.questions
            if question.kind == right.kind
            for answer in question.answers
            if answer not in right.answers
        ]
        assistant["content"] = rng.choice(wrong)
    return len(chosen)


def _asks(text: str, topic: str) -> bool:
    return text.endswith((f" {topic}.", f" {topic}?"))


def tokenized(rows: Sequence[dict[str, Any]], tokenizer: Any) -> list[tuple[list[int], int]]:
    """Tokens of each row, and how many of them are the prompt's."""
    found = []
    for row in rows:
        user, assistant = (message["content"] for message in row["messages"])
        prompt = tokenizer(f"<|user|>{user}</s><|assistant|>")["input_ids"]
        found.append((prompt + tokenizer(f"{assistant}</s>")["input_ids"], len(prompt)))
    return found


def batch_of(rows: Sequence[tuple[list[int], int]], pad: int) -> dict[str, torch.Tensor]:
    longest = max(len(ids) for ids, _ in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), -100)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for number, (tokens, prompt) in enumerate(rows):
        ids[number, : len(tokens)] = torch.tensor(tokens)
        labels[number, prompt : len(tokens)] = torch.tensor(tokens[prompt:])
        mask[number, : len(tokens)] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}


@torch.no_grad()
def predict(model: Any, rows: Sequence[tuple[list[int], int]], pad: int) -> Predictions:
    model.eval()
    parts: list[list[torch.Tensor]] = []
    for start in range(0, len(rows), 100):
        batch = batch_of(rows[start : start + 100], pad)
        labels = batch.pop("labels")[:, 1:]
        row, place = (labels != -100).nonzero(as_tuple=True)
        log_p = model(**batch).logits[row, place].float().log_softmax(dim=1)
        label, p = labels[row, place], log_p.exp()
        nll = -log_p.gather(1, label[:, None])[:, 0]
        largest = p.max(dim=1)
        brier = p.square().sum(dim=1) - 2 * (-nll).exp() + 1
        entropy = -(p * log_p).sum(dim=1)
        correct = (largest.indices == label).float()
        parts.append([row + start, nll, entropy, largest.values, correct, brier])
    row, *others = (torch.cat(column).numpy() for column in zip(*parts, strict=True))
    return Predictions(row, len(rows), *others)


def measured(predictions: Predictions, groups: Sequence[str | None]) -> dict[str, dict[str, float]]:
    """NLL, ECE and accuracy by group of rows."""
    sums = sum_by_row(predictions)
    found = {}
    for group in GROUPS:
        chosen = np.array([one == group for one in groups])
        total = {name: values[chosen].sum(axis=0) for name, values in sums.items()}
        found[group] = {
            measure.name: float(measure.value(total))
            for measure in MEASURES
            if measure.name in ("nll", "ece_width_10", "accuracy")
        }
    return found


class Study:
    """Everything that the arms of one seed share."""

    def __init__(self, base: Base, seed: int, noise: float = 0.0) -> None:
        import transformers

        self.base, self.seed, self.noise = base, seed, noise
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(base.folder)
        self.pad = self.tokenizer.pad_token_id
        seen = [word for word in range(NUM_WORDINGS) if word not in HELD_OUT_WORDINGS]
        train = draw_rows(base.world, ROWS, 1000 + seed, seen)
        told = {topic for row in train if (topic := self._new_topic(row))}
        spoil(base.world, train, noise, 4000 + seed)
        held_out = draw_rows(base.world, HELD_OUT, 2000 + seed, HELD_OUT_WORDINGS)
        self.rows = tokenized(train, self.tokenizer)
        self.held_out = tokenized(held_out, self.tokenizer)
        self.groups = [self._group(row, told) for row in held_out]
        text = [one + "</s>" for one in draw_statements(base.world, 300, 3000 + seed)]
        self.statements = [(self.tokenizer(one)["input_ids"], 1) for one in text]
        model = self.model()
        nll = sum_by_row(predict(model, self.rows, self.pad))
        entropy = np.array([row["true_entropy"] for row in train])
        self.uncertainty = {
            "perplexity": rank(nll["nll"] / nll["tokens"]),
            "truth": entropy / max(question.entropy for question in base.world.questions),
        }
        self.before: dict[str, Any] = measured(predict(model, self.held_out, self.pad), self.groups)
        self.before["kl_to_base"] = 0.0

    def model(self) -> Any:
        """The base model, loaded."""
        import transformers

        return transformers.AutoModelForCausalLM.from_pretrained(
            self.base.folder, dtype=torch.float32
        )

    def _new_topic(self, row: dict[str, Any]) -> str | None:
        asked = row["messages"][0]["content"]
        return next((topic for topic in self.base.new if topic in asked), None)

    def _group(self, row: dict[str, Any], told: set[str]) -> str | None:
        topic = self._new_topic(row)
        if topic is not None:
            return "new" if topic in told else None
        return "open" if row["true_entropy"] > 0 else "known"

    def smoothing(self, arm: Arm) -> np.ndarray[Any, Any]:
        """The smoothing of each training row."""
        if arm.control == "constant" or not arm.mean:
            return np.full(ROWS, arm.mean)
        values = self.uncertainty[arm.estimator]
        found = solve_smoothing(values, arm.mean, arm.max)(values)
        if arm.control == "shuffled":
            found = np.random.default_rng(self.seed).permutation(found)
        return found

    def run(self, arm: Arm, course: Course) -> list[dict[str, Any]]:
        """Train an arm and measure it after each of the course's epochs.

        Raises:
            ValueError: the course's noise is not that of the rows.
        """
        from peft import LoraConfig, get_peft_model

        if course.noise != self.noise:
            raise ValueError(f"these rows have noise {self.noise}, and not {course.noise}")
        began = time.process_time()
        torch.manual_seed(self.seed)
        config = LoraConfig(r=8, lora_alpha=16, lora_dropout=0.1, target_modules="all-linear")
        model = get_peft_model(self.model(), config)
        inner = model.get_base_model()
        reference = partial(AdapterOff, inner) if arm.prior == "reference" else None
        objective = SmoothedObjective(inner, "model", len(self.tokenizer), reference)
        found = []
        for epoch in self._train(model, objective, self.smoothing(arm), course):
            result: dict[str, Any] = measured(predict(model, self.held_out, self.pad), self.groups)
            result["kl_to_base"] = self._kl(model)
            result["epochs"] = epoch
            result["seconds"] = time.process_time() - began
            found.append(result)
        return found

    def _train(
        self, model: Any, objective: SmoothedObjective, smoothing: Any, course: Course
    ) -> Iterator[int]:
        """Epochs after which it is to be measured."""
        eps = torch.from_numpy(smoothing.astype(np.float32))
        weights = [weight for weight in model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=course.rate, weight_decay=0.0)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, _factor(course))
        rng = np.random.default_rng(self.seed)
        for epoch in range(1, course.epochs[-1] + 1):
            model.train()
            with objective.installed():
                for chosen in np.split(rng.permutation(ROWS), range(BATCH, ROWS, BATCH)):
                    batch = batch_of([self.rows[one] for one in chosen], self.pad)
                    number = (batch["labels"][:, 1:] != -100).sum().float()
                    objective.weights = Weights(torch.ones(()), 1.0 / number, number)
                    each = eps[chosen][:, None].expand(batch["labels"].shape)
                    loss = model(**batch, ual_smoothing=encode_smoothing(each.contiguous())).loss
                    loss.backward()
                    torch.nn.utils.clip_grad_norm_(weights, 1.0)
                    optimizer.step()
                    optimizer.zero_grad()
                    schedule.step()
            if epoch in course.epochs:
                yield epoch

    @torch.no_grad()
    def _kl(self, model: Any) -> float:
        """KL(base || tuned) on statements, which no row is: nats a token."""
        batch = batch_of(self.statements, self.pad)
        place = batch.pop("labels") != -100
        tuned = model(**batch).logits[place].log_softmax(dim=1)
        with model.disable_adapter():
            before = model(**batch).logits[place].log_softmax(dim=1)
        return float((before.exp() * (before - tuned)).sum(dim=1).mean())


def _factor(course: Course) -> Callable[[int], float]:
    """What the rate is multiplied by at a step."""
    steps = course.epochs[-1] * math.ceil(ROWS / BATCH)

    def factor(step: int) -> float:
        fallen = 0.5 * (1 + math.cos(math.pi * step / steps)) if course.cosine else 1.0
        return min(1.0, (step + 1) / WARM_UP) * fallen

    return factor
