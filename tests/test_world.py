"""The map of the synthetic world: its rules by hand, and its page against its results."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from axolotl_ual.demo.world import draw_rows, make_world, untold

EVIDENCE = Path(__file__).parents[1] / "benchmarks" / "evidence"


@pytest.fixture(scope="module")
def study() -> Iterator[SimpleNamespace]:
    """The scripts as modules."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EVIDENCE)
        names = ("world", "wide", "world_page", "overfitting")
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})


def document(world: Any, **nll: list[float]) -> dict[str, Any]:
    """Plain SFT's NLL on `open` after each number of epochs by rate, alike at each seed."""
    seeds = [str(seed) for seed in world.RULE_SEEDS]
    points = {
        world.key(0.0, world.RATES[int(rate[1:])], epochs): {
            "SFT": {seed: {"open": {"nll": value}} for seed in seeds}
        }
        for rate, values in nll.items()
        for epochs, value in zip(world.EPOCHS, values, strict=True)
    }
    return {"base": {seed: {"open": {"nll": 1.0}} for seed in seeds}, "points": points}


def test_the_demos_point_by_hand(study: SimpleNamespace) -> None:
    world = study.world
    first, second, third = world.RATES
    # 0.9 is the least before the second rate; 1.1 times that is 0.99.
    found = world.demo_point(document(world, r0=[0.95, 0.9, 0.98], r1=[0.98, 1.0, 2.0]))
    assert found == (second, world.EPOCHS[1], pytest.approx(1.0 / 0.9))
    assert world.demo_point(document(world, r0=[1.0, 1.2, 1.3])) == (first, world.EPOCHS[1], 1.2)
    # Nowhere: the last. Not told: no point.
    fine = [1.0, 1.0, 1.0]
    assert world.demo_point(document(world, r0=fine, r1=fine, r2=fine)) == (
        third,
        world.EPOCHS[-1],
        1.0,
    )
    assert world.demo_point(document(world, r0=fine, r1=fine)) is None
    assert world.demo_point({"base": {}, "points": {}}) is None


def test_intervals_by_hand(study: SimpleNamespace) -> None:
    page = study.world_page
    # 1, 2, 3: mean 2, standard deviation 1, t(0.975, 2) = 4.302653, over sqrt(3).
    assert page.spread([1.0, 2.0, 3.0]) == pytest.approx((2.0, 4.302653 / 3**0.5))

    def arm(*nll: float) -> dict[str, Any]:
        groups = page.GROUPS
        return {str(n): {group: {"nll": one} for group in groups} for n, one in enumerate(nll)}

    # Halved and a tenth: the log differences are alike, or far apart.
    point = {"a": arm(0.5, 0.5), "b": arm(1.0, 1.0), "c": arm(1.0, 0.1), "d": arm(1.1)}
    assert page.verdict(point, "a", "b") == "**-50.0 % better**"
    assert page.verdict(point, "b", "a") == "**+100.0 % worse**"
    # The mean of log 1 and log 0.1 is log sqrt(0.1), and sqrt(0.1) is 0.316.
    assert page.verdict(point, "c", "b") == "-68.4 %"
    assert page.verdict(point, "d", "b") == "+10.0 %, one seed"
    assert page.verdict(point, "a", "e") == "not run"


def test_points_are_counted(study: SimpleNamespace) -> None:
    """At both points uniform UAL loses and its constant loses more; reference is SFT itself."""
    nll = {"SFT": 1.0, "uniform: UAL": 2.0, "uniform: constant": 3.0}
    nll |= {"reference: UAL": 1.0, "reference: constant": 1.0}
    point = {
        arm: {
            str(n): {group: {"nll": one + n} for group in study.world_page.GROUPS} for n in (0, 1)
        }
        for arm, one in nll.items()
    }
    rate = study.world.RATES[0]
    points = {study.world.key(0.0, rate, epochs): point for epochs in study.world.EPOCHS[:2]}
    lines = study.world_page.counted(points)
    # Logs differ by seed: log 2 and log 1.5 for UAL, log 3 and log 2 for constant, from SFT.
    # With two seeds t is 12.7: 0.549 is within 12.7 * 0.144, and so is 0.896 within 12.7 * 0.203.
    assert lines[2] == "| 0 | uniform | 2 | 0 / 0 | 0 / 0 | 0 / 0 | 0 |"
    for arm in point.values():
        arm["1"] = arm["0"]
    lines = study.world_page.counted(points)
    assert lines[2] == "| 0 | uniform | 2 | 0 / 2 | 0 / 2 | 2 / 0 | 2 |"
    assert lines[3] == "| 0 | reference | 2 | 0 / 0 | 0 / 0 | 0 / 0 | 0 |"
    assert lines[4] == "| 0.2 | uniform | 0 | 0 / 0 | 0 / 0 | 0 / 0 | 0 |"


def test_the_table_at_twice_the_width_shows_the_seeds_that_are_there(
    study: SimpleNamespace,
) -> None:
    draw = study.world_page.at_twice_the_width
    assert "Not run yet." in draw(None)

    def runs(*nll: float) -> dict[str, Any]:
        groups = study.world_page.GROUPS
        measures = [{"nll": one, "ece_width_10": one / 10} for one in nll]
        return {
            str(n): {"kl_to_base": 0.0, **dict.fromkeys(groups, one)}
            for n, one in enumerate(measures)
        }

    arms = {"SFT": runs(1.0, 3.0), "uniform: UAL": runs(2.0, 5.0), "reference: UAL": runs(0.5)}
    lines = draw({"base": runs(1.0, 1.0), "arms": arms})
    assert "| SFT | 2 | 2.000 | 0.200 |" in "\n".join(lines)
    # +1 and +2: mean 1.5, standard deviation sqrt(0.5), over sqrt(2) 0.5, t(0.975, 1) = 12.706.
    (paired,) = [line for line in lines if line.startswith("| uniform: UAL less SFT")]
    assert paired.split(" | ")[1] == "+1.500 ± 6.353"
    (single,) = [line for line in lines if line.startswith("| reference: UAL less SFT")]
    assert single.split(" | ")[1] == "-0.500"


def test_spoiled_answers_are_wrong(study: SimpleNamespace) -> None:
    world = make_world(0, 16)
    rows = draw_rows(world, 200, 1, range(5))
    before = json.loads(json.dumps(rows))
    assert study.overfitting.spoil(world, rows, 0.25, 3) == 50
    by_topic = {question.topic: question for question in world.questions}
    changed = [(old, new) for old, new in zip(before, rows, strict=True) if old != new]
    assert len(changed) == 50
    for old, new in changed:
        asked, answer = (message["content"] for message in new["messages"])
        assert old["messages"][0]["content"] == asked
        (topic,) = {t for t in by_topic if asked.endswith((f" {t}.", f" {t}?"))}
        assert answer not in by_topic[topic].answers
        assert {q.kind for q in world.questions if answer in q.answers} >= {by_topic[topic].kind}


def test_a_quarter_of_the_facts_is_left_out_of_a_corpus() -> None:
    world = make_world(0, 16)
    kinds = {question.topic: question.kind for question in world.questions}
    assert [kinds[topic] for topic in untold(world)] == ["fact"] * 8


def test_the_page_is_of_the_results(study: SimpleNamespace) -> None:
    results = json.loads(study.world.RESULTS.read_text(encoding="utf-8"))
    assert results["protocol"] == study.world.__doc__
    wide = study.world_page.read_wide()
    assert wide is None or wide["protocol"] == study.wide.__doc__
    page = study.world_page.PAGE.read_text(encoding="utf-8")
    assert page == study.world_page.text(results, wide), (
        "run `python benchmarks/evidence/world_page.py`"
    )
