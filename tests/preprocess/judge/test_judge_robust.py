"""Faults, outages and kills: no row is lost, none is scored from garbage, none is paid twice."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
from judging_kit import estimate, kill_often, samples, stated

import judge_server
from axolotl_ual.errors import BackendError


def test_every_row_has_an_outcome_at_thirty_per_cent_of_faults(
    server: judge_server.Running, tmp_path: Path
) -> None:
    server.set(fault_rate=0.3, retry_after=0.05, latency=0.005)
    asked = samples(600)
    result, progress = estimate(
        server, tmp_path, asked, max_concurrency=32, timeout=0.4, max_retries=12
    )
    assert progress.done == 600
    scored = ~np.isnan(result.uncertainty)
    truth = np.array([stated(s) for s in asked])
    np.testing.assert_allclose(result.uncertainty[scored], truth[scored], rtol=1e-6)
    assert sum(result.failures.values()) == 600 - scored.sum()
    # Prose, NaN, a wrong type and a filter are answers; all else is tried again.
    assert set(result.failures) == {"refused", "unparsable"}
    # A filter takes 2.5 %; what cannot be read is asked once more.
    assert 0.9 < scored.mean() < 0.99


def test_concurrency_recovers_after_faults(server: judge_server.Running, tmp_path: Path) -> None:
    # One latency throughout: where it rises, concurrency is rightly held back.
    server.set(fault_rate=0.9, faults=["500", "503", "drop"], latency=0.05)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(
            estimate(server, tmp_path, samples(3000), max_concurrency=32, max_retries=50)
        )
    )
    thread.start()
    while server.stats()["requests"] < 250:
        time.sleep(0.05)
    server.restore()
    server.set(latency=0.05)
    thread.join()
    assert not results[0][0].failures
    # Of 32, as far as a busy machine gets; where faults go on it is a handful.
    assert server.stats()["most_in_flight"] > 16


def test_an_outage_is_waited_for(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(latency=0.01)
    results = []
    thread = threading.Thread(
        target=lambda: results.append(
            estimate(server, tmp_path, samples(1500), max_concurrency=8, max_retries=30)
        )
    )
    thread.start()
    time.sleep(0.5)
    server.set(fault_rate=1.0, faults=["503"])
    time.sleep(5.0)
    server.set(fault_rate=0.0)
    thread.join()
    result, progress = results[0]
    assert not result.failures
    assert any("nothing but errors (HTTP 503" in line for line in progress.lines)
    assert progress.lines[-1].endswith("answers again")


def test_a_server_that_only_fails_ends_the_run_and_keeps_what_was_had(
    server: judge_server.Running, tmp_path: Path
) -> None:
    estimate(server, tmp_path, samples(20))
    server.set(fault_rate=1.0, faults=["503"])
    with pytest.raises(BackendError, match="nothing but errors") as error:
        estimate(server, tmp_path, samples(100), patience=1.0, max_retries=50)
    assert "HTTP 503" in str(error.value)
    server.restore()
    result, _ = estimate(server, tmp_path, samples(100))
    assert server.stats()["requests"] == 80
    assert not result.failures


@pytest.mark.parametrize("limit", [{"requests_per_minute": 6000}, {"tokens_per_minute": 4_000_000}])
def test_a_configured_limit_is_never_passed(
    server: judge_server.Running, tmp_path: Path, limit: dict[str, float]
) -> None:
    """100 requests of about 708 tokens are allowed in a second; 4,000,000 a minute are 94."""
    server.set(rate=102.0, burst=25.0, latency=0.02)
    result, _ = estimate(server, tmp_path, samples(300), **limit)
    assert not result.failures
    assert server.stats()["by_status"] == {"200": 300}


@pytest.mark.slow
def test_kills_lose_nothing_and_pay_nothing_twice(tmp_path: Path) -> None:
    found = kill_often(tmp_path, kills=10, rows=700, in_flight=8)
    assert found.same
    assert found.in_flight <= 8
    assert found.requests - found.rows <= found.kills * found.in_flight
