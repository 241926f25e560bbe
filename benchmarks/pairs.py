"""Pairing, staging, smoothing and writing scored responses: CPU seconds and peak memory.

    python benchmarks/pairs.py [--prompts 10000] [--n 8] [--words 80]

The responses are random words, about one in ten a repeat, and their scores are random; what is
timed is all that `axolotl-ual pairs` does once the scores are there, up to the closed files.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from axolotl_ual.preprocess.commands.pairs import pair_up
from axolotl_ual.preprocess.data.prompt import Prompt
from axolotl_ual.preprocess.data.responses import Response, ResponseSet
from axolotl_ual.preprocess.dimensions.scores import Scores
from axolotl_ual.preprocess.output.folder import write_table
from axolotl_ual.preprocess.output.pairing import Pairing
from axolotl_ual.preprocess.output.tables import PAIRS, fill, scored
from axolotl_ual.settings.pairs import PairsConfig


def make_data(num_prompts: int, n: int, words: int) -> tuple[ResponseSet, Scores]:
    rng = random.Random(0)
    vocabulary = ["".join(rng.choices("abcdefghij", k=rng.randint(2, 9))) for _ in range(5000)]
    prompts, responses = [], []
    for number in range(num_prompts):
        prompts.append(Prompt((("user", f"{number} {' '.join(rng.choices(vocabulary, k=20))}"),)))
        group: list[Response] = []
        for _ in range(n):
            if group and rng.random() < 0.1:
                text = rng.choice(group).text
            else:
                text = " ".join(rng.choices(vocabulary, k=rng.randint(words // 2, 3 * words // 2)))
            group.append(Response(text, "stop", 1, -80.0, -1.0, 80))
        responses.append(group)
    random_values = np.random.default_rng(0)
    num_responses = num_prompts * n
    scores = Scores(
        dimensions={
            name: random_values.random(num_responses) for name in ("semantic", "factual", "value")
        },
        columns={
            "cluster": random_values.integers(0, n, num_responses).astype(np.float64),
            "semantic_entropy": random_values.random(num_prompts).repeat(n),
            "semantic_entropy_weighted": random_values.random(num_prompts).repeat(n),
        },
    )
    return ResponseSet(prompts, responses), scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=10_000)
    parser.add_argument("--n", type=int, default=8)
    parser.add_argument("--words", type=int, default=80)
    options = parser.parse_args()
    settings = PairsConfig.model_validate({"output": "out", "judge": {"model": "none"}})
    data, scores = make_data(options.prompts, options.n, options.words)
    characters = sum(len(response.text) for response in data.flat())
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        paired = pair_up(settings, data, scores)
        pairing = Pairing(data, scores, paired)
        train = write_table(Path(folder) / "train.parquet", fill(PAIRS, pairing))
        responses = write_table(Path(folder) / "responses.parquet", scored(pairing))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{platform.machine()}, {os.cpu_count()} cores; {options.prompts:,} prompts x {options.n} "
        f"responses, {characters / 1e6:.0f} MB of text\n"
        f"{train.rows:,} pairs, {responses.rows:,} responses written: {cpu:.2f} s CPU, "
        f"{wall:.2f} s, peak memory of the process {peak:.0f} MiB"
    )


if __name__ == "__main__":
    main()
