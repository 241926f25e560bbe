"""Annotating on Ray beside the local engine: `python benchmarks/ray_engine.py rate --output F`.

Each part ends within some minutes and writes a line of JSON for each run as soon as it is over:

    rate     rows a second of one process, and of 2, 4 and 8 workers on two nodes; then again from
             the cache, which sends nothing
    memory   of the command and of workers at 10,000, 100,000 and 1,000,000 rows, which ask nobody
    kills    of workers, of a node, of the coordinator and of the command, at random moments
    limits   --max-cost, 100 requests a minute and 3,000 a minute, kept by 8 workers
    traffic  bytes that a run moves, of which all rows go to another node than the command's; in a
             network of its own, so that nothing else is counted:
             `unshare --net sh -c 'ip link set lo up; exec python benchmarks/ray_engine.py traffic'`

    peers    rows a second beside curator, and distilabel without and with Ray, of 4 workers each:
             --curator PYTHON and --distilabel PYTHON are interpreters that have them

The commands are real, the judge is `tests/kit/judge_server.py`, the nodes are processes of this
machine, whose cores all of them share: compare what stands in one file.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "kit"))

from ray_runs import Figures, annotate, cluster, on_ray, said, start, write_recipe
from ray_workers import at_work, descendants

import judge_server

CONCURRENCY = 256
KILLED_ROWS = 2000
IN_FLIGHT = 32
IDLE_SECONDS = 5.0
PEERS_IN_FLIGHT = 64
KILLED_WORKERS = 3
"""Workers killed in a round, before a node and the command or the coordinator are."""


def rate(folder: Path, rows: int) -> Iterator[Figures]:
    """Rows a second, and values beside those of one process; a rerun sends nothing."""
    local: Figures = {}
    with judge_server.running() as server, cluster((4, 4)) as nodes:
        engines = {"local": {"kind": "local"}}
        engines.update({f"ray {n}": on_ray(n, 500, nodes.address) for n in (2, 4, 8)})
        for name, engine in engines.items():
            server.restore()
            server.set(latency=0.05)
            recipe = write_recipe(
                folder / name, rows, server.base_url, engine, max_concurrency=CONCURRENCY
            )
            found = annotate(recipe, root=os.getpid())
            stats = server.stats()
            found["requests"] = stats["requests"]
            found["rows_a_second"] = round(rows / (stats["last"] - stats["first"]), 1)
            local = local or found
            found["of_local"] = round(found["rows_a_second"] / local["rows_a_second"], 3)
            found["of_local_whole"] = round(local["seconds"] / found["seconds"], 3)
            found["same"] = found["digest"] == local["digest"]
            again = annotate(recipe, root=os.getpid())
            found["rerun"] = {
                "requests": server.stats()["requests"] - stats["requests"],
                "seconds": again["seconds"],
                "same": again["digest"] == found["digest"],
            }
            yield {"engine": name, "rows": rows, **found}


def memory(folder: Path, rows: int) -> Iterator[Figures]:
    """Resident memory; `own` is without the pages of files and of Ray's store that are mapped."""
    for number in (n for n in (10_000, 100_000, 1_000_000) if n <= rows):
        for name, engine in (("local", {"kind": "local"}), ("ray 2", on_ray(2))):
            recipe = write_recipe(folder / f"{name}{number}", number, None, engine)
            yield {"engine": name, "rows": number, **annotate(recipe)}


def kills(folder: Path, number: int) -> Iterator[Figures]:
    """Rounds of kills at random moments, over new rows on new nodes, until there were so many."""
    rng, done = random.Random(), 0
    with judge_server.running() as server:
        calm = write_recipe(folder / "calm", KILLED_ROWS, server.base_url, {"kind": "local"})
        expected = annotate(calm)["digest"]
        last = "driver"
        while done < number:
            last = "coordinator" if last == "driver" else "driver"
            server.restore()
            server.set(latency=0.1)
            place = folder / f"killed{done}"
            with cluster((2, 2)) as nodes:
                engine = on_ray(4, 50, nodes.address)
                recipe = write_recipe(
                    place, KILLED_ROWS, server.base_url, engine, max_concurrency=IN_FLIGHT
                )
                killed = _round(server, nodes, recipe, last, rng)
                done += sum(killed.values())
                found = annotate(recipe, root=os.getpid())
            requests = server.stats()["requests"]
            each = IN_FLIGHT // 4
            yield {
                "killed": killed,
                "killed_in_all": done,
                "status": found["status"],
                "same": found["digest"] == expected,
                "requests_beyond_rows": requests - KILLED_ROWS,
                "in_flight_when_killed": each * (killed["worker"] + 2 * killed["raylet"])
                + IN_FLIGHT * killed[last],
            }


def _round(
    server: judge_server.Running, nodes: Any, recipe: Path, last: str, rng: random.Random
) -> dict[str, int]:
    """Kill workers, a node, and at last what ends the command; tell what was killed."""
    killed = {"worker": 0, "raylet": 0, last: 0}
    process = start(recipe)

    def reach(answered: int) -> bool:
        while server.stats()["answered"] < answered:
            if process.poll() is not None:
                return False
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 0.3))
        return process.poll() is None

    steps = ["worker"] * KILLED_WORKERS + ["raylet", last]
    for place, kind in enumerate(steps):
        if not reach(100 + place * KILLED_ROWS // (len(steps) + 1)):
            break
        if kind == "raylet":
            node = next(iter(nodes.worker_nodes))
            os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
            nodes.remove_node(node, allow_graceful=False)
            killed[kind] += 1
            with contextlib.suppress(TimeoutError):  # It joins when it can, and may not in time.
                nodes.add_node(num_cpus=2, object_store_memory=128 * 2**20, include_dashboard=False)
            continue
        at = {
            "worker": at_work,
            "coordinator": lambda: [
                n for n, name in descendants().items() if name.startswith("ray::Coordinator")
            ],
            "driver": lambda: [process.pid],
        }[kind]()
        if at:
            os.kill(rng.choice(at), signal.SIGKILL)
            killed[kind] += 1
    process.wait()
    return killed


def limits(folder: Path, rows: int) -> Iterator[Figures]:
    """One budget and one limit of requests a minute for 8 workers."""
    with judge_server.running(latency=0.05) as server, cluster((4, 4)) as nodes:
        (folder / "prices.yaml").write_text("judge: {input: 1000, output: 1000}\n")
        prices = {"prices": str(folder / "prices.yaml")}
        engine = on_ray(8, 50, nodes.address)
        whole = write_recipe(folder / "whole", rows, server.base_url, engine, **prices)
        annotate(whole)
        usage = json.loads((whole.parent / "out" / "manifest.json").read_text())["usage"]
        each = usage["cost_usd"] / usage["requests"]
        for share in (0.1, 0.5, 0.9):
            limit, before = share * usage["cost_usd"], server.stats()["answered"]
            recipe = write_recipe(folder / f"{share}", rows, server.base_url, engine, **prices)
            found = annotate(recipe, "--max-cost", str(limit))
            spent = (server.stats()["answered"] - before) * each
            yield {
                "max_cost_of_all": share,
                "status": found["status"],
                "spent_of_limit": round(spent / limit, 4),
                "said": said(recipe)[-2:],
            }
        for a_minute, asked in ((100, 150), (3000, 4000)):
            server.restore()
            server.set(latency=0.05)
            recipe = write_recipe(
                folder / f"limit{a_minute}",
                asked,
                server.base_url,
                on_ray(8, 10 if asked < 500 else 100, nodes.address),
                requests_per_minute=a_minute,
            )
            found = annotate(recipe)
            stats = server.stats()
            kept = (asked - 1) / (stats["last"] - stats["first"]) * 60
            yield {
                "requests_per_minute": a_minute,
                "rows": asked,
                "status": found["status"],
                "kept": round(kept / a_minute, 4),
                "most_in_a_minute": stats["most_in_a_minute"],
            }


def traffic(folder: Path, rows: int) -> Iterator[Figures]:
    """Bytes over the loopback interface; those of `local` are the judge's questions and answers."""
    with judge_server.running() as server, cluster((0, 4)) as nodes:
        for number in (rows // 10, rows):
            for name, engine in (
                ("local", {"kind": "local"}),
                ("ray 2", on_ray(2, 1000, nodes.address)),
            ):
                place = folder / f"{name}{number}"
                recipe = write_recipe(place, number, server.base_url, engine, max_concurrency=64)
                before = _loopback_bytes()
                found = annotate(recipe, root=os.getpid())
                moved = _loopback_bytes() - before
                yield {
                    "engine": name,
                    "rows": number,
                    "status": found["status"],
                    "bytes": moved,
                    "cache_bytes": _size(place / "cache"),
                    "idle_bytes_a_second": _idle_bytes(),
                    "seconds": found["seconds"],
                }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _idle_bytes() -> int:
    """What the nodes tell each other in a second in which nothing is done."""
    before = _loopback_bytes()
    time.sleep(IDLE_SECONDS)
    return round((_loopback_bytes() - before) / IDLE_SECONDS)


def _loopback_bytes() -> int:
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.split()[0] == "lo:"))


def peers(folder: Path, rows: int, pythons: Mapping[str, str]) -> Iterator[Figures]:
    """The same server and as many requests in flight; `seconds` are with the start of each."""
    with judge_server.running() as server:
        with cluster((4, 4)) as nodes:
            engines = {"local": {"kind": "local"}, "ray 4": on_ray(4, 100, nodes.address)}
            for name, engine in engines.items():
                server.restore()
                server.set(latency=0.05)
                recipe = write_recipe(
                    folder / name, rows, server.base_url, engine, max_concurrency=PEERS_IN_FLIGHT
                )
                seconds = annotate(recipe, root=os.getpid())["seconds"]
                yield {"engine": name, "rows": rows, "seconds": seconds, **_pace(server, rows)}
        for name in ("curator", "distilabel", "distilabel-ray"):
            python = pythons.get(name.partition("-")[0])
            if python is not None:
                server.restore()
                server.set(latency=0.05)
                ended = _ask_through(name, python, server.base_url, rows, folder)
                yield {"engine": name, "rows": rows, **ended, **_pace(server, rows)}


def _ask_through(name: str, python: str, base_url: str, rows: int, folder: Path) -> Figures:
    script, said = Path(__file__).with_name("judge_peers.py"), folder / f"{name}.txt"
    command = [python, str(script), name, base_url, str(PEERS_IN_FLIGHT), str(rows)]
    began = time.monotonic()
    with said.open("wb") as stream:
        ended = subprocess.run(command, stdout=stream, stderr=stream, timeout=500)
    if ended.returncode:
        raise SystemExit(said.read_text(errors="replace"))
    return {"seconds": round(time.monotonic() - began, 1)}


def _pace(server: judge_server.Running, rows: int) -> Figures:
    stats = server.stats()
    rate = rows / (stats["last"] - stats["first"])
    return {"requests": stats["requests"], "rows_a_second": round(rate, 1)}


PARTS: dict[str, tuple[Any, int]] = {
    "rate": (rate, 20_000),
    "memory": (memory, 1_000_000),
    "kills": (kills, 100),
    "limits": (limits, 1_000),
    "traffic": (traffic, 20_000),
    "peers": (peers, 4_000),
}
"""What each part is, and its rows, or its kills."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--number", type=int, help="rows, or kills, instead of each part's own")
    parser.add_argument("--output", type=Path, help="JSON lines are added to it")
    parser.add_argument("--curator", help="an interpreter that has it")
    parser.add_argument("--distilabel", help="likewise")
    given = parser.parse_args()
    others = {name: getattr(given, name) for name in ("curator", "distilabel")}
    machine = f"{platform.platform()}, {os.cpu_count()} cores"
    for name in given.parts:
        part, number = PARTS[name]
        with tempfile.TemporaryDirectory() as scratch:
            more = [others] if part is peers else []
            for figures in part(Path(scratch), given.number or number, *more):
                load = [round(n, 1) for n in os.getloadavg()[:2]]
                line = json.dumps({"part": name, **figures, "machine": machine, "load": load})
                print(line, flush=True)
                if given.output is not None:
                    with given.output.open("a") as stream:
                        stream.write(line + "\n")


if __name__ == "__main__":
    main()
