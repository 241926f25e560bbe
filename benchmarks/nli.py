"""Entailment for clustering: batched rounds beside a plain double loop at batch size 1.

    python benchmarks/nli.py [--prompts 200] [--n 10] [--layers 2] [--hidden 128]

Both run the same classifier in fp32 on the CPU and must find the same clusters. The plain loop asks
every ordered pair of responses, one at a time. No pretrained model is needed: the weights are
random, which costs the same arithmetic, and the answers follow meanings planted in the texts, so
that the clusters are of a realistic size.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "kit"))
import tiny_nli

from axolotl_ual.preprocess.dimensions.base import Group
from axolotl_ual.preprocess.dimensions.clustering import greedy_clusters, run_together
from axolotl_ual.preprocess.dimensions.semantic import semantic_by_nli
from axolotl_ual.preprocess.models.local.classifier import SequenceClassifier
from axolotl_ual.preprocess.models.local.nli import Labels, NliModel

FIRST = len(tiny_nli.SPECIAL)
LAST = FIRST + len(tiny_nli.MEANINGS)


def make_groups(num_prompts: int, n: int, seed: int = 0) -> list[Group]:
    """Questions of 8 to 20 words; answers of 3 to 40, about a third of them repeats."""
    rng = random.Random(seed)
    words = tiny_nli.WORDS[:500]
    groups = []
    for _ in range(num_prompts):
        weights = [rng.expovariate(1.0) ** 2 for _ in tiny_nli.MEANINGS]
        texts: list[str] = []
        while len(texts) < n:
            if texts and rng.random() < 0.35:
                texts.append(rng.choice(texts))
                continue
            body = rng.choices(words, k=rng.randint(3, 40))
            texts.append(" ".join([*body, rng.choices(tiny_nli.MEANINGS, weights)[0]]))
        question = " ".join(rng.choices(words, k=rng.randint(8, 20)))
        groups.append(Group(question, tuple(texts), (float("nan"),) * n))
    return groups


def follow_meanings(model: torch.nn.Module) -> None:
    """Add to each logit what the planted meanings say, beside the whole forward pass."""

    def add(_: object, args: object, inputs: dict[str, torch.Tensor], output: Any) -> None:
        ids_BL, side_BL = inputs["input_ids"], inputs["token_type_ids"]
        meaning_BL = torch.where((ids_BL >= FIRST) & (ids_BL < LAST), ids_BL, 0)
        premise_B = (meaning_BL * (side_BL == 0)).amax(dim=1)
        hypothesis_B = (meaning_BL * (side_BL == 1)).amax(dim=1)
        output.logits[:, 0] += torch.where(premise_B == hypothesis_B, 1e3, -1e3)

    model.register_forward_hook(add, with_kwargs=True)


class Counter:
    """Forward passes and the pairs in them."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.calls = self.pairs = 0
        model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, _: object, args: object, inputs: dict[str, torch.Tensor]) -> None:
        self.calls += 1
        self.pairs += len(inputs["input_ids"])

    def reset(self) -> None:
        """Start again from zero."""
        self.calls = self.pairs = 0


def plain_loop(classifier: SequenceClassifier, groups: Sequence[Group]) -> list[list[int]]:
    """Every ordered pair by itself, then the same greedy clusters."""
    clusters = []
    for group in groups:
        holds = {}
        for i, first in enumerate(group.texts):
            for j, second in enumerate(group.texts):
                if i == j:
                    continue
                inputs = classifier.tokenizer(
                    f"{group.question} {first}", f"{group.question} {second}", return_tensors="pt"
                )
                with torch.inference_mode():
                    logits = classifier.model(**inputs).logits[0]
                holds[first, second] = int(logits.argmax()) == 0
        found = run_together(
            [greedy_clusters(group.texts)],
            lambda questions, holds=holds: [holds[q[1], q[2]] for q in questions],
        )
        clusters.append(found[0].tolist())
    return clusters


def timed(label: str, work, counter: Counter):
    counter.reset()
    start = time.perf_counter()
    result = work()
    seconds = time.perf_counter() - start
    print(
        f"{label:<46} {seconds:8.2f} s  {counter.pairs:7,} pairs in {counter.calls:6,} passes  "
        f"{counter.pairs / seconds:8,.0f} pairs/s"
    )
    return result, seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--n", type=int, default=10)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=128)
    options = parser.parse_args()
    groups = make_groups(options.prompts, options.n)
    with tempfile.TemporaryDirectory() as folder:
        tiny_nli.make_bert(
            Path(folder),
            max_length=512,
            hidden_size=options.hidden,
            intermediate_size=4 * options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=max(options.hidden // 64, 1),
            initializer_range=0.02,
        )
        classifier = SequenceClassifier.load(folder, key="nli", max_length=512, device="cpu")
    follow_meanings(classifier.model)
    counter = Counter(classifier.model)
    labels = Labels.find(classifier.labels, None, "nli", True)
    distinct = np.mean([len(set(group.texts)) for group in groups])
    parameters = sum(p.numel() for p in classifier.model.parameters()) / 1e6
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch "
        f"{torch.__version__}; BERT of {options.layers} layers, {parameters:.1f} M parameters\n"
        f"{options.prompts} prompts x {options.n} responses, {distinct:.1f} distinct on average"
    )
    semantic_by_nli(groups[:5], NliModel(classifier, labels), "response")
    plain, plain_seconds = timed(
        "plain double loop, batch size 1", lambda: plain_loop(classifier, groups), counter
    )
    pairs = [
        (group.question, first, second)
        for group in groups
        for i, first in enumerate(group.texts)
        for j, second in enumerate(group.texts)
        if i != j and first != second
    ]
    _, batched_seconds = timed(
        "all distinct ordered pairs, in batches",
        lambda: NliModel(classifier, labels).entails(pairs),
        counter,
    )
    ours, seconds = timed(
        "greedy rounds, in batches (what is used)",
        lambda: semantic_by_nli(groups, NliModel(classifier, labels), "response"),
        counter,
    )
    assert [scores.clusters for scores in ours] == plain, "the clusters differ"
    print(
        f"same clusters; ratio {plain_seconds / seconds:.1f}, of it by batching and leaving out "
        f"repeats {plain_seconds / batched_seconds:.1f}"
    )


if __name__ == "__main__":
    main()
