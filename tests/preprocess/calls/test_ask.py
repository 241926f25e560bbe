"""One asker for all: what is asked again, and what is told of answers without a score."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import sampling_server
import yaml
from judging_kit import command, run, sample, session

import judge_server
from axolotl_ual.columns import Manifest
from axolotl_ual.preprocess.calls import pending
from axolotl_ual.preprocess.calls.ask import Session
from axolotl_ual.preprocess.calls.task import Question, Questions
from axolotl_ual.preprocess.data.sample import Sample
from axolotl_ual.preprocess.estimators import self_consistency
from axolotl_ual.preprocess.judge.member import make_judge
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.settings.estimators import JudgeConfig
from axolotl_ual.settings.ual import AnnotateConfig

pytestmark = pytest.mark.slow  # Each test starts a server.

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
    """A rating may have the room of `max_tokens`: one that it cut is asked again only with more."""
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
        cut = len({line["response_id"] for line in unscored(tmp_path, "rambles")})
        unread = len({line["response_id"] for line in unscored(tmp_path, "unratable")})
        # What cannot be read is asked once more with a reminder.
        assert len(sampling_server.stats(url)["bodies"]) - sum(asked) == cut + 2 * unread
        assert f"value: {cut + unread} requests to m" in plan


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


def test_ratings_of_pairs_go_by_batches_as_well(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """Two principles and 30 responses are 60 ratings: one at once, 59 in a batch for each task."""
    texts = [f"answer {number}" for number in range(30)]
    rows = [{"prompt": f"p {n // 2}", "response": text} for n, text in enumerate(texts)]
    responses = tmp_path / "responses.jsonl"
    responses.write_text("".join(json.dumps(row) + "\n" for row in rows))
    judge = {"model": "judge-1", "base_url": server.base_url, "batch_poll": 0.05}
    principles = {"kind": "Be kind.", "brief": "Be brief."}
    written = []
    for mode in ("batch", "live"):
        folder = tmp_path / mode
        folder.mkdir()
        value = {"method": "judge", "principles": principles}
        recipe = write_recipe(folder, "", judge={**judge, "mode": mode}, value=value)
        result = command("pairs", recipe, "--from-responses", responses)
        assert result.exit_code == 0, result.output
        written.append((folder / "out/train.parquet").read_bytes())
        stats = server.stats()
        if mode == "batch":
            assert (stats["requests"], stats["batched"], stats["batches"]) == (1, 59, 2)
            assert Manifest.read(folder / "out").usage.requests == 60
    assert server.stats()["requests"] == 61
    assert written[0] == written[1]


def test_self_consistency_learns_its_server_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(self_consistency, "_WINDOW", 4)
    with sampling_server.running(n="refused") as url:
        section = {"model": "m", "base_url": url, "answers": 3, "max_concurrency": 1}
        annotate = {"output": "o", "cache": str(tmp_path), "estimator": "self_consistency"}
        config = AnnotateConfig.model_validate({**annotate, "self_consistency": section})
        found, progress = run(config, [sample(f"Question {n}?") for n in range(12)])
        bodies = sampling_server.stats(url)["bodies"]
    # Three windows of four rows; only the first request of the first asks for several at once.
    assert sum("n" in body for body in bodies) == 1
    assert found.usage.requests == len(bodies) == 1 + 12 * 3
    assert len([line for line in progress.lines if "one completion" in line]) == 1


def ask(lent: Session, url: str, asked: list[Sample], **config: Any) -> dict[int, float | None]:
    """Scores by place."""
    settings = JudgeConfig(model="judge-1", base_url=url, **config)
    judge = make_judge(settings, "ual.annotate.judge", lent)
    scores: dict[int, float | None] = {}
    judge.asker.run(
        Questions(
            [judge.task],
            lambda: (Question(judge.task, each, 0, [row]) for row, each in enumerate(asked)),
        ),
        lambda row, answer: scores.update({row: answer.score}),
        lent.meter(SilentProgress(), len(asked)),
    )
    return scores


def test_a_session_asks_an_endpoint_by_one_asker(
    server: judge_server.Running, tmp_path: Path
) -> None:
    """What the server does not take is learnt once; equal questions are asked once."""
    server.set(refuses=["temperature"], keep=True)
    asked = [sample(f"Question {number}?") for number in range(3)]
    with session(tmp_path) as lent:
        first = ask(lent, server.base_url, asked[:1])
        both = ask(lent, server.base_url, [*asked, *asked])
    assert [both[place] for place in range(3)] == [both[place] for place in range(3, 6)]
    assert both[0] == first[0] is not None
    refused = [body for body in server.requests() if "temperature" in body]
    assert len(refused) == 1 and server.stats()["answered"] == 3


def test_a_question_that_is_open_is_not_asked_beside_itself(
    server: judge_server.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same row is read again, in another part, while the server thinks about the first."""
    monkeypatch.setattr(pending, "_LARGE_CHUNK", 2)
    monkeypatch.setattr(pending, "_SMALL_CHUNK", 2)
    server.set(latency=0.5)
    first, second = sample("Question 1?"), sample("Question 2?")
    with session(tmp_path) as lent:
        scores = ask(lent, server.base_url, [first, second, first])
    assert scores[0] == scores[2] is not None
    assert server.stats()["answered"] == 2


def test_an_answer_is_asked_for_again_once_in_a_command(
    server: judge_server.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row that is asked again has its answer when it is read once more, behind eight others."""
    monkeypatch.setattr(pending, "_LARGE_CHUNK", 1)
    monkeypatch.setattr(pending, "_SMALL_CHUNK", 1)
    server.set(rules=[("<prose>", "prose")])
    bad = sample("<prose>")
    asked = [bad, *(sample(f"Question {number}?") for number in range(8)), bad]
    with session(tmp_path) as lent:
        ask(lent, server.base_url, [bad], max_concurrency=1)
    before = server.stats()["answered"]
    with session(tmp_path, retry_failed=True) as lent:
        ask(lent, server.base_url, asked, max_concurrency=1)
        again = server.stats()["answered"]
        ask(lent, server.base_url, asked, max_concurrency=1)
    # A row that cannot be read may be asked with a reminder: `before` requests a time.
    assert again == before + 8 + before
    assert server.stats()["answered"] == again
