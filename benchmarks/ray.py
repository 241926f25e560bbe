"""Annotating on Ray beside the local engine: `python benchmarks/ray.py` prints a table.

Everything runs `axolotl-ual annotate` in a process of its own against `tests/kit/judge_server.py`
on this machine, whose cores command, workers and server share. Seconds are the server's, from the
first request to the last, and those of the whole command. Name sections to run only those.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "kit"))

import yaml
from ray_workers import peak_mib, workers_at_work

import judge_server
from axolotl_ual.data.fingerprint import file_digest

MAIN = "import sys; from axolotl_ual.preprocess.cli import main; main(sys.argv[1:])"
Figures = dict[str, Any]


def write_recipe(folder: Path, rows: int, base_url: str, engine: Figures, **judge: Any) -> Path:
    """Recipe and data; each folder has a cache of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "data.jsonl").open("w") as stream:
        for index in range(rows):
            row = {"instruction": f"Tell of {index}.", "input": "", "output": f"It is {index}."}
            stream.write(json.dumps(row) + "\n")
    annotate = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        "judge": {"model": "judge", "base_url": base_url, **judge},
        "engine": engine,
    }
    entries = [{"path": str(folder / "data.jsonl"), "type": "alpaca"}]
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump({"base_model": "none", "datasets": entries, "ual": {"annotate": annotate}})
    )
    return path


def on_ray(workers: int, rows_per_block: int = 1000) -> Figures:
    return {"kind": "ray", "workers": workers, "rows_per_block": rows_per_block}


def start(recipe: Path, *options: str) -> subprocess.Popen[bytes]:
    shutil.rmtree(recipe.parent / "out", ignore_errors=True)
    command = [sys.executable, "-c", MAIN, "annotate", str(recipe), "--no-report", *options]
    with (recipe.parent / "said.txt").open("ab") as said:
        return subprocess.Popen(
            command, stdout=said, stderr=said, cwd=recipe.parent, start_new_session=True
        )


def annotate(server: judge_server.Running, recipe: Path, *options: str) -> Figures:
    """Run the command to its end, and tell what it did."""
    before = server.stats()["requests"]
    began, worker = time.monotonic(), 0.0
    process = start(recipe, *options)
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        worker = max(worker, peak_mib(workers_at_work()))
        time.sleep(0.25)
    stats = server.stats()
    output = recipe.parent / "out" / "train.parquet"
    return {
        "status": os.waitstatus_to_exitcode(status),
        "command_seconds": round(time.monotonic() - began, 1),
        "server_seconds": round(stats["last"] - stats["first"], 1),
        "requests": stats["requests"] - before,
        "most_in_flight": stats["most_in_flight"],
        "command_mib": round(usage.ru_maxrss / 1024),
        "worker_mib": round(worker),
        "digest": file_digest(output)[:16] if output.exists() else None,
    }


def speed(folder: Path, rows: int) -> Figures:
    """Rows a second of the local engine and of 2, 4 and 8 workers; and again from the cache."""
    found: Figures = {"rows": rows}
    with judge_server.running() as server:
        for name, engine in {
            "local": {"kind": "local"},
            **{f"ray_{n}": on_ray(n) for n in (2, 4, 8)},
        }.items():
            server.restore()
            server.set(latency=0.05)
            recipe = write_recipe(folder / name, rows, server.base_url, engine, max_concurrency=256)
            figures = annotate(server, recipe)
            figures["rows_a_second"] = round(rows / figures["server_seconds"], 1)
            again = annotate(server, recipe)
            figures["cached_requests"] = again["requests"]
            figures["cached_seconds"] = again["command_seconds"]
            figures["cached_same"] = again["digest"] == figures["digest"]
            found[name] = figures
            shutil.rmtree(folder / name)
    local = found["local"]
    for name in ("ray_2", "ray_4", "ray_8"):
        figures = found[name]
        figures["of_local"] = round(figures["rows_a_second"] / local["rows_a_second"], 2)
        figures["of_local_whole"] = round(local["command_seconds"] / figures["command_seconds"], 2)
        figures["same"] = figures["digest"] == local["digest"]
    return found


def kills(folder: Path, rows: int) -> Figures:
    """`kill -9` of workers and of the command at random moments."""
    rng, done = random.Random(0), {"workers": 0, "commands": 0}
    with judge_server.running(latency=0.1) as server:
        calm = write_recipe(folder / "calm", rows, server.base_url, {"kind": "local"})
        expected = annotate(server, calm)["digest"]
        server.restore()
        server.set(latency=0.1)
        recipe = write_recipe(
            folder / "killed", rows, server.base_url, on_ray(4, 50), max_concurrency=32
        )
        for _ in range(4):
            process, before = start(recipe), server.stats()["requests"]
            while server.stats()["requests"] == before and process.poll() is None:
                time.sleep(0.05)
            for _ in range(5):
                time.sleep(rng.uniform(0.1, 0.6))
                done["workers"] += kill_one(rng)
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)
                done["commands"] += 1
            process.wait()
            time.sleep(2)  # Ray's processes see that their command is gone.
        last = annotate(server, recipe)
        requests = server.stats()["requests"]
    return {
        "rows": rows,
        **{f"killed_{name}": number for name, number in done.items()},
        "same": last["digest"] == expected,
        "requests": requests,
        "paid_twice": requests - rows,
        # Of a killed worker its part of the requests in flight, of a killed command all.
        "in_flight_when_killed": done["workers"] * 8 + done["commands"] * 32,
    }


def kill_one(rng: random.Random) -> int:
    """Kill a worker that scores, if there is one."""
    at_work = workers_at_work()
    if at_work:
        os.kill(rng.choice(at_work), signal.SIGKILL)
    return len(at_work[:1])


def limits(folder: Path, rows: int) -> Figures:
    """One budget and one limit of requests a minute for 8 workers."""
    found: Figures = {}
    with judge_server.running(latency=0.05) as server:
        prices = folder / "prices.yaml"
        prices.write_text("judge: {input: 1000, output: 1000}\n")
        recipe = write_recipe(
            folder / "cost", rows, server.base_url, on_ray(8, 50), prices=str(prices)
        )
        whole = json.loads(json.dumps(annotate(server, recipe)))
        usage = json.loads((folder / "cost/out/manifest.json").read_text())["usage"]
        each = usage["cost_usd"] / whole["requests"]
        shutil.rmtree(folder / "cost" / "cache")
        for share in (0.1, 0.5, 0.9):
            limit = share * usage["cost_usd"]
            before = server.stats()["answered"]
            status = annotate(server, recipe, "--max-cost", str(limit))["status"]
            answered = server.stats()["answered"] - before
            spent = answered * each
            found[f"budget_{share}"] = {"status": status, "spent_of_limit": round(spent / limit, 4)}
            shutil.rmtree(folder / "cost" / "cache")
        for per_minute, asked in ((100, 150), (3000, rows)):
            server.restore()
            server.set(latency=0.05)
            name = f"limit_{per_minute}"
            recipe = write_recipe(
                folder / name,
                asked,
                server.base_url,
                on_ray(8, 10),
                requests_per_minute=per_minute,
            )
            figures = annotate(server, recipe)
            stats = server.stats()
            rate = (asked - 1) / (stats["last"] - stats["first"]) * 60
            found[name] = {"status": figures["status"], "of_limit": round(rate / per_minute, 4)}
    return found


SECTIONS: dict[str, tuple[Callable[[Path, int], Figures], int]] = {
    "speed": (speed, 100_000),
    "kills": (kills, 6_000),
    "limits": (limits, 2_000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", default=list(SECTIONS))
    parser.add_argument("--rows", type=int, help="instead of each section's own number")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    found: Figures = {"machine": f"{platform.platform()}, {os.cpu_count()} cores"}
    for name in given.sections:
        section, rows = SECTIONS[name]
        with tempfile.TemporaryDirectory() as scratch:
            found[name] = section(Path(scratch), given.rows or rows)
        print(json.dumps({name: found[name]}, indent=1), flush=True)
    if given.output is not None:
        given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
