from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from held_out import ROWS, make_world, write_recipe
from preference_server import PreferenceServer, running

from axolotl_ual.evaluation.win_rate import length_controlled
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.evaluation import measuring
from axolotl_ual.preprocess.evaluation.generation import Response

Say = Callable[[str, int], str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world")).parent


@pytest.fixture
def server() -> Iterator[PreferenceServer]:
    with running() as found:
        yield found


@pytest.fixture
def here(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: PreferenceServer
) -> Path:
    for path in world.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    write(tmp_path, server)
    return tmp_path


def write(here: Path, server: PreferenceServer, **section: Any) -> None:
    judge = {"model": "judge", "base_url": server.url}
    (here / "recipe.yaml").unlink()
    write_recipe(here, here / "held-out.jsonl", {"judge": judge, "ratings": {}, **section})


def responses(monkeypatch: pytest.MonkeyPatch, say: Say) -> None:
    """Have every run answer row r with say(arm, r)."""

    def generate(reader: Any, text: Any, rows: list[int], *_: Any) -> list[Response]:
        return [Response(say(reader._run.arm, row), True) for row in rows]

    monkeypatch.setattr(measuring, "generate", generate)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", "recipe.yaml", *arguments])


def evaluate(*arguments: str) -> dict[str, Any]:
    result = run("--runs", "base,tuned=adapter-1", *arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(Path("results/evaluation.json").read_text())
    return found


def find(document: dict[str, Any], measure: str) -> dict[str, Any]:
    (found,) = (r for r in document["results"] if (r["measure"], r["group"]) == (measure, "all"))
    return found


def test_a_judge_that_always_takes_the_first_gives_a_half(
    here: Path, server: PreferenceServer
) -> None:
    """With the real responses of real models."""
    write(here, server, generation={"max_tokens": 6})
    document = evaluate()
    found = find(document, "win_rate")
    assert found["values"] == {"base": 0.5, "tuned": 0.5}
    assert found["differences"][0]["difference"] == 0
    assert find(document, "length_controlled_win_rate")["values"]["tuned"] == pytest.approx(0.5)
    assert server.requests and document["unjudged"] == {}


def test_win_rates_by_hand(
    here: Path, server: PreferenceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Rows 0 to 4 get equal texts: ties without a question. Of the other 15 the judge prefers the
    # longer text, which is the tuned model's in 9 and the base model's in 6.
    def say(arm: str, row: int) -> str:
        if row < 5:
            return "the same"
        long = (arm == "tuned") == (row < 14)
        return f"{arm} {row} " + ("more words than that " * (row % 4 + 1) if long else "few")

    responses(monkeypatch, say)
    server.answer = lambda a, b: json.dumps({"preferred": "A" if len(a) > len(b) else "B"})
    document = evaluate()
    found = find(document, "win_rate")
    assert found["values"]["tuned"] == pytest.approx((5 * 0.5 + 9) / 20)
    assert found["values"]["base"] == 0.5
    # Both orders of 15 pairs; the reference is not compared with itself.
    assert len(server.requests) == 30
    lengths = [np.array([float(len(say(arm, r))) for r in range(20)]) for arm in ("tuned", "base")]
    preference = np.array([0.5] * 5 + [1.0] * 9 + [0.0] * 6)
    expected = length_controlled(preference, *lengths).mean()
    assert find(document, "length_controlled_win_rate")["values"]["tuned"] == pytest.approx(
        expected
    )
    assert evaluate()["results"] == document["results"] and len(server.requests) == 30


def test_answers_that_are_no_preference_are_counted(
    here: Path, server: PreferenceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    responses(monkeypatch, lambda arm, row: f"{arm} answers {row}")
    # Row 3 gets no usable answer where the tuned model's response comes first.
    server.answer = lambda a, b: "cannot say" if a == "tuned answers 3" else '{"preferred": "tie"}'
    document = evaluate()
    assert sum(document["unjudged"].values()) == 1
    assert find(document, "win_rate")["values"]["tuned"] == 0.5
    assert "gave no score" in run("--runs", "base,tuned=adapter-1").output


def test_ratings_and_sentiment(
    here: Path, server: PreferenceServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

    texts = {"base": "This is terrible.", "tuned": "I love this."}
    responses(monkeypatch, lambda arm, row: texts[arm])
    write(here, server, ratings={"helpful": "It helps."}, sentiment=True)
    document = evaluate()
    # The judge answers 3 of 9: a third of a departure.
    assert find(document, "helpful")["values"] == pytest.approx({"base": 2 / 3, "tuned": 2 / 3})
    sentiment = find(document, "sentiment")["values"]
    for arm, text in texts.items():
        expected = SentimentIntensityAnalyzer().polarity_scores(text)["compound"]
        assert sentiment[arm] == pytest.approx(expected)
    assert sentiment["base"] < 0 < sentiment["tuned"]


def test_sentiment_needs_no_judge(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "recipe.yaml").unlink()
    write_recipe(here, here / "held-out.jsonl", {"sentiment": True})
    responses(monkeypatch, lambda arm, row: "good" if row < 10 else "a table")
    document = evaluate()
    assert 0 < find(document, "sentiment")["values"]["base"] < 0.5
    assert not any(r["measure"] == "win_rate" for r in document["results"])
    assert len(ROWS) == 20


def test_what_a_judge_may_cost(here: Path, server: PreferenceServer) -> None:
    result = run("--runs", "base,tuned=adapter-1", "--max-cost", "1")
    assert result.exit_code == 1 and "price" in result.output
    assert server.requests == []
