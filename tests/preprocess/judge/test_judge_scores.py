"""Expected scores, repeats and panels, over real HTTP."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from judging_kit import (
    command,
    estimate,
    plan,
    run,
    sample,
    samples,
    settings,
    stated,
    stated_percent,
    write_recipe,
)

import judge_server
from axolotl_ual.columns import DISAGREEMENT, MASS, SPREAD
from axolotl_ual.errors import BackendError
from axolotl_ual.preprocess.calls.cache import Answer, Cache, Entry, KeyMaker
from axolotl_ual.preprocess.calls.outcomes import Outcome
from axolotl_ual.preprocess.data.sample import Sample
from axolotl_ual.preprocess.estimators.base import Estimation
from axolotl_ual.preprocess.judge.rubric import load_rubric
from axolotl_ual.preprocess.judge.uncertainty import Uncertainty
from axolotl_ual.settings.estimators import JudgeConfig
from axolotl_ual.settings.ual import AnnotateConfig


def digits(percent: int) -> tuple[int, int]:
    """The two digits that the server gives 0.75 and 0.20; the word `the` has the last 0.05."""
    low = min(percent // 11, 9)
    return low, min(low + 1, 9)


def test_the_expected_score_is_the_expectation(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """u = (0.75 low + 0.20 high) / (9 * 0.95), covered mass 0.95."""
    asked = samples(60)
    result, _ = estimate(server, tmp_path, asked, score="expected")
    pairs = [digits(stated_percent(s)) for s in asked]
    wanted = [(0.75 * low + 0.20 * high) / (9 * 0.95) for low, high in pairs]
    np.testing.assert_allclose(result.uncertainty, wanted, rtol=1e-6)
    np.testing.assert_allclose(result.columns[MASS], 0.95, rtol=1e-6)
    assert result.facts["score"] == "expected"


def test_an_expected_score_is_asked_for_with_one_digit(
    server: judge_server.Running, tmp_path: Path
) -> None:
    server.set(keep=True)
    estimate(server, tmp_path, samples(1), score="expected")
    (request,) = server.requests()
    assert (request["logprobs"], request["top_logprobs"]) == (True, 20)
    # A model that reasons first needs room before its digit.
    assert request["max_tokens"] == 64
    assert "response_format" not in request


@pytest.mark.parametrize("change", [{"logprobs": False}, {"refuses": ["logprobs"]}])
def test_without_log_probabilities_all_rows_are_verbalized(
    server: judge_server.Running, tmp_path: Path, change: dict[str, Any]
) -> None:
    server.set(**change)
    asked = samples(50)
    result, progress = estimate(server, tmp_path, asked, score="expected", max_concurrency=8)
    np.testing.assert_allclose(result.uncertainty, [stated(s) for s in asked], rtol=1e-6)
    assert result.facts["score"] == "verbalized"
    assert any("falls back to `score: verbalized`" in line for line in progress.lines)
    assert progress.done == 50
    sent = server.stats()["requests"]
    again, _ = estimate(server, tmp_path, asked, score="expected", max_concurrency=8)
    assert server.stats()["requests"] == sent
    assert again.facts["score"] == "verbalized"


def tasks(server: judge_server.Running) -> tuple[Uncertainty, Uncertainty]:
    """A question for a digit, and one for a number."""
    config = JudgeConfig.model_validate(settings(server))
    rubric = load_rubric("uncertainty-v1")
    return Uncertainty(config, rubric, "expected"), Uncertainty(config, rubric, "verbalized")


def kept(task: Uncertainty, asked: list[Sample], *answers: Answer) -> list[Entry]:
    keys = KeyMaker(task.identity)
    about = keys.description
    return [(keys.key(s), about, answer) for s, answer in zip(asked, answers, strict=False)]


def test_an_earlier_cache_without_log_probabilities_is_enough(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """It names no server, but keeps the digit that came without log-probabilities."""
    asked, stated_ = samples(30), Answer(Outcome.SCORED, 0.5, text="{}")
    expected, verbalized = tasks(server)
    with Cache(tmp_path) as cache:
        cache.add(kept(expected, asked, Answer(Outcome.NO_LOGPROBS, text="5")))
        cache.add(kept(verbalized, asked, *[stated_] * 30))
    annotate = {"output": "out", "judge": settings(server, score="expected")}
    config = AnnotateConfig.model_validate({**annotate, "cache": str(tmp_path)})
    assert plan(config, asked).requests == 0
    result, progress = run(config, asked)
    assert server.stats()["requests"] == 0
    np.testing.assert_array_equal(result.uncertainty, np.float32(0.5))
    (line,) = [line for line in progress.lines if "falls back" in line]
    assert "as the cache knows; --retry-failed asks it again" in line
    run(config, asked, retry_failed=True)
    assert server.stats()["requests"] == 30


def test_a_cache_with_log_probabilities_is_no_reason_to_fall_back(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """The same model once answered elsewhere without; here it gives them."""
    asked = samples(3)
    expected, verbalized = tasks(server)
    with Cache(tmp_path) as cache:
        answers = (Answer(Outcome.NO_LOGPROBS, text="5"), Answer(Outcome.SCORED, 0.25, 0.9))
        cache.add(kept(expected, asked, *answers))
        cache.add(kept(verbalized, asked, *[Answer(Outcome.SCORED, 0.5)] * 3))
    result, progress = estimate(server, tmp_path, asked, score="expected")
    assert result.facts["score"] == "expected"
    assert server.stats()["requests"] == 2 and not progress.lines


def test_stated_numbers_in_the_cache_are_told_before_others_are_asked_for(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """Of 10 rows 7 were asked for a number, perhaps because nobody wanted anything else."""
    asked = samples(10)
    estimate(server, tmp_path, asked[:7])
    annotate = {"output": "out", "judge": settings(server, score="expected")}
    config = AnnotateConfig.model_validate({**annotate, "cache": str(tmp_path)})
    said = "holds 7 of 10 answers as stated numbers, and none by log-probabilities"
    assert any(said in line for line in plan(config, asked).lines)
    result, progress = run(config, asked)
    assert said in progress.lines[0]
    assert (result.facts["score"], server.stats()["requests"]) == ("expected", 7 + 10)
    assert not run(config, asked)[1].lines


def test_repeats_are_kept_apart(server: judge_server.Running, tmp_path: Path) -> None:
    asked = samples(20)
    result, progress = estimate(server, tmp_path, asked, repeats=3, temperature=0.5)
    assert server.stats()["requests"] == 60
    assert progress.done == 20
    # The server says the same each time.
    np.testing.assert_allclose(result.uncertainty, [stated(s) for s in asked], rtol=1e-6)
    np.testing.assert_allclose(result.columns[SPREAD], 0.0, atol=1e-7)
    estimate(server, tmp_path, asked, repeats=4, temperature=0.5)
    assert server.stats()["requests"] == 80


def test_mean_and_spread_of_differing_repeats(server: judge_server.Running, tmp_path: Path) -> None:
    """Answers 10, 20 and 60: mean 0.3; deviations -20, -10, 30, so variance 1400 / 2 = 700."""
    server.set(by_seed={"0": 10, "1": 20, "2": 60})
    result, _ = estimate(server, tmp_path, samples(1), repeats=3, temperature=0.5)
    assert result.uncertainty[0] == pytest.approx(0.3)
    assert result.columns[SPREAD][0] == pytest.approx(np.sqrt(700) / 100)


def panel(
    servers: list[judge_server.Running],
    folder: Path,
    asked: list[Any],
    combine: str = "mean",
    **judge: Any,
) -> tuple[Estimation, Any]:
    judges = [
        settings(s, model=f"judge-{i}", max_retries=0, **judge) for i, s in enumerate(servers)
    ]
    annotate = {
        "output": "out",
        "estimator": "panel",
        "panel": {"judges": judges, "combine": combine},
        "cache": str(folder),
    }
    return run(AnnotateConfig.model_validate(annotate), asked)


def test_a_panel_writes_its_folder(server: judge_server.Running, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, server)
    raw = yaml.safe_load(recipe.read_text())
    judge = raw["ual"]["annotate"].pop("judge")
    raw["ual"]["annotate"] |= {"estimator": "panel", "panel": {"judges": [judge, judge]}}
    recipe.write_text(yaml.safe_dump(raw))
    result = command("annotate", recipe)
    assert result.exit_code == 0, result.output
    assert "| estimator | panel |" in (tmp_path / "out/README.md").read_text()


def test_a_panel_combines_its_judges(server: judge_server.Running, tmp_path: Path) -> None:
    """0.1, 0.2 and 0.9: mean 0.4, median 0.2, deviations -0.3, -0.2, 0.5: std sqrt(0.38 / 3)."""
    server.set(by_model={"judge-0": 10, "judge-1": 20, "judge-2": 90})
    mean, progress = panel([server] * 3, tmp_path, samples(5))
    np.testing.assert_allclose(mean.uncertainty, 0.4, rtol=1e-6)
    np.testing.assert_allclose(mean.columns[DISAGREEMENT], np.sqrt(0.38 / 3), rtol=1e-6)
    assert progress.done == 5
    median, _ = panel([server] * 3, tmp_path, samples(5), "median")
    np.testing.assert_allclose(median.uncertainty, 0.2, rtol=1e-6)
    assert server.stats()["requests"] == 15


def test_a_judge_that_fails_leaves_the_others(server: judge_server.Running, tmp_path: Path) -> None:
    with judge_server.running(rules=[("<bad>", "prose")]) as poor:
        asked = [sample("fine"), sample("<bad>")]
        result, _ = panel([server, poor], tmp_path, asked)
    assert not result.failures
    assert result.uncertainty[1] == pytest.approx(stated(asked[1]))
    assert np.isnan(result.columns[DISAGREEMENT]).tolist() == [False, True]
    assert result.facts["judges"][1]["failures"] == {"unparsable": 1}


def test_a_judge_that_ends_a_run_loses_nothing_of_the_others(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """A key expires while another judge has answers in flight, which are paid for and kept."""
    server.set(latency=1.0)
    with judge_server.running(latency=0.3) as other:
        expiry = threading.Timer(1.5, lambda: other.set(latency=0.3, key="another"))
        expiry.start()
        with pytest.raises(BackendError, match="does not accept"):
            panel([server, other], tmp_path, samples(40), max_concurrency=4)
        assert server.stats()["answered"] < 40
        server.set(latency=0.0)
        other.set(latency=0.0, key="")
        panel([server, other], tmp_path, samples(40), max_concurrency=4)
        # Each judge answers each row once.
        assert [one.stats()["answered"] for one in (server, other)] == [40, 40]
