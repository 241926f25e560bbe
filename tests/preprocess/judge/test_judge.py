"""`estimator: judge` over real HTTP, against `judge_server`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import Result
from judging_kit import command, estimate, sample, samples, stated, write_recipe

import judge_server
from axolotl_ual.errors import BackendError, ConfigError


def test_every_row_gets_what_the_judge_said(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(latency=0.02)
    asked = samples(200)
    result, progress = estimate(server, tmp_path, asked, max_concurrency=16)
    np.testing.assert_allclose(result.uncertainty, [stated(s) for s in asked], rtol=1e-6)
    assert (result.usage.requests, result.usage.cached, progress.done) == (200, 0, 200)
    # The server counts a token for 4 characters and one more: 5 for {"uncertainty": 37}.
    stated_100 = sum(stated(s) == 1 for s in asked)
    assert result.usage.completion_tokens == 200 * 5 + stated_100
    assert 1 < server.stats()["most_in_flight"] <= 16


def test_a_second_run_sends_nothing(server: judge_server.Running, tmp_path: Path) -> None:
    first, _ = estimate(server, tmp_path, samples(50))
    second, progress = estimate(server, tmp_path, samples(50), max_concurrency=3, timeout=9)
    assert server.stats()["requests"] == 50
    assert (second.usage.requests, second.usage.cached, progress.done) == (0, 50, 50)
    np.testing.assert_array_equal(first.uncertainty, second.uncertainty)


def test_the_cache_does_not_know_address_or_key(
    server: judge_server.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimate(server, tmp_path, samples(5))
    monkeypatch.setenv("OTHER_KEY", "another")
    with judge_server.running(key="another") as elsewhere:
        estimate(elsewhere, tmp_path, samples(5), api_key_env="OTHER_KEY")
        assert elsewhere.stats()["requests"] == 0


@pytest.mark.parametrize(
    "change", [{"model": "judge-2"}, {"temperature": 0.7}, {"max_sample_tokens": 500}]
)
def test_the_cache_knows_what_changes_an_answer(
    server: judge_server.Running, tmp_path: Path, change: dict[str, Any]
) -> None:
    estimate(server, tmp_path, samples(3))
    estimate(server, tmp_path, samples(3), **change)
    assert server.stats()["requests"] == 6


def test_equal_rows_are_asked_once(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(latency=0.05)
    asked = [sample("One?"), sample("Two?")] * 100
    result, progress = estimate(server, tmp_path, asked, max_concurrency=4)
    assert server.stats()["requests"] == 2
    assert progress.done == 200
    assert len(np.unique(result.uncertainty)) == 2


def test_rows_end_with_their_reason(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(
        rules=[
            ("<prose>", "prose"),
            ("<types>", "types"),
            ("<nan>", "nan"),
            ("<filter>", "filter"),
            ("<500>", "500"),
        ],
        context=20_000,
    )
    kinds = ["prose", "types", "nan", "filter", "500"]
    asked = [*samples(5), *(sample(f"<{kind}>") for kind in kinds), sample("long " * 4000)]
    result, _ = estimate(server, tmp_path, asked, max_retries=1)
    assert result.failures == {"refused": 1, "unparsable": 3, "too long": 1, "failed": 1}
    assert np.isnan(result.uncertainty[5:]).all()
    assert not np.isnan(result.uncertainty[:5]).any()


def test_only_rows_without_any_answer_are_asked_again(
    server: judge_server.Running, tmp_path: Path
) -> None:
    server.set(rules=[("<prose>", "prose"), ("<500>", "500")])
    asked = [sample("<prose>"), sample("<500>"), sample("fine")]
    estimate(server, tmp_path, asked, max_retries=0)
    server.restore()
    result, _ = estimate(server, tmp_path, asked, max_retries=0)
    assert server.stats()["requests"] == 1
    assert result.failures == {"unparsable": 1}


@pytest.mark.parametrize("fault", sorted(judge_server.UNANSWERED - {"hang"}))
def test_what_can_pass_is_tried_again(
    server: judge_server.Running, tmp_path: Path, fault: str
) -> None:
    server.set(faults=[fault], fault_rate=0.3, retry_after=0.05)
    asked = samples(30)
    result, _ = estimate(server, tmp_path, asked, max_retries=20)
    assert not result.failures
    np.testing.assert_allclose(result.uncertainty, [stated(s) for s in asked], rtol=1e-6)


def test_a_request_that_hangs_is_given_up(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(rules=[("<hang>", "hang")])
    result, _ = estimate(
        server, tmp_path, [*samples(3), sample("<hang>")], timeout=0.3, max_retries=0
    )
    assert result.failures == {"failed": 1}


@pytest.mark.parametrize(
    ("refused", "line"),
    [
        ("response_format", "no JSON schema"),
        ("max_tokens", "max_completion_tokens"),
        ("temperature", "no temperature"),
        ("system", "no system message"),
    ],
)
def test_a_parameter_that_the_server_does_not_take_is_left_out(
    server: judge_server.Running, tmp_path: Path, refused: str, line: str
) -> None:
    server.set(refuses=[refused], keep=True)
    result, progress = estimate(server, tmp_path, samples(100), max_concurrency=8)
    assert not result.failures
    assert line in progress.lines[-1]
    # The first request goes alone: a schema is given up in three steps, all else in one.
    steps = len(progress.lines)
    assert steps == (3 if refused == "response_format" else 1)
    assert server.stats()["requests"] == 100 + steps
    assert refused not in server.requests()[-1]


def test_the_constant_part_comes_first(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(keep=True)
    estimate(server, tmp_path, samples(2))
    first, second = (request["messages"] for request in server.requests())
    assert [m["role"] for m in first] == ["system", "user"]
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    dead = judge_server.Running("http://127.0.0.1:9", None)  # the discard port
    with pytest.raises(BackendError, match=r"cannot reach .*http://127.0.0.1:9/v1") as error:
        estimate(dead, tmp_path, samples(40))
    assert "base_url" in error.value.fix


def test_a_wrong_key(
    server: judge_server.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.set(key="right")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-secret")
    with pytest.raises(BackendError, match="does not accept the key in OPENAI_API_KEY") as error:
        estimate(server, tmp_path, samples(40))
    assert server.base_url in str(error.value)
    assert "sk-planted-secret" not in str(error.value)
    assert server.stats()["requests"] <= 40


def test_a_missing_key_is_told_before_anything_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    far = judge_server.Running("https://api.example.com", None)
    with pytest.raises(ConfigError, match="OPENAI_API_KEY is not set"):
        estimate(far, tmp_path, samples(1))


def test_a_judge_that_only_talks(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(rules=[("SAMPLE", "prose")])
    with pytest.raises(BackendError, match="I would say about 80") as error:
        estimate(server, tmp_path, samples(400))
    assert "none of 32 answers" in str(error.value)
    # Of 400 rows: 32 answers, those in flight, and whatever a busy machine let time out.
    assert server.stats()["requests"] <= 2 * 32 + 16


def test_a_server_that_refuses_every_request(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(refuses=["messages"])
    with pytest.raises(BackendError, match="refuses every request"):
        estimate(server, tmp_path, samples(100))


def annotate(folder: Path, server: judge_server.Running, **judge: Any) -> Result:
    return command("annotate", write_recipe(folder, server, **judge))


def test_annotate_through_the_command_line(server: judge_server.Running, tmp_path: Path) -> None:
    assert annotate(tmp_path, server).exit_code == 0
    again = annotate(tmp_path, server)
    assert "0 requests sent, 30 answers from the cache" in again.output
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["estimator"]["model"] == "m"
    assert manifest["estimator"]["rubric"] == "uncertainty-v1"


def test_a_planted_key_is_in_no_file_and_no_output(
    server: judge_server.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server repeats the key in answers and errors; nothing of ours may."""
    key = "sk-planted-0123456789"
    monkeypatch.setenv("JUDGE_KEY", key)
    server.set(key=key, rules=[("q 1\n", key), ("q 2\n", "500")])
    good = annotate(tmp_path, server, api_key_env="JUDGE_KEY", max_retries=0)
    assert good.exit_code == 0
    server.set(key="another")
    (tmp_path / "cache").rename(tmp_path / "cache-1")
    bad = annotate(tmp_path, server, api_key_env="JUDGE_KEY")
    assert bad.exit_code == 1
    assert key not in good.output + bad.output
    files = [Path(at) / name for at, _, names in os.walk(tmp_path) for name in names]
    assert len(files) >= 5
    assert not [path for path in files if key.encode() in path.read_bytes()]


@pytest.mark.slow
def test_more_connections_than_open_files_are_allowed(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """200 in flight under a soft limit of 100 open files, in a process of its own."""
    server.set(latency=0.5)
    recipe = write_recipe(tmp_path, server, rows=600, max_concurrency=200)
    script = (
        "import resource as r; hard = r.getrlimit(r.RLIMIT_NOFILE)[1];"
        "r.setrlimit(r.RLIMIT_NOFILE, (100, hard));"
        "from axolotl_ual.preprocess.cli import main; main()"
    )
    run = subprocess.run([sys.executable, "-c", script, "annotate", str(recipe)], timeout=120)
    assert run.returncode == 0
    assert server.stats()["most_in_flight"] > 100
