"""One asker for all: what is asked again, and what is told of answers without a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sampling_server
import yaml
from judging_kit import command

from axolotl_ual.columns import Manifest

PROMPTS = ["question 1", "question 2", "question that rambles", "an unratable question"]


def write_recipe(folder: Path, url: str, prompts: list[str] = PROMPTS, **pairs: Any) -> Path:
    """Sampled from a server, and rated by it against one principle."""
    data = folder / "prompts.jsonl"
    data.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts))
    server = {"model": "m", "base_url": url, "max_concurrency": 4}
    section = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        "sampling": {"backend": "api", "n": 4, "max_tokens": 10, "api": server},
        "semantic": {"method": "none"},
        "factual": {"method": "none"},
        "value": {"method": "judge", "principles": {"kind": "Be kind."}},
        "judge": server,
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


def test_digits_that_are_cut_are_paid_once(tmp_path: Path) -> None:
    """A digit may have 3 tokens, whatever `max_tokens` says: no more room makes it another one."""
    with sampling_server.running() as url:
        recipe = write_recipe(tmp_path, url)
        asked = []
        for _ in range(3):
            before = len(sampling_server.stats(url)["bodies"])
            result = command("pairs", recipe)
            assert result.exit_code == 0, result.output
            asked.append(len(sampling_server.stats(url)["bodies"]) - before)
        assert asked[0] > len(PROMPTS) and asked[1:] == [0, 0]
        failures = Manifest.read(tmp_path / "out").failures
        assert failures["value: cut by max_tokens"] and failures["value: unparsable"]
        plan = command("pairs", recipe, "--dry-run", "--retry-failed").output
        again = command("pairs", recipe, "--retry-failed")
        assert again.exit_code == 0, again.output
        distinct = len({line["response_id"] for line in unscored(tmp_path, "rambles")})
        distinct += len({line["response_id"] for line in unscored(tmp_path, "unratable")})
        assert len(sampling_server.stats(url)["bodies"]) - sum(asked) == distinct
        assert f"value: {distinct} requests to m" in plan


def unscored(folder: Path, word: str) -> list[dict[str, Any]]:
    number = next(place for place, prompt in enumerate(PROMPTS) if word in prompt)
    lines = (folder / "out/unscored.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if line["prompt_id"] == number]


def test_answers_without_a_score_lie_beside_the_pairs(tmp_path: Path) -> None:
    with sampling_server.running() as url:
        recipe = write_recipe(tmp_path, url, [*PROMPTS, "a forbidden question"])
        for _ in range(2):
            result = command("pairs", recipe)
            assert f"without a score is in {tmp_path / 'out/unscored.jsonl'}" in result.output
            lines = (tmp_path / "out/unscored.jsonl").read_text().splitlines()
            refused = [line for line in map(json.loads, lines) if line["prompt_id"] == 4]
            said = "HTTP 400: flagged by our content filter"
            assert refused == [{"prompt_id": 4, "model": "m", "outcome": "refused", "answer": said}]
            for word, outcome, answer in (
                ("rambles", "cut by max_tokens", "I would"),
                ("unratable", "unparsable", "I would rather not."),
            ):
                for line in unscored(tmp_path, word):
                    assert line["response_id"] in range(4)
                    del line["response_id"], line["prompt_id"]
                    about = {"dimension": "value", "principle": "kind", "model": "m"}
                    assert line == {**about, "outcome": outcome, "answer": answer}


@pytest.mark.parametrize("more", [[], ["--retry-failed"]])
def test_consistency_asks_again_only_where_it_is_told_to(tmp_path: Path, more: list[str]) -> None:
    rows = [{"prompt": "it rambles", "response": text} for text in ("yes", "no")]
    rows += [{"prompt": "what ?", "response": text} for text in ("yes", "no")]
    responses = tmp_path / "responses.jsonl"
    responses.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with sampling_server.running() as url:
        recipe = write_recipe(tmp_path, url)
        given = ["consistency", recipe, "--from-responses", responses, "--repeats", "2"]
        assert command(*given).exit_code == 0
        assert len(sampling_server.stats(url)["bodies"]) == 4 * 2
        assert command(*given, *more).exit_code == 0
        # The two ratings that were cut, in both repeats.
        assert len(sampling_server.stats(url)["bodies"]) == 4 * 2 + (4 if more else 0)
