"""Cost, --max-cost, --retry-failed, the file of unscored answers and --dry-run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from judging_kit import command, estimate, sample, samples, write_recipe

import judge_server
from axolotl_ual.errors import ConfigError, LimitError
from axolotl_ual.preprocess.calls.budget import Budget
from axolotl_ual.preprocess.models.server.prices import find_price


@pytest.fixture
def prices(tmp_path: Path) -> str:
    path = tmp_path / "prices.yaml"
    path.write_text("judge-1: {input: 1000, output: 2000}\nm: {input: 1000, output: 2000}\n")
    return str(path)


def test_prices_of_public_models_are_known() -> None:
    """gpt-4o at OpenAI: 2.5 and 10 USD a million, half for cached prompts."""
    price = find_price("gpt-4o", "https://api.openai.com/v1", None, "judge")
    assert price is not None
    assert price.cost(1_000_000, 100_000, cached=400_000) == pytest.approx(1.5 + 0.5 + 1.0)
    assert find_price("gpt-4o", "http://localhost:8000/v1", None, "judge") is None


def test_the_cost_is_what_the_tokens_cost(
    server: judge_server.Running, tmp_path: Path, prices: str
) -> None:
    result, _ = estimate(server, tmp_path, samples(10), prices=prices)
    usage = result.usage
    wanted = usage.prompt_tokens * 1e-3 + usage.completion_tokens * 2e-3
    assert usage.cost_usd == pytest.approx(wanted)
    again, _ = estimate(server, tmp_path, samples(10), prices=prices)
    assert again.usage.cost_usd == 0


def test_max_cost_is_not_passed_and_loses_nothing(
    server: judge_server.Running, tmp_path: Path, prices: str
) -> None:
    server.set(latency=0.02)
    with pytest.raises(LimitError, match="stopped before --max-cost"):
        estimate(server, tmp_path, samples(200), Budget(30.0), prices=prices)
    served = server.stats()["requests"]
    result, _ = estimate(server, tmp_path, samples(200), prices=prices)
    assert server.stats()["requests"] == 200
    paid = 30.0 - result.usage.cost_usd / (200 - served) * served
    one_request = result.usage.cost_usd / (200 - served)
    # A request is allowed for with a token for each byte of its prompt and a full answer.
    assert 0 <= paid < 6 * one_request


def test_max_cost_needs_a_price(server: judge_server.Running, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no price is known for judge-1"):
        estimate(server, tmp_path, samples(1), Budget(1.0))
    assert server.stats()["requests"] == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("m: {input: -1, output: 2}", "m.input"),
        ("- m", "not a mapping"),
        ("m: [", "cannot be read"),
    ],
)
def test_a_wrong_price_list_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"^ual\.pairs\.judge\.prices: .*{problem}"):
        find_price("m", "http://localhost/v1", str(path), "ual.pairs.judge")


def test_retry_failed_asks_again(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(rules=[("<bad>", "prose")])
    asked = [sample("<bad>"), sample("fine")]
    estimate(server, tmp_path, asked)
    server.restore()
    result, _ = estimate(server, tmp_path, asked, retry_failed=True)
    assert server.stats()["requests"] == 1
    assert not result.failures


def test_more_tokens_ask_again_about_answers_that_were_cut(
    server: judge_server.Running, tmp_path: Path
) -> None:
    server.set(rules=[("<cut>", "length")])
    asked = [sample("<cut>"), sample("fine")]
    first, progress = estimate(server, tmp_path, asked)
    assert first.failures == {"cut by max_tokens": 1}
    assert any("max_tokens: 64" in line for line in progress.lines)
    server.restore()
    second, _ = estimate(server, tmp_path, asked, max_tokens=500)
    assert server.stats()["requests"] == 1
    assert not second.failures


def test_raw_answers_without_a_score_are_kept(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(rules=[("q 3\n", "prose"), ("q 7\n", "filter")])
    recipe = write_recipe(tmp_path, server)
    for _ in range(2):  # the second run has them from the cache
        result = command("annotate", recipe)
        assert result.exit_code == 0, result.output
        lines = (tmp_path / "out/unscored.jsonl").read_text().splitlines()
        found = {line["row"]: line for line in map(json.loads, lines)}
        assert {row: line["outcome"] for row, line in found.items()} == {
            3: "unparsable",
            7: "refused",
        }
        assert found[3]["answer"] == "I would say about 80 out of 100."
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["failures"] == {"refused": 1, "unparsable": 1}


def test_a_dry_run_tells_the_price_and_sends_nothing(
    server: judge_server.Running, tmp_path: Path, prices: str
) -> None:
    recipe = write_recipe(tmp_path, server, prices=prices)
    result = command("annotate", recipe, "--dry-run")
    assert result.exit_code == 0, result.output
    assert "30 requests" in result.output
    assert "USD" in result.output
    assert server.stats()["requests"] == 0
    command("annotate", recipe)
    usage = json.loads((tmp_path / "out/manifest.json").read_text())["usage"]
    told = float(result.output.split("about ")[-1].split(" USD")[0])
    assert told == pytest.approx(usage["cost_usd"], rel=0.1)
    assert "0 requests" in command("annotate", recipe, "--dry-run").output
