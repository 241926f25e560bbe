"""What goes wrong on a cluster of two nodes: rows that kill, a node that dies, a useless judge."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import threading
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import ray
import yaml
from click.testing import Result
from judging_kit import command
from ray.cluster_utils import Cluster
from ray_workers import at_work

import judge_server

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_worker_niceness", "0")  # Else what runs beside this starves them.
        patch.setenv("PYTHONPATH", str(Path(judge_server.__file__).parent))  # hashed_rows
        for _ in range(2):
            made.add_node(num_cpus=2, object_store_memory=80 * 2**20, include_dashboard=False)
        ray.init(address=made.address, log_to_driver=False, logging_level="ERROR")
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def recipe(folder: Path, rows: list[str], engine: dict[str, Any] | None, **own: Any) -> Path:
    """Recipe and data in a folder of their own; rows are hashed unless `own` has a judge."""
    folder.mkdir()
    data = [{"instruction": "Say it.", "input": "", "output": text} for text in rows]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    annotate: dict[str, Any] = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        **own,
    }
    if "judge" not in own:
        annotate.update(estimator="custom", custom={"build": "hashed_rows:build"})
    if engine is not None:
        annotate["engine"] = {"kind": "ray", **engine}
    entries = [{"path": str(folder / "d.jsonl"), "type": "alpaca"}]
    path = folder / "r.yaml"
    ual = {"annotate": annotate}
    path.write_text(yaml.safe_dump({"base_model": "none", "datasets": entries, "ual": ual}))
    return path


def annotate(path: Path) -> Result:
    shutil.rmtree(path.parent / "out", ignore_errors=True)
    return command("annotate", path, "--no-report")


def uncertainty(path: Path) -> list[float | None]:
    return pq.read_table(path.parent / "out/train.parquet")["ual_uncertainty"].to_pylist()


def test_a_row_that_kills_is_its_own_outcome_and_no_other_rows(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A process that ends, and an error that nobody expects: what is lost are these two rows."""
    rows = [f"text {n}" for n in range(24)]
    calm = recipe(tmp_path / "calm", rows, None)
    assert annotate(calm).exit_code == 0
    rows[5], rows[17] = "poison", "broken"
    path = recipe(tmp_path / "bad", rows, {"workers": 3, "rows_per_block": 4})
    result = annotate(path)
    assert result.exit_code == 0, result.output
    assert "24 rows: 22 scored" in result.output
    assert "2 without an uncertainty, smoothed by the mean (failed: 2)" in result.output
    expected: list[float | None] = list(uncertainty(calm))
    expected[5] = expected[17] = None
    assert uncertainty(path) == expected
    lines = (path.parent / "out/unscored.jsonl").read_text().splitlines()
    told = {line["row"]: line for line in map(json.loads, lines)}
    assert set(told) == {5, 17}
    assert told[17]["answer"] == "RuntimeError: device-side assert: broken"
    assert {line["outcome"] for line in told.values()} == {"failed"}
    # Of each kind one line, however many blocks and deaths there were; counts are added up.
    assert result.output.count("rows were hashed") == 1
    assert "22 rows were hashed\n" in result.output, result.output
    assert result.output.count("another takes its place: The actor died") <= 2


def test_workers_that_only_die_end_the_run(cluster: Cluster, tmp_path: Path) -> None:
    path = recipe(tmp_path / "bad", ["broken"], {"workers": 1})
    result = annotate(path)
    assert result.exit_code == 1
    assert "no worker survives any of the rows: RuntimeError: device-side assert" in result.output
    assert not (path.parent / "out").exists()


def test_a_judge_of_no_use_is_asked_as_often_as_by_one_process(
    cluster: Cluster, tmp_path: Path
) -> None:
    """32 answers without a score are enough, from all workers together."""
    with judge_server.running(latency=0.3, rules=[["Say", "prose"]]) as server:
        judge = {"model": "m", "base_url": server.base_url, "max_concurrency": 4}
        rows = [f"text {n}" for n in range(400)]
        engine = {"workers": 4, "rows_per_block": 100}
        result = annotate(recipe(tmp_path / "r", rows, engine, judge=judge))
        assert result.exit_code == 1
        assert "none of 32 answers of m" in result.output
        # One of each worker is in flight, and of each one more may start before it hears. A
        # question that cannot be read is asked twice.
        assert server.stats()["requests"] <= 2 * (32 + 2 * 4)


def test_a_node_dies_and_a_worker_without_room_is_not_waited_for(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Its rows go to workers of the other node; the two without a place are not waited for."""
    rows = [f"text {n}" for n in range(160)]
    with judge_server.running(latency=0.1) as server:
        judge = {"model": "m", "base_url": server.base_url, "max_concurrency": 8}
        path = recipe(tmp_path / "r", rows, {"workers": 4, "rows_per_block": 10}, judge=judge)
        node = next(iter(cluster.worker_nodes))

        def kill() -> None:
            while server.stats()["answered"] < 24:
                time.sleep(0.05)
            raylet = node.all_processes["raylet"][0].process
            os.kill(raylet.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        result = annotate(path)
        killer.join()
        assert result.exit_code == 0, result.output
        requests = server.stats()["requests"]
        # Two in flight of each of the two workers that died.
        assert len(rows) <= requests <= len(rows) + 2 * 2
        local = recipe(tmp_path / "local", rows, None, judge=judge)
        assert annotate(local).exit_code == 0
    assert uncertainty(local) == uncertainty(path)


def test_a_worker_that_replaces_another_waits_for_a_server_that_has_answered(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A server that never answered is given up after three tries, within 3 s; this one has."""
    rows = [f"text {n}" for n in range(40)]
    with contextlib.ExitStack() as until_the_end:
        server = until_the_end.enter_context(judge_server.running(latency=0.1))
        judge = {"model": "m", "base_url": server.base_url, "max_concurrency": 2}
        path = recipe(tmp_path / "r", rows, {"workers": 1, "rows_per_block": 20}, judge=judge)
        answered: list[int] = []

        def restart() -> None:
            while server.stats()["answered"] < 8:
                time.sleep(0.05)
            (killed,) = at_work()
            answered.append(server.stats()["answered"])
            assert server.process is not None
            server.process.kill()
            os.kill(killed, signal.SIGKILL)
            while not [number for number in at_work() if number != killed]:
                time.sleep(0.05)
            time.sleep(4.0)
            port = urllib.parse.urlsplit(server.root).port
            again = judge_server.running(port=port or 0, latency=0.0)
            until_the_end.enter_context(again)

        restarter = threading.Thread(target=restart)
        restarter.start()
        result = annotate(path)
        restarter.join()
        assert result.exit_code == 0, result.output
        # What is asked of the one that comes back is what was in flight, and the rest.
        assert 0 <= server.stats()["requests"] - (len(rows) - answered[0]) <= 2
    assert "40 rows: 40 scored" in result.output
