"""One budget for all: --max-cost and prices of self-consistency, ensembles and lost answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sampling_server
from judging_kit import plan as plan_of
from judging_kit import run, sample, samples, settings

import judge_server
from axolotl_ual.errors import ConfigError, LimitError
from axolotl_ual.preprocess.calls.budget import Budget
from axolotl_ual.preprocess.estimators.base import Estimation
from axolotl_ual.preprocess.models.server.client import Server
from axolotl_ual.preprocess.models.server.dialect import Chat
from axolotl_ual.preprocess.models.server.endpoint import Endpoint
from axolotl_ual.preprocess.models.server.prices import Price
from axolotl_ual.preprocess.models.server.replies import Completion
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.settings.server import ServerConfig
from axolotl_ual.settings.ual import AnnotateConfig

N = 4
REQUEST = 5 * 0.001 + 3 * N * 0.002
"""The sampling server counts 5 tokens for a prompt and 3 for each choice."""


@pytest.fixture
def prices(tmp_path: Path) -> str:
    path = tmp_path / "prices.yaml"
    path.write_text("".join(f"{m}: {{input: 1000, output: 2000}}\n" for m in ("m", "judge-1")))
    return str(path)


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    with sampling_server.running(latency=0.01) as url:
        yield url


def charged(url: str) -> float:
    """What the sampling server charges for all it was asked so far."""
    return REQUEST * len(sampling_server.stats(url)["bodies"])


def self_consistency(
    url: str, folder: Path, prices: str | None, max_tokens: int = 10
) -> AnnotateConfig:
    section = {"model": "m", "base_url": url, "answers": N, "prices": prices}
    return AnnotateConfig.model_validate(
        {
            "output": "out",
            "estimator": "self_consistency",
            "self_consistency": {**section, "max_tokens": max_tokens},
            "cache": str(folder),
        }
    )


ASKED = [sample(f"Question {number}?") for number in range(20)]


class _Status(SilentProgress):
    """Keeps the latest status."""

    shown = ""

    def status(self, text: str) -> None:
        self.shown = text


def test_self_consistency_keeps_to_the_limit(base_url: str, tmp_path: Path, prices: str) -> None:
    annotate, budget = self_consistency(base_url, tmp_path / "a", prices), Budget(0.4)
    before = charged(base_url)
    with pytest.raises(LimitError, match="stopped before --max-cost"):
        run(annotate, ASKED, budget)
    spent = charged(base_url) - before
    # A request costs 0.005 + 0.024; the most is 0.001 (38 + 64 bytes or more) + 0.08.
    assert 0.2 < spent <= 0.4 and budget.spent == pytest.approx(spent)
    progress = _Status()
    found, _ = run(annotate, ASKED, Budget(10.0), progress)
    assert charged(base_url) - before == pytest.approx(20 * REQUEST)
    assert found.usage.cost_usd == pytest.approx(20 * REQUEST - spent)
    rest = f"${found.usage.cost_usd:.4f}"
    assert progress.shown == f"{rest} of about {rest}"
    whole, _ = run(self_consistency(base_url, tmp_path / "b", prices), ASKED)
    np.testing.assert_array_equal(whole.uncertainty, found.uncertainty)


def test_requests_in_flight_count_with_all_of_their_answers(base_url: str, tmp_path: Path) -> None:
    """Where prompts are free and answers full, each request costs the most: 12 * 0.002 USD."""
    free = tmp_path / "free.yaml"
    free.write_text("m: {input: 0, output: 2000}\n")
    annotate = self_consistency(base_url, tmp_path, str(free), max_tokens=3)
    before = len(sampling_server.stats(base_url)["bodies"])
    with pytest.raises(LimitError, match=r"0\.0960 of 0\.1000 USD spent, .* may cost 0\.0240"):
        run(annotate, ASKED, Budget(0.1))
    assert len(sampling_server.stats(base_url)["bodies"]) - before == 4


def test_self_consistency_tells_its_price(base_url: str, tmp_path: Path, prices: str) -> None:
    plan = plan_of(self_consistency(base_url, tmp_path, prices), ASKED)
    # 10 questions of 11 bytes and 10 of 12: 57 tokens; 20 * 4 answers of 5 or 10 tokens.
    assert plan.requests == 20
    assert plan.cost_usd == pytest.approx(57 * 0.001 + 400 * 0.002)
    assert plan.most_usd == pytest.approx(57 * 0.001 + 800 * 0.002)
    unknown = plan_of(self_consistency(base_url, tmp_path, None), ASKED)
    assert unknown.cost_usd is None and any("no price is known" in line for line in unknown.lines)


def ensemble(server: judge_server.Running, folder: Path, prices: str) -> AnnotateConfig:
    judge = settings(server, prices=prices)
    members = {"judge": 1, "panel": 1, "self_consistency": 1}
    return AnnotateConfig.model_validate(
        {
            "output": "out",
            "cache": str(folder),
            "estimator": "ensemble",
            "ensemble": {"members": members},
            "judge": judge,
            "panel": {"judges": [judge, {**judge, "model": "m"}]},
            "self_consistency": {**judge, "answers": 2, "max_tokens": 16},
        }
    )


def test_the_members_of_an_ensemble_share_a_budget(
    server: judge_server.Running, tmp_path: Path, prices: str
) -> None:
    server.set(keep=True, latency=0.005)
    annotate, asked = ensemble(server, tmp_path / "a", prices), samples(12)

    def estimate(limit: float | None) -> Estimation:
        return run(annotate, asked, Budget(limit))[0]

    # The judge takes some 8.5 USD, the panel as much, because one of its two judges is that one,
    # and the answers well below 1. The most for one rating is some 3.4 USD.
    before = 0.0
    for limit in (6.0, 10.0):
        with pytest.raises(LimitError):
            estimate(limit)
        after = charged_by(server)
        assert before < after <= before + limit
        before = after
    found = estimate(25.0)
    total = charged_by(server)
    assert found.usage.cost_usd == pytest.approx(total - before)
    assert before + 25.0 > total > 16.0
    stats = server.stats()
    # 12 questions to each of two models and 12 instructions twice, as this server ignores `n`.
    assert stats["answered"] == 12 * 2 + 12 * 2
    again, _ = run(ensemble(server, tmp_path / "b", prices), asked)
    np.testing.assert_array_equal(again.uncertainty, found.uncertainty)


def charged_by(server: judge_server.Running) -> float:
    """What the judge server charges: a quarter of the characters, and one for each answer."""
    total = 0.0
    for body in server.requests():
        answer = f'{{"uncertainty": {judge_server.score_of(body["messages"])}}}'
        prompt = sum(len(message["content"]) for message in body["messages"]) // 4
        total += prompt * 0.001 + (len(answer) // 4 + 1) * 0.002
    return total


def test_an_ensemble_without_a_price_pays_for_no_member(
    server: judge_server.Running, tmp_path: Path, prices: str
) -> None:
    annotate = ensemble(server, tmp_path, prices)
    assert annotate.self_consistency is not None
    unpriced = annotate.self_consistency.model_copy(update={"prices": None})
    annotate = annotate.model_copy(update={"self_consistency": unpriced})
    with pytest.raises(ConfigError, match=r"ual\.annotate\.self_consistency\.prices"):
        run(annotate, samples(3), Budget(100.0))
    assert server.stats()["requests"] == 0


def test_answers_that_never_arrive_are_allowed_for(
    server: judge_server.Running, tmp_path: Path, prices: str
) -> None:
    """A server may charge for what it sent too late: each try counts as the most."""
    server.set(rules=[("Question 1?", "hang")])
    judge = settings(server, prices=prices, timeout=0.2, max_retries=1)
    annotate = AnnotateConfig.model_validate(
        {"output": "out", "judge": judge, "cache": str(tmp_path)}
    )
    budget = Budget(100.0)
    found, progress = run(annotate, samples(2), budget)
    assert found.failures == {"failed": 1}
    assert found.usage.cost_usd == pytest.approx(budget.spent)
    # Two tries of some 1,800 bytes, and the one that was answered, at a quarter of that.
    assert budget.lost > 4 * budget.spent > 0
    assert any(f"up to {budget.lost:.4f} USD more" in line for line in progress.lines)
    with pytest.raises(LimitError, match="for lost answers"):
        run(annotate, samples(2), Budget(budget.lost * 0.6))


def test_the_most_that_a_request_can_cost() -> None:
    """Two characters of three bytes: a tokenizer makes at most six tokens of them."""
    price = Price(input=1.0, output=10.0, cached_input=2.0)
    config, server = ServerConfig(model="m"), Server("http://localhost/v1", "KEY", None)
    priced = Endpoint(config, server, price)
    chat = Chat([{"role": "user", "content": "漢字"}], max_tokens=7, temperature=1.0, n=3)
    most = priced.highest_cost(chat)
    assert most >= price.cost(6, 21) and most >= price.cost(6, 21, cached=6)
    wider = replace(chat, n=4)
    assert priced.highest_cost(wider) - most == pytest.approx(7 * 10.0)
    more = replace(chat, messages=[{"role": "user", "content": "漢字漢字"}])
    assert priced.highest_cost(more) - most == pytest.approx(6 * 2.0)
    assert Endpoint(config, server, None).highest_cost(chat) == 0.0
    assert priced.cost(Completion("a", prompt_tokens=2, completion_tokens=1), most) == 12.0
    # A server that does not count tokens.
    assert priced.cost(Completion("a"), most) == most
