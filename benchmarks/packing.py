"""Stage-aware packing beside Axolotl's own: batches, time and memory.

    python benchmarks/packing.py [--output packing.json] [--rows 100000] [--large 1000000]

Lengths are lognormal, cut at sequence_len (Axolotl drops longer rows). Rows are in three stages of
equal size, either at random or by length (the hardest stage has the longest rows). One bin is one
micro-batch, as with `micro_batch_size: 1`; `--step` bins make an optimizer step.

- unordered: Axolotl's MultipackBatchSampler over a random order;
- sequential: the same with `sample_packing_sequentially`, over the rows sorted by stage, which is
  how Axolotl keeps an order;
- phased: a plan of `axolotl_ual.schedule.plan` with the same packing function.

Time and memory of building the order are measured in a process of their own for each side, over
rows that are already in memory, without the compilation of the packing function.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import platform
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from axolotl.utils.samplers.multipack import MultipackBatchSampler, pack_parallel
from torch.utils.data import SequentialSampler

from axolotl_ual.schedule.plan import Geometry, Packing, Plan, build_plan, make_phases

Lengths = npt.NDArray[np.int32]
ORDER = ("conservative", "moderate", "exploratory")
GROUP = 100_000
BIN = 200


def make_lengths(rows: int, capacity: int, seed: int = 0) -> Lengths:
    generator = np.random.default_rng(seed)
    lengths = generator.lognormal(mean=6.0, sigma=0.9, size=rows)
    return np.clip(lengths, 8, capacity).astype(np.int32)


def make_stages(lengths: Lengths, by_length: bool) -> npt.NDArray[np.int64]:
    keys = lengths if by_length else np.random.default_rng(1).random(len(lengths))
    return np.argsort(np.argsort(keys, kind="stable")) * 3 // len(lengths)


def multipack(lengths: Lengths, capacity: int, order: Any, sequential: bool) -> int:
    sampler = MultipackBatchSampler(
        order,
        batch_size=1,
        batch_max_len=capacity,
        lengths=lengths,
        bin_size=BIN,
        group_size=GROUP,
        sequential=sequential,
        drop_last=True,
    )
    return len(sampler.generate_batches())


def plan(lengths: Lengths, stages: npt.NDArray[np.int64], capacity: int, step: int) -> Plan:
    pack = partial(
        pack_parallel,
        bin_capacity=capacity,
        group_size=GROUP,
        bin_size=BIN,
        num_processes=1,
    )
    return build_plan(
        stages,
        make_phases("phased", ORDER, (1, 1, 1)),
        Geometry(1, step, 1),
        packing=Packing(lengths, pack, GROUP),
    )


def compare(rows: int, capacity: int, by_length: bool, step: int) -> dict[str, Any]:
    lengths = make_lengths(rows, capacity)
    stages = make_stages(lengths, by_length)
    shuffled = np.random.default_rng(2).permutation(rows).tolist()
    sorted_rows = np.argsort(stages, kind="stable").tolist()
    # SequentialSampler silences a warning; the order is what `lengths` is given in.
    unordered = multipack(lengths, capacity, shuffled, False)
    sequential = multipack(lengths[sorted_rows], capacity, SequentialSampler(range(rows)), True)
    ours = plan(lengths, stages, capacity, step)
    efficiency = float(lengths.sum()) / (ours.num_batches * capacity)
    return {
        "rows": rows,
        "sequence_len": capacity,
        "stages": "by length" if by_length else "at random",
        "bins_in_a_step": step,
        "unordered": unordered,
        "sequential": sequential,
        "phased": ours.num_batches,
        "phased_to_unordered": ours.num_batches / unordered,
        "sequential_to_phased": sequential / ours.num_batches,
        "efficiency": efficiency,
    }


def peak_mib(reset: bool = False) -> float:
    """Largest resident memory so far; from here on, where it is reset (Linux only)."""
    if reset:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _measured(side: str, rows: int, capacity: int, result: Any) -> None:
    lengths = make_lengths(rows, capacity)
    stages = make_stages(lengths, False)
    order = np.random.default_rng(2).permutation(rows)
    pack_parallel(lengths[:100], capacity, GROUP, BIN, num_processes=1)  # compiles
    before = peak_mib(reset=True)
    start = time.process_time()
    if side == "axolotl":
        multipack(lengths, capacity, order.tolist(), False)
    else:
        plan(lengths, stages, capacity, 8)
    seconds = time.process_time() - start
    result.put((seconds, peak_mib() - before))


def build_cost(rows: int, capacity: int) -> dict[str, Any]:
    """CPU seconds and peak MiB above what was in use before, each in a fresh process."""
    context = multiprocessing.get_context("spawn")
    found: dict[str, tuple[float, float]] = {}
    for side in ("axolotl", "phased"):
        queue = context.Queue()
        process = context.Process(target=_measured, args=(side, rows, capacity, queue))
        process.start()
        found[side] = queue.get()
        process.join()
    (base_s, base_mib), (our_s, our_mib) = found["axolotl"], found["phased"]
    return {
        "rows": rows,
        "sequence_len": capacity,
        "axolotl_cpu_s": base_s,
        "phased_cpu_s": our_s,
        "time_ratio": our_s / base_s,
        "axolotl_mib": base_mib,
        "phased_mib": our_mib,
        "memory_ratio": our_mib / base_mib,
    }


def show(title: str, rows: list[dict[str, Any]]) -> None:
    print(title)
    for row in rows:
        cells = [f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
        print("  " + ", ".join(cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("packing.json"))
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--large", type=int, default=1_000_000)
    parser.add_argument("--step", type=int, default=8)
    options = parser.parse_args()
    capacities = (2048, 4096, 8192)
    counts = [
        compare(options.rows, capacity, by_length, options.step)
        for capacity in capacities
        for by_length in (False, True)
    ]
    show("batches", counts)
    costs = [build_cost(options.large, capacity) for capacity in capacities]
    show("building the order", costs)
    machine = f"{platform.machine()}, {platform.python_implementation()} {sys.version.split()[0]}"
    report = {"machine": machine, "batches": counts, "building": costs}
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
