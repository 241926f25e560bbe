"""`axolotl-ual annotate` with `engine: {kind: ray}`: a real Ray of a few workers, real HTTP."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
import sampling_server
import yaml
from click.testing import Result
from judging_kit import command
from ray_workers import at_work

import judge_server
import tiny
from axolotl_ual.data.fingerprint import file_digest

pytestmark = pytest.mark.slow

ROWS = 60
TOKENS = 1000.0
"""USD for a million prompt tokens; answers are as dear."""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """Ray for this module; the command joins a Ray that its process has."""
    # Workers are nice by default, and what runs beside this would starve them.
    os.environ.update({"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"})
    ray.init(
        address="local",
        num_cpus=4,
        include_dashboard=False,
        object_store_memory=128 * 2**20,
        log_to_driver=False,
        logging_level="ERROR",
    )
    yield
    ray.shutdown()


def recipe(
    folder: Path,
    server: judge_server.Running,
    engine: dict[str, Any] | None,
    rows: list[str] | None = None,
    **judge: Any,
) -> Path:
    """Recipe and data in a folder of their own, with a cache of their own."""
    folder.mkdir(exist_ok=True)
    questions = rows or [f"q {i}" for i in range(ROWS)]
    data = [{"instruction": text, "input": "", "output": f"a to {text}"} for text in questions]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    annotate: dict[str, Any] = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        "judge": {"model": "m", "base_url": server.base_url, "max_concurrency": 8, **judge},
    }
    if engine is not None:
        annotate["engine"] = {"kind": "ray", "workers": 2, "rows_per_block": 7, **engine}
    path = folder / "r.yaml"
    entries = [{"path": str(folder / "d.jsonl"), "type": "alpaca"}]
    ual = {"annotate": annotate}
    path.write_text(yaml.safe_dump({"base_model": "none", "datasets": entries, "ual": ual}))
    return path


def annotate(path: Path, *options: str) -> Result:
    shutil.rmtree(path.parent / "out", ignore_errors=True)
    return command("annotate", path, "--no-report", *options)


def output(path: Path) -> str:
    return file_digest(path.parent / "out" / "train.parquet")


def unscored(path: Path) -> set[tuple[int, str]]:
    lines = (path.parent / "out" / "unscored.jsonl").read_text().splitlines()
    return {(line["row"], line["answer"]) for line in map(json.loads, lines)}


def prices(folder: Path) -> str:
    path = folder / "prices.yaml"
    path.write_text(f"m: {{input: {TOKENS}, output: {TOKENS}}}\n")
    return str(path)


def test_rows_are_those_of_the_local_engine(server: judge_server.Running, tmp_path: Path) -> None:
    """Equal questions of different blocks are asked once; a bad row is a bad row and no more."""
    rows = [f"q {i % 40}" for i in range(ROWS)]
    rows[33] = "forbidden"
    paths = [
        recipe(tmp_path / name, server, engine, rows, repeats=2, temperature=1.0)
        for name, engine in (("local", None), ("ray", {}))
    ]
    server.set(rules=[["forbidden", "prose"]])
    asked = []
    for path in paths:
        before = server.stats()["requests"]
        result = annotate(path)
        assert result.exit_code == 0, result.output
        asked.append(server.stats()["requests"] - before)
        assert f"{ROWS} rows: {ROWS - 1} scored" in result.output
    assert output(paths[0]) == output(paths[1])
    assert asked[0] == asked[1]
    assert unscored(paths[0]) == unscored(paths[1])
    assert {row for row, _ in unscored(paths[1])} == {33}
    manifests = [json.loads((p.parent / "out/manifest.json").read_text()) for p in paths]
    for name in ("requests", "prompt_tokens", "completion_tokens"):
        assert manifests[0]["usage"][name] == manifests[1]["usage"][name]
    assert manifests[0]["estimator"] == manifests[1]["estimator"]
    assert manifests[0]["settings"] == manifests[1]["settings"]
    # The cache is the one that other runs use, whatever their engine.
    before = server.stats()["requests"]
    again = recipe(tmp_path / "ray", server, None, rows, repeats=2, temperature=1.0)
    for path in (paths[1], again):
        assert annotate(path).exit_code == 0
    assert server.stats()["requests"] == before
    assert output(again) == output(paths[0])


def test_budget_is_one_for_all_workers(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(latency=0.02)
    engine = {"workers": 4}
    path = recipe(tmp_path / "ray", server, engine, prices=prices(tmp_path), max_tokens=20)
    dry = annotate(path, "--dry-run")
    assert "9 blocks of up to 7 rows, 4 workers" in dry.output
    most = float(dry.output.split("; ")[-1].split(" USD if every")[0])
    limit = most / 3
    result = annotate(path, "--max-cost", str(limit))
    assert result.exit_code == 1, result.output
    assert "stopped before --max-cost" in result.output
    assert not (path.parent / "out").exists()
    stats = server.stats()
    # The server counts a token for four characters, and the dearest of these rows is like the
    # others: what was answered cost its share of what all cost.
    sent = stats["answered"]
    assert 0 < sent < ROWS
    result = annotate(path)
    assert result.exit_code == 0, result.output
    manifest = json.loads((path.parent / "out/manifest.json").read_text())
    usage = manifest["usage"]
    assert usage["requests"] == ROWS - sent, "what was paid is not paid again"
    assert usage["cached"] == sent
    each = usage["cost_usd"] / usage["requests"]
    assert sent * each <= limit * 1.001
    # Leases hold nothing back for long: another request would not have been affordable at its most.
    assert (sent + 1) * each + (most / ROWS - each) >= limit * 0.8


def test_limit_of_a_minute_is_one_for_all_workers(
    server: judge_server.Running, tmp_path: Path
) -> None:
    engine = {"workers": 4, "rows_per_block": 5}
    path = recipe(tmp_path / "ray", server, engine, requests_per_minute=1500)
    result = annotate(path)
    assert result.exit_code == 0, result.output
    stats = server.stats()
    assert stats["requests"] == ROWS
    rate = (ROWS - 1) / (stats["last"] - stats["first"]) * 60
    # The clock of one request of 60 may be off by some milliseconds at either end.
    assert rate <= 1500 * 1.02
    assert stats["most_in_flight"] <= 8


def test_killed_workers_lose_nothing(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(latency=0.1)
    rows = [f"q {i}" for i in range(120)]
    path = recipe(tmp_path / "ray", server, {}, rows)
    killed: list[int] = []
    is_over = threading.Event()

    def kill() -> None:
        while len(killed) < 2 and not is_over.is_set():
            found = [pid for pid in at_work() if pid not in killed]
            if found and server.stats()["answered"] > 10 * (len(killed) + 1):
                killed.append(found[0])
                os.kill(found[0], signal.SIGKILL)
            time.sleep(0.02)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    result = annotate(path)
    is_over.set()
    killer.join()
    assert result.exit_code == 0, result.output
    assert len(killed) == 2
    assert "a worker died, another takes its place" in result.output
    # Four requests of a worker may be in flight when it is killed.
    assert len(rows) <= server.stats()["requests"] <= len(rows) + 2 * 4
    local = recipe(tmp_path / "local", server, None, rows)
    assert annotate(local).exit_code == 0
    assert output(local) == output(path)


def test_the_dashboard_names_actors_and_blocks(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """Actors by the command and a number of the run; tasks are blocks, and not every answer."""
    # Workers tell Ray of their tasks once a second, and of the last ones not, as they are killed:
    # one of two workers does two of three blocks, and the first of them is told of.
    server.set(latency=0.5)
    named: set[str] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.05):
            named.update(ray.util.list_named_actors())

    looker = threading.Thread(target=look, daemon=True)
    looker.start()
    result = annotate(recipe(tmp_path / "ray", server, {"rows_per_block": 20}))
    is_over.set()
    looker.join()
    assert result.exit_code == 0, result.output
    runs = {name.partition(":")[0] for name in named}
    assert len(runs) == 1 and re.fullmatch("annotate [0-9a-f]{8}", *runs)
    actors = {name.partition(": ")[2] for name in named}
    assert actors == {"coordinator", "worker 1", "worker 2"}
    tasks: set[str] = set()
    until = time.monotonic() + 30
    blocks = {"rows 0-19", "rows 20-39", "rows 40-59"}
    while not tasks & blocks and time.monotonic() < until:
        time.sleep(0.2)
        tasks = {event["cat"].removeprefix("task::") for event in ray.timeline()}
    assert tasks & blocks and "build the scorer" in tasks
    assert not any("Coordinator" in name for name in tasks)


def test_errors_of_workers_are_those_of_the_command(
    server: judge_server.Running, tmp_path: Path
) -> None:
    server.set(key="secret")
    result = annotate(recipe(tmp_path / "a", server, {}))
    assert result.exit_code == 1
    assert "401" in result.output and "Traceback" not in result.output
    server.restore()
    result = annotate(recipe(tmp_path / "b", server, {}, mode="batch"))
    assert result.exit_code == 1
    assert "engine.kind: ray: `mode: batch`" in result.output
    result = annotate(recipe(tmp_path / "c", server, {"workers": 3}, max_concurrency=2))
    assert result.exit_code == 1
    assert "ual.annotate.judge.max_concurrency: 2: so many requests in flight" in result.output
    assert server.stats()["requests"] == 0


def test_a_local_model_on_workers(
    server: judge_server.Running, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    model = tiny.make_model(tmp_path_factory.mktemp("model"))
    columns = []
    for name, engine in (("local", None), ("ray", {"workers": 1})):
        path = recipe(tmp_path / name, server, engine, [f"Name {n} things." for n in range(16)])
        raw = yaml.safe_load(path.read_text())
        raw["base_model"] = str(model)
        raw["ual"]["annotate"]["estimator"] = "perplexity"
        raw["ual"]["annotate"]["perplexity"] = {"device": "cpu", "mapping": "minmax"}
        path.write_text(yaml.safe_dump(raw))
        result = annotate(path)
        assert result.exit_code == 0, result.output
        table = pq.read_table(path.parent / "out" / "train.parquet")
        columns.append(table.column("ual_uncertainty").to_numpy())
    assert np.unique(columns[0]).size > 8
    # Batches of another size round another way in the model.
    np.testing.assert_allclose(columns[1], columns[0], rtol=1e-4, atol=1e-5)


def pairs_recipe(folder: Path, url: str, engine: dict[str, Any] | None) -> Path:
    folder.mkdir()
    prompts = [f"question {n % 20}" for n in range(26)]
    prompts[11] = "question that is unratable"
    (folder / "p.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in prompts))
    server = {"model": "m", "base_url": url, "max_concurrency": 4}
    pairs: dict[str, Any] = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        "sampling": {"backend": "api", "n": 4, "api": server},
        "semantic": {"method": "none"},
        "factual": {"method": "judge"},
        "value": {"method": "judge", "principles": {"kind": "Be kind."}},
        "judge": server,
    }
    if engine is not None:
        pairs["engine"] = {"kind": "ray", "workers": 2, **engine}
    entries = [{"path": str(folder / "p.jsonl"), "type": "chat_template.default"}]
    recipe = {"base_model": "none", "rl": "dpo", "datasets": entries, "ual": {"pairs": pairs}}
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def test_pairs_are_those_of_the_local_engine(tmp_path: Path) -> None:
    """Responses, scores, pairs, stages and smoothing; equal prompts are sampled once."""
    outputs, asked, manifests, lines = [], [], [], []
    with sampling_server.running(n="ignored", latency=0.004) as url:
        for name, engine in (("local", None), ("ray", {"rows_per_block": 5})):
            path = pairs_recipe(tmp_path / name, url, engine)
            before = sampling_server.stats(url)["requests"]
            result = command("pairs", path, "--no-report")
            assert result.exit_code == 0, result.output
            asked.append(sampling_server.stats(url)["requests"] - before)
            out = tmp_path / name / "out"
            outputs.append([file_digest(out / f"{n}.parquet") for n in ("train", "responses")])
            manifests.append(json.loads((out / "manifest.json").read_text()))
            text = (out / "unscored.jsonl").read_text().splitlines()
            lines.append({(n["prompt_id"], n["answer"]) for n in map(json.loads, text)})
        path = tmp_path / "ray" / "r.yaml"
        assert (
            "6 blocks of up to 5 prompts, 2 workers" in command("pairs", path, "--dry-run").output
        )
        shutil.rmtree(tmp_path / "ray" / "out")
        assert command("pairs", path, "--no-report").exit_code == 0
        assert sampling_server.stats(url)["requests"] == sum(asked), "all is in the cache"
    assert outputs[0] == outputs[1]
    assert asked[0] == asked[1]
    assert {prompt for prompt, _ in lines[0]} == {11}
    assert lines[0] == lines[1]
    for name in ("counts", "failures", "estimator", "settings"):
        assert manifests[0][name] == manifests[1][name]
