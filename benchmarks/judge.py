"""How fast, frugal and durable judging is: `python benchmarks/judge.py` prints a table.

Everything runs `axolotl-ual annotate` in a process of its own against
`tests/kit/judge_server.py`, a server on this machine; with two cores or more each has one to
itself. Name sections to run only those. Results are written as JSON beside the table, with the
machine's name.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "kit"))

import yaml
from judging_kit import kill_often

import judge_server
from axolotl_ual.preprocess.calls.cache import Answer, Cache, KeyMaker
from axolotl_ual.preprocess.calls.outcomes import Outcome
from axolotl_ual.preprocess.data.rows import AlpacaFields
from axolotl_ual.preprocess.data.single_turn import alpaca_reader
from axolotl_ual.preprocess.judge.rubric import load_rubric
from axolotl_ual.preprocess.judge.uncertainty import Uncertainty
from axolotl_ual.settings.estimators import JudgeConfig

LATENCY = 0.2
QUESTION = "Tell me what you know about it, and where it is uncertain. " * 12
ANSWER = "This is what is known of it, and the rest is a matter of opinion. " * 10
CORES = sorted(os.sched_getaffinity(0))
Row = dict[str, str]
Figures = dict[str, Any]


def row(index: int) -> Row:
    """About 1.5 kB, like an instruction dataset's."""
    return {
        "instruction": f"Topic {index}: {QUESTION}",
        "input": "",
        "output": f"Topic {index}: {ANSWER}",
    }


def write_recipe(folder: Path, rows: int, base_url: str, **judge: Any) -> Path:
    data = folder / "data.jsonl"
    if not data.exists():
        with data.open("w") as stream:
            for index in range(rows):
                stream.write(json.dumps(row(index)) + "\n")
    settings = {"model": "judge", "base_url": base_url, **judge}
    recipe = {
        "base_model": "none",
        "datasets": [{"path": str(data), "type": "alpaca"}],
        "ual": {
            "annotate": {
                "output": str(folder / "out"),
                "cache": str(folder / "cache"),
                "judge": settings,
            }
        },
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def annotate(recipe: Path) -> Figures:
    """Run the command on the first core; wall and CPU seconds, peak memory."""
    command = [sys.executable, "-m", "axolotl_ual.preprocess.cli", "annotate", "--no-report"]
    command.append(str(recipe))
    if len(CORES) > 1:
        command = ["taskset", "-c", str(CORES[0]), *command]
    began = time.monotonic()
    environment = {**os.environ, "HF_HOME": str(recipe.parent / "hf"), "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=recipe.parent, env=environment
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(output)
    return {
        "seconds": time.monotonic() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "peak_mib": usage.ru_maxrss / 1024,
        "output": output,
    }


def server(**options: Any) -> Any:
    return judge_server.running(core=CORES[1] if len(CORES) > 1 else None, **options)


def throughput(concurrency: int, rows: int = 5000) -> Figures:
    """5,000 rows at a fixed latency; the rate is taken from the server's clock."""
    with tempfile.TemporaryDirectory() as name, server(latency=LATENCY) as running:
        recipe = write_recipe(Path(name), rows, running.base_url, max_concurrency=concurrency)
        run = annotate(recipe)
        stats = running.stats()
        again = annotate(recipe)
        served_again = running.stats()["requests"] - stats["requests"]
    return {
        "rows": rows,
        **reached(rows, concurrency, stats),
        "cpu_per_1000": (run["cpu_seconds"] - again["cpu_seconds"]) / rows * 1000,
        "cpu_per_1000_with_start": run["cpu_seconds"] / rows * 1000,
        "requests_of_a_second_run": served_again,
    }


def reached(requests: int, concurrency: int, stats: Figures) -> Figures:
    """The rate of requests between the server's first and last, beside the ideal one."""
    rate = requests / (stats["last"] - stats["first"])
    return {
        "concurrency": concurrency,
        "rate_per_second": rate,
        "of_ideal": rate / (concurrency / LATENCY),
    }


def openai_loop(concurrency: int, rows: int = 5000) -> Figures:
    """The plain loop for comparison: AsyncOpenAI behind a semaphore, nothing kept."""
    with server(latency=LATENCY) as running:
        command = [sys.executable, __file__, "--plain-loop", running.base_url]
        command += [str(concurrency), str(rows)]
        if len(CORES) > 1:
            command = ["taskset", "-c", str(CORES[0]), *command]
        cpu = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        stats = running.stats()
    return {
        "rows": rows,
        **reached(rows, concurrency, stats),
        "cpu_per_1000": cpu / rows * 1000,
    }


def _plain_loop(base_url: str, concurrency: int, rows: int) -> None:
    from openai import AsyncOpenAI

    async def run() -> float:
        semaphore = asyncio.Semaphore(concurrency)
        async with AsyncOpenAI(base_url=base_url, api_key="none") as client:

            async def ask(index: int) -> None:
                async with semaphore:
                    asked = row(index)
                    await client.chat.completions.create(
                        model="judge",
                        messages=[
                            {"role": "system", "content": "x" * 3000},
                            {"role": "user", "content": asked["instruction"] + asked["output"]},
                        ],
                        max_tokens=64,
                    )

            began = time.process_time()
            await asyncio.gather(*(ask(index) for index in range(rows)))
            return time.process_time() - began

    print(asyncio.run(run()))


def peer(name: str, interpreter: str, concurrency: int, rows: int = 5000) -> Figures:
    """Another system, as it comes, under an interpreter that has it."""
    script = str(Path(__file__).with_name("judge_peers.py"))
    with server(latency=LATENCY) as running:
        command = [interpreter, script, name, running.base_url, str(concurrency), str(rows)]
        if len(CORES) > 1:
            command = ["taskset", "-c", str(CORES[0]), *command]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        stats = running.stats()
    return {
        "rows": rows,
        "requests": stats["requests"],
        **reached(stats["requests"], concurrency, stats),
        "cpu_per_1000_with_start": float(done.stdout.split()[-1]) / rows * 1000,
    }


def rate_limit(rows: int = 4000) -> Figures:
    """A server that lets 100 requests a second through; the client is told nothing of it."""
    limit = {"rate": 100.0, "burst": 100.0, "retry_after": 1.0}
    with tempfile.TemporaryDirectory() as name, server(latency=LATENCY, **limit) as running:
        annotate(write_recipe(Path(name), rows, running.base_url))
        stats = running.stats()
    seconds = stats["last"] - stats["first"]
    rejected = stats["by_status"].get("429", 0)
    return {
        "rows": rows,
        "rate_per_second": rows / seconds,
        # The bucket was full at the start: that much the server gave beside its 100 a second.
        "of_what_was_allowed": rows / (100.0 * seconds + 100.0),
        "share_of_429": rejected / stats["requests"],
    }


def configured_limit(rows: int = 2000) -> Figures:
    """The same server, and `requests_per_minute: 6000`."""
    limit = {"rate": 100.0, "burst": 10.0, "retry_after": 1.0}
    with tempfile.TemporaryDirectory() as name, server(latency=LATENCY, **limit) as running:
        annotate(write_recipe(Path(name), rows, running.base_url, requests_per_minute=6000))
        stats = running.stats()
    return {
        "rows": rows,
        "rate_per_second": rows / (stats["last"] - stats["first"]),
        "answers_429": stats["by_status"].get("429", 0),
    }


def faults(rows: int = 5000) -> Figures:
    """Thirty per cent of faults of all kinds."""
    with tempfile.TemporaryDirectory() as name:
        with server(latency=0.02, fault_rate=0.3, retry_after=0.2) as running:
            run = annotate(
                write_recipe(Path(name), rows, running.base_url, timeout=1.0, max_retries=12)
            )
            stats = running.stats()
        manifest = json.loads((Path(name) / "out/manifest.json").read_text())
    return {
        "rows": rows,
        "requests": stats["requests"],
        "seconds": run["seconds"],
        "counts": manifest["counts"],
        "failures": manifest["failures"],
    }


def cached(rows: int = 100_000) -> Figures:
    """A run that finds everything in the cache."""
    with tempfile.TemporaryDirectory() as name, server() as running:
        recipe = write_recipe(Path(name), rows, running.base_url)
        _fill_cache(Path(name) / "cache", rows)
        run = annotate(recipe)
        requests = running.stats()["requests"]
    line = [line for line in run["output"].splitlines() if " a second" in line][-1]
    return {
        "rows": rows,
        "rows_per_second_judged": _rate(line),
        "rows_per_second_of_the_command": rows / run["seconds"],
        "requests": requests,
    }


def _rate(line: str) -> float:
    """From `judging (judge): 100,000 of 100,000, 40,000.0 a second`."""
    return float(line.split(" a second")[0].split(", ")[-1].replace(",", ""))


def memory(rows: int = 1_000_000, asked: int = 20_000) -> Figures:
    """A million rows, all but 20,000 of them in the cache; peak beside a run of 100 rows."""
    with server(latency=0.01) as running:
        peaks = []
        for size in (100, rows):
            with tempfile.TemporaryDirectory() as name:
                recipe = write_recipe(Path(name), size, running.base_url, max_concurrency=256)
                _fill_cache(Path(name) / "cache", max(0, size - asked))
                run = annotate(recipe)
                peaks.append(run["peak_mib"])
    return {
        "rows": rows,
        "asked": asked,
        "peak_mib_100_rows": peaks[0],
        "peak_mib": peaks[1],
        "mib_above": peaks[1] - peaks[0],
        "seconds": run["seconds"],
    }


def _fill_cache(folder: Path, rows: int) -> None:
    """Put in what a run would have kept."""
    task = Uncertainty(JudgeConfig(model="judge"), load_rubric("uncertainty-v1"), "verbalized")
    keys = KeyMaker(task.identity)
    read = alpaca_reader(AlpacaFields()).read
    with Cache(folder) as cache:
        for start in range(0, rows, 10_000):
            cache.add(
                (
                    keys.key(read(row(index)), 0),
                    keys.description,
                    Answer(Outcome.SCORED, (index % 101) / 100, None, '{"uncertainty": 1}', 900, 5),
                )
                for index in range(start, min(start + 10_000, rows))
            )


def kills(number: int = 200) -> Figures:
    """Kill -9 at random moments over one run."""
    in_flight = 8
    with tempfile.TemporaryDirectory() as name:
        found = kill_often(Path(name), number, rows=number * 100 + 200, in_flight=in_flight)
    extra = found.requests - found.rows
    return {
        "kills": number,
        "rows": found.rows,
        "requests": found.requests,
        "requests_beyond_rows": extra,
        "allowed_beyond_rows": number * in_flight,
        "same_output": found.same,
    }


SECTIONS: dict[str, Callable[[], Figures]] = {
    "ual-64": lambda: throughput(64),
    "ual-256": lambda: throughput(256),
    "openai-64": lambda: openai_loop(64),
    "openai-256": lambda: openai_loop(256),
    "rate-limit": rate_limit,
    "configured-limit": configured_limit,
    "faults": faults,
    "cached": cached,
    "memory": memory,
    "kills": kills,
}


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return f"{model}, {len(CORES)} cores, {platform.system()}, Python {platform.python_version()}"


def shown(value: Any) -> str:
    return f"{value:,.3f}" if isinstance(value, float) else f"{value}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sections", nargs="*", help=", ".join(SECTIONS))
    parser.add_argument("--output", type=Path, default=Path("judge-benchmark.json"))
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        metavar="NAME=PYTHON",
        help="curator or distilabel, and an interpreter that has it: sections NAME-64, NAME-256",
    )
    parser.add_argument("--plain-loop", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    for name, _, interpreter in (value.partition("=") for value in arguments.peer):
        for concurrency in (64, 256):
            SECTIONS[f"{name}-{concurrency}"] = functools.partial(
                peer, name, interpreter, concurrency
            )
    if arguments.plain_loop:
        base_url, concurrency, rows = arguments.plain_loop
        _plain_loop(base_url, int(concurrency), int(rows))
        return
    unknown = set(arguments.sections) - set(SECTIONS)
    if unknown:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(SECTIONS)}")
    results = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    results["machine"] = machine()
    print(results["machine"])
    for name in arguments.sections or SECTIONS:
        results[name] = SECTIONS[name]()
        print(name)
        for key, value in results[name].items():
            print(f"  {key:32} {shown(value)}")
        arguments.output.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
