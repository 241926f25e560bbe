"""Prices, --dry-run and --max-cost of `pairs` and `consistency`.

The sampling server counts 5 prompt tokens for a request and 3 completion tokens for a choice; a
prompt token costs 0.001 USD here and a completion token 0.002 USD.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sampling_server
import yaml
from judging_kit import command, session

from axolotl_ual.columns import Manifest
from axolotl_ual.preprocess.sampling.build import build_sampler
from axolotl_ual.settings.ual import parse_ual

PROMPTS = 6
N = 4
CHOICE, PROMPT = 3 * 0.002, 5 * 0.001


@pytest.fixture
def prices(tmp_path: Path) -> str:
    path = tmp_path / "prices.yaml"
    path.write_text("".join(f"{m}: {{input: 1000, output: 2000}}\n" for m in ("m", "judge-1")))
    return str(path)


def write_recipe(folder: Path, url: str, prices: str | None, **pairs: Any) -> Path:
    """Sampled from a server and judged by it; nothing on this machine."""
    folder.mkdir(exist_ok=True)
    data = folder / "prompts.jsonl"
    data.write_text("".join(f'{{"prompt": "question {n}"}}\n' for n in range(PROMPTS)))
    server = {"model": "m", "base_url": url, "prices": prices, "max_concurrency": 4}
    section = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        "sampling": {"backend": "api", "n": N, "max_tokens": 10, "api": server},
        "semantic": {"method": "none"},
        "factual": {"method": "judge"},
        "value": {"method": "judge", "repeats": 2, "principles": {"kind": "Be kind."}},
        "judge": {**server, "max_tokens": 20},
        **pairs,
    }
    recipe = {
        "base_model": "none",
        "rl": "dpo",
        "datasets": [{"path": str(data), "type": "chat_template.default"}],
        "ual": {"pairs": section},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def charged(url: str, manner: str = "honoured") -> float:
    """What the server charges for all it was asked so far."""
    bodies = sampling_server.stats(url)["bodies"]
    choices = [body.get("n", 1) if manner == "honoured" else 1 for body in bodies]
    return PROMPT * len(bodies) + CHOICE * sum(choices)


def written(folder: Path) -> list[bytes]:
    return [(folder / "out" / name).read_bytes() for name in ("train.parquet", "responses.parquet")]


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["honoured", "ignored"])
def test_pairs_stop_before_the_limit_and_go_on_where_they_were(
    tmp_path: Path, prices: str, manner: str
) -> None:
    with sampling_server.running(n=manner, latency=0.005) as url:
        recipe = write_recipe(tmp_path / "limited", url, prices)
        # The most for a request of four choices: 0.001 (39 bytes of message + 64) + 0.002 * 40 =
        # 0.183. So 0.25 is used up while sampling, and 1.0 does not buy one rating.
        before = 0.0
        for limit in (0.25, 1.0):
            stopped = command("pairs", recipe, "--max-cost", str(limit))
            assert stopped.exit_code == 1
            assert f"of {limit:.4f} USD spent" in stopped.output
            after = charged(url, manner)
            assert before < after <= before + limit
            before = after
        sampling = PROMPTS * (PROMPT + N * CHOICE)
        if manner == "ignored":
            sampling += PROMPTS * (N - 1) * PROMPT
        assert before == pytest.approx(sampling)
        partly = command("pairs", recipe, "--max-cost", "2.5")
        assert partly.exit_code == 1 and before < charged(url, manner) <= before + 2.5
        assert not (tmp_path / "limited/out").exists()
        before = charged(url, manner)
        finished = command("pairs", recipe, "--max-cost", "50")
        assert finished.exit_code == 0, finished.output
        report = sampling_server.stats(url)
        # A judge at temperature 0 gets the same request for both repeats of a principle.
        assert report["requests"] - report["distinct"] == ratings(recipe.parent)
        assert Manifest.read(tmp_path / "limited/out").usage.cost_usd == pytest.approx(
            charged(url, manner) - before
        )
        whole = command("pairs", write_recipe(tmp_path / "whole", url, prices))
        assert whole.exit_code == 0, whole.output
    assert written(tmp_path / "limited") == written(tmp_path / "whole")
    cost = Manifest.read(tmp_path / "whole/out").usage.cost_usd
    assert f"{cost:.4f} USD" in whole.output
    assert f"${sampling:.4f} of about ${sampling:.4f}" in whole.output


def ratings(folder: Path) -> int:
    """Distinct responses: each has one question about claims and two about the principle."""
    import pyarrow.parquet as pq

    rows = pq.read_table(folder / "out/responses.parquet").to_pylist()
    return len({(row["prompt_id"], row["response"]) for row in rows})


@pytest.mark.slow
def test_a_dry_run_of_pairs_tells_the_price(tmp_path: Path, prices: str) -> None:
    with sampling_server.running() as url:
        recipe = write_recipe(tmp_path / "a", url, prices, factual={"method": "none"})
        before = command("pairs", recipe, "--dry-run").output
        assert sampling_server.stats(url)["bodies"] == []
        done = command("pairs", recipe)
        bodies = sampling_server.stats(url)["bodies"]
        after = command("pairs", recipe, "--dry-run").output
        assert len(sampling_server.stats(url)["bodies"]) == len(bodies)
    # 6 prompts of 10 bytes, each once for all choices: 15 tokens. 24 responses of 5 tokens, which
    # is half of max_tokens, or of 10.
    assert "to ask, in 6 requests\n" in before
    assert "about 15 prompt and 120 completion tokens" in before
    assert "about 0.2550 USD; 0.4950 USD if every answer fills max_tokens" in before
    # A rating shows the prompt and the response, at a digit; twice for each response.
    told = next(b["messages"] for b in bodies if "one digit" in b["messages"][0]["content"])
    said = told[1]["content"].split("RESPONSE role=assistant\n")[1].split("\n")[0]
    frame = sum(len(m["content"].encode()) for m in told) - len(said)
    prompt, most_prompt = 12 * N * (frame + 20) // 4, 12 * N * (frame + 40) // 4
    likely, most = prompt * 0.001 + 48 * 0.002, most_prompt * 0.001 + 48 * 20 * 0.002
    assert f"value: 48 requests to m at {url} at most" in before
    assert f"about {prompt:,} prompt and 48 completion tokens" in before
    assert f"about {likely:.2f} USD; {most:.2f} USD if" in before
    assert f"in all about {0.255 + likely:.2f} USD; {0.495 + most:.2f} USD if" in before
    assert done.exit_code == 0
    assert "0 of 6 distinct prompts" in after and "value: 0 requests to m" in after
    assert "in all" not in after


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["honoured", "ignored"])
def test_what_was_sampled_makes_the_estimate_of_the_rest(
    tmp_path: Path, prices: str, manner: str
) -> None:
    with sampling_server.running(n=manner) as url:
        recipe = write_recipe(tmp_path / "a", url, prices, value={"method": "none"})
        command("pairs", recipe, "--limit", "2")
        output = command("pairs", recipe, "--dry-run").output
    # The server says 3 tokens a response: 4 prompts of 10 bytes with 4 responses are left.
    requests, prompt = (4, 10) if manner == "honoured" else (16, 40)
    assert f"to ask, in {requests} requests" in output
    assert ("one response a request" in output) == (manner == "ignored")
    assert f"about {prompt} prompt and 48 completion tokens" in output
    assert "responses taken to be as long as those in the cache" in output
    assert "factual: 16 requests to m" in output


@pytest.mark.slow
def test_the_price_of_given_responses(tmp_path: Path, prices: str) -> None:
    rows = [{"prompt": "what ?", "response": text} for text in ("yes m1", "no", "no")]
    responses = tmp_path / "responses.jsonl"
    responses.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with sampling_server.running() as url:
        recipe = write_recipe(tmp_path / "a", url, prices, value={"method": "none"})
        output = command("pairs", recipe, "--from-responses", responses, "--dry-run").output
        command("pairs", recipe, "--from-responses", responses)
        bodies = sampling_server.stats(url)["bodies"]
    size = sum(len(m["content"].encode()) for body in bodies for m in body["messages"])
    # Claims of 10 tokens and twice a response of 6 / 4 and 2 / 4 tokens: 13 + 11.
    likely, most = size // 4 * 0.001 + 24 * 0.002, size // 4 * 0.001 + 2 * 20 * 0.002
    assert "factual: 2 requests to m" in output and "and 24 completion tokens" in output
    assert f"about {likely:.4f} USD; {most:.4f} USD" in output


@pytest.mark.slow
def test_pairs_need_prices_before_anything_is_sent(tmp_path: Path, prices: str) -> None:
    with sampling_server.running() as url:
        bare = {"model": "m", "base_url": url}
        for name, pairs in (
            ("sampling.api", {"sampling": {"backend": "api", "n": N, "api": bare}}),
            ("judge", {"judge": bare}),
        ):
            recipe = write_recipe(tmp_path / "a", url, prices, **pairs)
            result = command("pairs", recipe, "--max-cost", "9")
            assert result.exit_code == 1
            assert f"no price is known for m at {url}" in result.output
            assert f"name the file as ual.pairs.{name}.prices" in result.output
            plan = command("pairs", recipe, "--dry-run").output
            assert "no price is known" in plan and "in all about" not in plan
        assert sampling_server.stats(url)["bodies"] == []
        assert command("pairs", recipe).exit_code == 0
        assert Manifest.read(tmp_path / "a/out").usage.cost_usd is None


@pytest.mark.slow
def test_consistency_keeps_to_the_limit(tmp_path: Path, prices: str) -> None:
    rows = [{"prompt": f"q {n}", "response": w} for n in range(4) for w in ("yes m1", "no", "m2")]
    responses = tmp_path / "responses.jsonl"
    responses.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("--from-responses", responses, "--repeats", "2")
    with sampling_server.running(latency=0.005) as url:
        recipe = write_recipe(tmp_path / "limited", url, prices)
        plan = command("consistency", recipe, *given, "--dry-run").output
        assert sampling_server.stats(url)["bodies"] == []
        # 12 responses: claims once a scoring, the principle twice.
        assert "factual: 24 requests" in plan and "value: 48 requests" in plan
        # The most for a question about claims is some 2.3 USD, for its text; it costs 0.011.
        stopped = command("consistency", recipe, *given, "--max-cost", "2.5")
        assert stopped.exit_code == 1 and "stopped before --max-cost" in stopped.output
        assert 0 < charged(url) <= 2.5
        finished = command("consistency", recipe, *given, "--max-cost", "40")
        assert finished.exit_code == 0, finished.output
        assert len(sampling_server.stats(url)["bodies"]) == 24 + 48
        whole = command("consistency", write_recipe(tmp_path / "whole", url, prices), *given)
        # 72 requests of 5 + 3 tokens.
        assert "0 answers from the cache, 360 + 216 tokens, 0.7920 USD" in whole.output
    assert table(finished.output) == table(whole.output)


def table(output: str) -> str:
    return output.split("between 2 repeats")[1].split("requests sent")[0].rsplit("\n", 1)[0]


@pytest.mark.slow
def test_consistency_tells_and_limits_the_price_of_evidence(tmp_path: Path, prices: str) -> None:
    responses = tmp_path / "responses.jsonl"
    responses.write_text('{"prompt": "question 1", "response": "m1"}\n')
    given = ("--from-responses", responses, "--repeats", "2", "--against", "judge-1")
    with sampling_server.running() as url:
        nli = {"semantic": {"method": "nli"}, "factual": {"method": "none"}}
        recipe = write_recipe(tmp_path / "a", url, prices, **nli, value={"method": "none"})
        plan = command("consistency", recipe, *given, "--dry-run").output
        stopped = command("consistency", recipe, *given, "--max-cost", "0.1")
        assert stopped.exit_code == 1 and "stopped before --max-cost" in stopped.output
        assert sampling_server.stats(url)["bodies"] == []
        unknown = command("consistency", recipe, *given[:-1], "other", "--max-cost", "9")
        assert "no price is known for other" in unknown.output
        assert sampling_server.stats(url)["bodies"] == []
    # Three draws of one request: 10 // 4 tokens of prompt, 4 responses of 5 or 10 tokens.
    assert plan.count("about 0.0420 USD; 0.0820 USD") == 3
    assert "evidence of the other checkpoint: " in plan
    assert "in all about 0.1260 USD; 0.2460 USD" in plan


def test_a_price_list_shapes_nothing(tmp_path: Path, prices: str) -> None:
    def block(prices: str | None) -> dict[str, Any]:
        server = {"model": "m", "prices": prices}
        judge = {**server, "base_url": "http://localhost/v1"}
        return {
            "annotate": {
                "output": "o",
                "estimator": "ensemble",
                "ensemble": {"members": {"judge": 1, "panel": 1, "self_consistency": 1}},
                "judge": judge,
                "panel": {"judges": [judge, judge]},
                "self_consistency": judge,
            },
            "pairs": {"output": "o", "sampling": {"backend": "api", "api": judge}, "judge": judge},
        }

    one, other = parse_ual(block(prices)), parse_ual(block(None))
    assert one.result_settings("b") == other.result_settings("b")
    assert one.pairs is not None and other.pairs is not None
    assert one.pairs.result_settings("b") == other.pairs.result_settings("b")
    samplers: list[Any] = [
        build_sampler(pairs, "b", None, session(tmp_path)) for pairs in (one.pairs, other.pairs)
    ]
    prices_of = [sampler.asker.endpoint.price for sampler in samplers]
    assert prices_of[0] is not None and prices_of[1] is None
    assert samplers[0].task.identity == samplers[1].task.identity
