"""Commands on Ray that are watched: seconds, CPU seconds, memory, output. And clusters for them."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from ray_workers import cpu_seconds, descendants, memory

from axolotl_ual.data.fingerprint import file_digest

KIT = Path(__file__).resolve().parents[1] / "tests" / "kit"
MIB = 2**20
LOOK_SECONDS = 0.25
Figures = dict[str, Any]

MAIN = """
import sys, time
from pathlib import Path
import datasets, pyarrow.parquet, ray, axolotl_ual.preprocess.commands.annotate
from axolotl_ual.preprocess.cli import main
said = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
print("START_KIB", said["VmRSS"].split()[0], flush=True)
main(sys.argv[1:])
"""
"""A command that tells what it holds when all is imported and nothing is read."""


def write_recipe(
    folder: Path, rows: int, base_url: str | None, engine: Figures, **judge: Any
) -> Path:
    """Recipe and data; each folder has a cache of its own.

    Args:
        folder: made.
        rows: to be annotated.
        base_url: of the judge; None: no judge, rows are hashed.
        engine: the section.
        judge: more keys of its section.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "data.jsonl").open("w") as stream:
        for index in range(rows):
            row = {"instruction": f"Tell of {index}.", "input": "", "output": f"It is {index}."}
            stream.write(json.dumps(row) + "\n")
    annotate: Figures = {"output": str(folder / "out"), "cache": str(folder / "cache")}
    if base_url is None:
        annotate.update(estimator="custom", custom={"build": "hashed_rows:build"})
    else:
        annotate["judge"] = {"model": "judge", "base_url": base_url, **judge}
    annotate["engine"] = engine
    entries = [{"path": str(folder / "data.jsonl"), "type": "alpaca"}]
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({"base_model": "none", "datasets": entries, "ual": {"annotate": annotate}})
    )
    return path


def on_ray(workers: int, rows_per_block: int = 1000, address: str | None = None) -> Figures:
    return {
        "kind": "ray",
        "workers": workers,
        "rows_per_block": rows_per_block,
        "address": address,
    }


def environment() -> dict[str, str]:
    """Of commands and nodes: workers find the estimator of this folder, and compute on one core."""
    return {
        **os.environ,
        "PYTHONPATH": str(KIT),
        "OMP_NUM_THREADS": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
    }


def start(recipe: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start the command; what it says goes to `said.txt`."""
    shutil.rmtree(recipe.parent / "out", ignore_errors=True)
    command = [sys.executable, "-c", MAIN, "annotate", str(recipe), "--no-report", *options]
    with (recipe.parent / "said.txt").open("wb") as said:
        return subprocess.Popen(
            command, stdout=said, stderr=said, cwd=recipe.parent, env=environment()
        )


class _Watch:
    """The most memory of a command, of its workers and of its coordinator, while it runs.

    CPU seconds are those of all workers together, and of the coordinator.
    """

    def __init__(self, command: int, root: int) -> None:
        self._command, self._root = command, root
        self.most: dict[str, float] = {}
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def end(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            found = {"command": [self._command], "worker": [], "coordinator": []}
            for number, name in descendants(self._root).items():
                if name.startswith(("ray::rows", "ray::Worker")):
                    found["worker"].append(number)
                elif name.startswith("ray::Coordinator"):
                    found["coordinator"].append(number)
            for kind, numbers in found.items():
                if kind != "command":
                    key = f"{kind}_cpu_seconds"
                    self.most[key] = max(self.most.get(key, 0), round(cpu_seconds(numbers), 1))
                for number in numbers:
                    for part, kib in memory(number).items():
                        key = f"{kind}_{part}_mib"
                        self.most[key] = max(self.most.get(key, 0), round(kib / 1024))


def annotate(recipe: Path, *options: str, root: int | None = None) -> Figures:
    """Run the command to its end, and tell what it took.

    Args:
        recipe: likewise.
        options: of the command line.
        root: the process whose descendants are Ray; None: the command's own.
    """
    before, began = cpu_seconds(descendants()), time.monotonic()
    process = start(recipe, *options)
    watch = _Watch(process.pid, root or process.pid)
    _, status, usage = os.wait4(process.pid, 0)
    watch.end()
    output = recipe.parent / "out" / "train.parquet"
    said = (recipe.parent / "said.txt").read_text(errors="replace")
    at_start = int(said.split("START_KIB", 1)[1].split()[0]) / 1024
    return {
        "status": os.waitstatus_to_exitcode(status),
        "seconds": round(time.monotonic() - began, 1),
        "command_cpu_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        # The command is gone; what is left has the seconds of its own children that are.
        "cluster_cpu_seconds": round(cpu_seconds(descendants()) - before, 1),
        "command_start_mib": round(at_start),
        "command_above_start_mib": round(usage.ru_maxrss / 1024 - at_start),
        **watch.most,
        "digest": file_digest(output)[:16] if output.exists() else None,
    }


@contextlib.contextmanager
def cluster(cpus: tuple[int, ...]) -> Iterator[Any]:
    """A Ray of several nodes on this machine.

    Args:
        cpus: logical ones of each node; the command runs on the first.

    Yields:
        `ray.cluster_utils.Cluster`.
    """
    from ray.cluster_utils import Cluster

    os.environ.update(environment())
    made = Cluster()
    try:
        for number in cpus:
            made.add_node(num_cpus=number, object_store_memory=128 * MIB, include_dashboard=False)
        yield made
    finally:
        made.shutdown()


def said(recipe: Path) -> list[str]:
    """The lines of the last command."""
    return (recipe.parent / "said.txt").read_text(errors="replace").splitlines()
