from __future__ import annotations

import json
import math
import random
from collections import Counter
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

from axolotl_ual.columns import Manifest
from axolotl_ual.demo import run, world
from axolotl_ual.demo.base_model import BaseSize
from axolotl_ual.demo.measure import by_certainty, rank_correlation
from axolotl_ual.demo.steps import Command, run_side_by_side
from axolotl_ual.errors import DataError, UALError

DEMO = Path(__file__).parents[1] / "examples" / "demo"


@pytest.fixture(scope="module")
def made() -> world.World:
    return world.make_world(seed=0, num_countries=16)


def test_worlds_follow_their_seed(made: world.World) -> None:
    assert world.make_world(0, 16) == made
    assert world.make_world(1, 16) != made


def test_entropies_by_hand(made: world.World) -> None:
    # One answer: 0. k equally likely: log k. 1/2, 1/4, 1/8, 1/8: (1/2 + 2/4 + 3/8 + 3/8) log 2.
    expected = {
        "sum": {0.0},
        "fact": {0.0},
        "choice": {math.log(k) for k in (2, 4, 8, 16)},
        "phrase": {1.75 * math.log(2)},
    }
    for kind in world.KINDS:
        found = {q.entropy for q in made.questions if q.kind == kind}
        assert np.allclose(sorted(found), sorted(expected[kind]), rtol=1e-12)


def test_questions_are_well_formed(made: world.World) -> None:
    topics = [(question.kind, question.topic) for question in made.questions]
    assert len(set(topics)) == len(topics)
    for question in made.questions:
        assert len(set(question.answers)) == len(question.answers) == len(question.weights)
        assert math.isclose(math.fsum(question.weights), 1.0)
    assert {q.topic: q.answers for q in made.questions if q.kind == "sum"}["3 plus 4"] == ("7",)


def test_answers_have_the_frequencies_of_their_distribution(made: world.World) -> None:
    rng = random.Random(5)
    num_draws = 4000
    for question in made.questions:
        if question.entropy == 0:
            continue
        drawn = Counter(question.draw(rng) for _ in range(num_draws))
        assert set(drawn) <= set(question.answers)
        for answer, p in zip(question.answers, question.weights, strict=True):
            # Five standard deviations of a binomial proportion.
            bound = 5 * math.sqrt(p * (1 - p) / num_draws)
            assert abs(drawn[answer] / num_draws - p) < bound
        # The plug-in estimate of an entropy is low by about (k - 1) / 2n: 0.002 at most here.
        shares = [count / num_draws for count in drawn.values()]
        assert -sum(p * math.log(p) for p in shares) == pytest.approx(question.entropy, abs=0.05)


def test_rows(made: world.World) -> None:
    rows = world.draw_rows(made, 600, seed=1, wordings=range(5))
    assert rows == world.draw_rows(made, 600, seed=1, wordings=range(5))
    assert rows != world.draw_rows(made, 600, seed=2, wordings=range(5))
    assert sum(row["true_entropy"] == 0 for row in rows) == 300
    assert {row["kind"] for row in rows} == set(world.KINDS)
    by_topic = {question.topic: question for question in made.questions}
    for row in rows:
        user, assistant = row["messages"]
        assert (user["role"], assistant["role"]) == ("user", "assistant")
        (topic,) = {t for t in by_topic if f"{t}." in user["content"] or f"{t}?" in user["content"]}
        assert by_topic[topic].entropy == row["true_entropy"]
        assert assistant["content"] in by_topic[topic].answers


def test_held_out_wordings_are_apart(made: world.World) -> None:
    def wordings(rows: list[dict[str, Any]]) -> set[str]:
        asked = (str(row["messages"][0]["content"]) for row in rows)
        return {" ".join(text.partition(": ")[2].split()[:2]) for text in asked}

    seen = [number for number in range(world.NUM_WORDINGS) if number not in world.HELD_OUT_WORDINGS]
    train = world.draw_rows(made, 500, 1, seen)
    heldout = world.draw_rows(made, 500, 2, world.HELD_OUT_WORDINGS)
    assert wordings(heldout) and not wordings(train) & wordings(heldout)


def test_halves_by_certainty() -> None:
    results = [
        {"measure": measure, "group": group, "values": {"base": value}}
        for measure, group, value in (
            ("nll", "all", 1),
            ("nll", "true_entropy 1/2 [0, 0]", 2),
            ("nll", "true_entropy 2/2 [0.5, 2]", 3),
            ("rms", "true_entropy 1/2 [0, 0]", 4),
        )
    ]
    assert by_certainty({"results": results}, "nll") == {
        "certain": {"base": 2},
        "uncertain": {"base": 3},
    }


def test_rank_correlation_by_hand() -> None:
    # Ranks 1.5, 1.5, 3, 4 against 1, 2, 3, 4. Deviations from 2.5: (-1, -1, 0.5, 1.5) and
    # (-1.5, -0.5, 0.5, 1.5); products 1.5 + 0.5 + 0.25 + 2.25 = 4.5, over sqrt(4.5 * 5).
    a, b = np.array([0.0, 0.0, 5.0, 9.0]), np.array([1.0, 2.0, 3.0, 4.0])
    assert rank_correlation(a, b) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert rank_correlation(b, -b) == pytest.approx(-1)


def test_the_recipe_is_the_papers() -> None:
    recipe = yaml.safe_load((DEMO / run.RECIPE).read_text())
    assert (recipe["lora_r"], recipe["lora_alpha"], recipe["lora_dropout"]) == (8, 16, 0.1)
    assert recipe["ual"]["smoothing"]["mean"] == 0.1


@pytest.mark.slow
def test_a_failed_step_shows_the_end_of_its_log_and_ends_the_others(tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("print('before'); raise SystemExit('no such thing')")
    (tmp_path / "slow.py").write_text(
        "import pathlib, time; time.sleep(60); pathlib.Path('late').touch()"
    )
    with pytest.raises(UALError, match="`python -m bad x` ended with status 1") as caught:
        run_side_by_side([Command("slow", ["slow"]), Command("bad", ["bad", "x"])], tmp_path)
    assert "| before\n  | no such thing" in caught.value.problem
    assert str(tmp_path / "logs" / "bad.log") in caught.value.problem
    assert not (tmp_path / "late").exists()


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    with pytest.raises(DataError, match="they are not of an earlier demo"):
        run.main(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_missing_packages_name_the_extras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_NEEDED", ("json", "no_such_package"))
    with pytest.raises(UALError, match=r"no_such_package cannot be imported") as caught:
        run.main(tmp_path / "demo")
    assert caught.value.fix == "pip install 'axolotl-ual[train,local]'"
    assert not (tmp_path / "demo").exists()


@pytest.mark.slow
def test_reduced_demo(tmp_path: Path) -> None:
    folder = tmp_path / "demo"
    folder.mkdir()
    # What an earlier demo left is replaced.
    (folder / "world.json").write_text("{}")
    (folder / "demo.json").write_text("{}")
    base = BaseSize(
        hidden_size=128, intermediate_size=512, steps=500, batch=4, learning_rate=1.5e-3
    )
    printed = StringIO()
    run.main(
        folder,
        run.Sizes(countries=8, rows=200, heldout=400, prompts=80, base=base, seeds=1),
        Console(file=printed, width=120),
    )
    report = json.loads((folder / "demo.json").read_text())
    assert report["annotation"]["rank_correlation"] > 0.6
    assert report["annotation"]["mean_smoothing"] == pytest.approx(0.1, abs=1e-6)
    assert (
        report["annotation"]["mean_smoothing_certain"]
        < report["annotation"]["mean_smoothing_uncertain"]
    )
    # Every adapter was trained, and with another loss.
    evaluation = json.loads((folder / "ablation/evaluation/evaluation.json").read_text())
    assert report["evaluation"] == evaluation and evaluation["against"] == "sft"
    for measure in ("nll", "ece_mass_15"):
        for half in by_certainty(evaluation, measure).values():
            arms = ["base", "prior=reference", "ual", "sft", "constant", "shuffled"]
            assert list(half) == arms and len(set(half.values())) == 6
    text = printed.getvalue()
    assert "NLL a token" in text and "true_entropy 2/2" in text and "shuffled" in text
    assert f"Open in a browser: {', '.join(run.PAGES)}." in text.replace("\n", " ")
    assert set(report["seconds"]) == {
        *("world", "base", "annotate", "ablate", "judges", "pairs", "dpo")
    }
    preference = report["preference"]
    assert preference["prompts"] == 80 and preference["responses"] == 640
    assert 0 < preference["pairs"] == sum(preference["stages"].values())
    # The reduced model knows its world less well than the full one, where this is 0.95.
    assert preference["rank_correlation"] > 0.2
    held_out = preference["heldout"]["uncertain"]
    assert held_out["base"] != held_out["dpo"] and math.isfinite(held_out["dpo"])
    # The annotated copy keeps the column of the true entropy.
    file = folder / "annotated" / Manifest.read(folder / "annotated").sources[0].file.path
    import pyarrow.parquet as pq

    assert pq.read_schema(file).names[:3] == ["messages", "kind", "true_entropy"]
