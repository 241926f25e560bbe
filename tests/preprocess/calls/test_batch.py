"""`mode: batch` through the openai client, against `judge_server`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from judging_kit import estimate, plan, run, sample, samples, settings, stated

import judge_server
from axolotl_ual.errors import BackendError, LimitError
from axolotl_ual.preprocess.calls.budget import Budget
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.settings.ual import AnnotateConfig

BATCH: dict[str, Any] = {"mode": "batch", "batch_poll": 0.05}


class Crash(Exception):
    pass


class CrashingProgress(SilentProgress):
    """Ends the run where a process might die: when the n-th step has just been noted."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self._left = step

    def say(self, line: str) -> None:
        super().say(line)
        if not self._left:
            raise Crash
        self._left -= 1


def test_a_batch_gives_what_calls_give(server: judge_server.Running, tmp_path: Path) -> None:
    asked = samples(300)
    result, progress = estimate(server, tmp_path, asked, batch_requests=120, **BATCH)
    np.testing.assert_allclose(result.uncertainty, [stated(s) for s in asked], rtol=1e-6)
    stats = server.stats()
    # One question is asked at once, to learn the server's manners; the rest are 120 + 120 + 59.
    assert (stats["requests"], stats["batched"], stats["batches"]) == (1, 299, 3)
    assert (result.usage.requests, result.usage.cached) == (300, 0)
    assert result.usage.prompt_tokens > 0
    assert progress.done == 300
    assert not list((tmp_path / "batches").iterdir())
    again, _ = estimate(server, tmp_path, asked, **BATCH)
    assert again.usage.requests == 0
    # The same cache serves ordinary runs.
    estimate(server, tmp_path, asked)
    assert server.stats()["requests"] == 1


def test_a_batch_costs_half(server: judge_server.Running, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("judge-1: {input: 10, output: 20}\n")
    live, _ = estimate(server, tmp_path / "live", samples(101), prices=str(prices))
    told = []
    for more in ({}, BATCH):
        judge = settings(server, prices=str(prices), **more)
        annotate = {"output": "out", "judge": judge, "cache": str(tmp_path / "batch")}
        told.append(plan(AnnotateConfig.model_validate(annotate), samples(101)).cost_usd)
    assert told[0] and told[1] == pytest.approx(told[0] / 2)
    batch, _ = estimate(server, tmp_path / "batch", samples(101), prices=str(prices), **BATCH)
    assert live.usage.cost_usd is not None
    # One of 101 is asked at once, at the full price.
    assert batch.usage.cost_usd == pytest.approx(live.usage.cost_usd * 51 / 101, rel=0.01)


def test_single_failures_are_mended(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(fault_rate=0.02, faults=["500", "empty"])
    result, _ = estimate(server, tmp_path, samples(400), **BATCH)
    assert not result.failures
    stats = server.stats()
    assert stats["batches"] == 1
    assert 1 < stats["requests"] < 60


def test_a_batch_that_expires_is_gone_on_with(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(batch_share=0.6)
    result, progress = estimate(server, tmp_path, samples(300), **BATCH)
    assert not result.failures
    assert server.stats()["batches"] >= 2
    assert any("expired" in line for line in progress.lines)
    assert server.stats()["most_repeats"] == 1


def test_outcomes_without_a_score_are_kept(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(rules=[("<prose>", "prose"), ("<filter>", "filter")])
    asked = [*samples(60), sample("<prose>"), sample("<filter>")]
    for _ in range(2):
        result, _ = estimate(server, tmp_path, asked, **BATCH)
        assert result.failures == {"refused": 1, "unparsable": 1}
    assert server.stats()["requests"] + server.stats()["batched"] == 62
    estimate(server, tmp_path, asked, retry_failed=True, **BATCH)
    # Two rows, and a reminder to the one whose answer cannot be read.
    assert server.stats()["requests"] + server.stats()["batched"] == 65


def test_answers_without_a_score_are_asked_for_again_once(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """Thirty that are never scored: one at once and 29 in a batch, and the same once more."""
    server.set(rules=[("<prose>", "prose")])
    asked = [sample(f"<prose> {number}") for number in range(30)]
    with pytest.raises(BackendError, match="none of the rows"):
        estimate(server, tmp_path, asked, **BATCH)
    first = server.stats()
    with pytest.raises(BackendError, match="none of the rows"):
        estimate(server, tmp_path, asked, retry_failed=True, **BATCH)
    stats = server.stats()
    assert (first["batched"], stats["batched"], stats["batches"]) == (29, 58, 2)
    assert stats["requests"] == 2 * first["requests"]


@pytest.mark.parametrize("step", range(5))
def test_a_restart_between_any_two_steps_pays_nothing_twice(
    server: judge_server.Running, tmp_path: Path, step: int
) -> None:
    """Steps: upload, upload and start of two files, end of the first batch."""
    annotate = AnnotateConfig.model_validate(
        {
            "output": "out",
            "cache": str(tmp_path),
            "judge": settings(server, batch_requests=60, **BATCH),
        }
    )
    with pytest.raises(Crash):
        run(annotate, samples(121), progress=CrashingProgress(step))
    result, _ = run(annotate, samples(121))
    assert not result.failures
    stats = server.stats()
    assert (stats["requests"], stats["batched"], stats["batches"]) == (1, 120, 2)
    assert stats["most_repeats"] == 1


def test_a_batch_that_was_started_and_not_noted_is_found(
    server: judge_server.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from axolotl_ual.preprocess.calls.batch_files import BatchFiles, Job

    save = BatchFiles.save

    def crash_before_the_note(self: BatchFiles, job: Job) -> Job:
        if job.batch_id is not None:
            raise Crash
        return save(self, job)

    monkeypatch.setattr(BatchFiles, "save", crash_before_the_note)
    with pytest.raises(Crash):
        estimate(server, tmp_path, samples(100), **BATCH)
    monkeypatch.undo()
    result, _ = estimate(server, tmp_path, samples(100), **BATCH)
    assert not result.failures
    assert server.stats()["batches"] == 1


def test_a_batch_that_fails_says_why(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(batch_most=50)
    with pytest.raises(BackendError, match="too many requests in the file"):
        estimate(server, tmp_path, samples(100), **BATCH)
    result, _ = estimate(server, tmp_path, samples(100), batch_requests=50, **BATCH)
    assert not result.failures


def test_max_cost_holds_for_batches(server: judge_server.Running, tmp_path: Path) -> None:
    prices = tmp_path / "prices.yaml"
    prices.write_text("judge-1: {input: 1000, output: 1000}\n")
    with pytest.raises(LimitError):
        estimate(server, tmp_path, samples(300), Budget(60.0), prices=str(prices), **BATCH)
    served = server.stats()["batched"] + server.stats()["requests"]
    # About 0.70 USD a request at once and 0.35 in a batch.
    assert 30 < served < 60 / 0.35


def test_without_log_probabilities_a_batch_falls_back(
    server: judge_server.Running, tmp_path: Path
) -> None:
    server.set(logprobs=False)
    asked = samples(60)
    result, _ = estimate(server, tmp_path, asked, score="expected", **BATCH)
    np.testing.assert_allclose(result.uncertainty, [stated(s) for s in asked], rtol=1e-6)
    assert server.stats()["batched"] == 59


def test_answers_of_self_consistency_go_by_batches(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """The server gives one choice a request: 30 requests for all answers, and 30 for one more."""
    section = settings(server, answers=2, **BATCH)
    given = {"output": "o", "cache": str(tmp_path), "estimator": "self_consistency"}
    annotate = AnnotateConfig.model_validate({**given, "self_consistency": section})
    found, progress = run(annotate, samples(30))
    stats = server.stats()
    assert (stats["requests"], stats["batched"], stats["batches"]) == (2, 58, 2)
    assert found.usage.requests == 60 and progress.done == 30
    assert np.isfinite(found.uncertainty).all()
