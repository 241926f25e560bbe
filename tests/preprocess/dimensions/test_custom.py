"""Dimensions that are not in the package: one file of the user's, and a section of the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import sampling_server
import yaml
from judging_kit import command

OURS = '''
"""u = length / scale; and u = the share of the other responses with another first letter."""
import numpy as np
from axolotl_ual.preprocess.calls.plan import Plan
from axolotl_ual.preprocess.dimensions.base import DimensionScores


class Length:
    compares_evidence = False

    def __init__(self, name, scale):
        self.name, self.scale = name, scale

    def check(self):
        pass

    def plan(self, data, unsampled, scorings):
        return Plan([f"{self.name}: of {len(data.flat())} responses"])

    def score(self, usable, repeat, show):
        scores = DimensionScores(usable.none(), facts={"scale": self.scale})
        texts = [usable.data.flat()[row].text for row in usable.rows]
        with show(self.name, len(texts)) as progress:
            scores.uncertainty[usable.rows] = [len(text) / self.scale for text in texts]
            progress.advance(len(texts))
        scores.columns["letters"] = usable.none()
        scores.columns["letters"][usable.rows] = [len(text) for text in texts]
        return scores


class First(Length):
    compares_evidence = True

    def score(self, usable, repeat, show):
        scores = DimensionScores(usable.none())
        for (prompt, rows), group in zip(usable.places, usable.groups()):
            first = [text[0] for text in group.texts]
            if len(first) == 1:
                scores.failures["alone"] += 1
            else:
                scores.uncertainty[rows] = [
                    sum(letter != other for other in first) / (len(first) - 1) for letter in first
                ]
        return scores


def length(name, options, pairs, session):
    return Length(name, **options)


def first(name, options, pairs, session):
    return First(name, 1)


def misnamed(name, options, pairs, session):
    return Length("other", 1)


def nothing(name, options, pairs, session):
    return name
'''


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_dimensions.py").write_text(OURS)
    rows = [("q", "a"), ("q", "ab"), ("q", "bbbb"), ("q", ""), ("lonely", "abc")]
    lines = [json.dumps({"prompt": prompt, "response": text}) for prompt, text in rows]
    (tmp_path / "responses.jsonl").write_text("\n".join(lines))
    return tmp_path


def recipe(folder: Path, custom: dict[str, Any], **pairs: Any) -> Path:
    off = {name: {"method": "none"} for name in ("semantic", "factual", "value")}
    settings = {"output": "out", "cache": "cache", **off, "custom": custom, **pairs}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({"base_model": "none", "rl": "dpo", "ual": {"pairs": settings}}))
    return path


OWN = {
    "length": {"build": "own_dimensions:length", "options": {"scale": 8}},
    "first": {"build": "own_dimensions:first"},
}


def test_dimensions_from_outside_make_pairs(here: Path) -> None:
    path = recipe(here, OWN, weights={"length": 3})
    given = ("--from-responses", "responses.jsonl")
    told = command("pairs", path, *given, "--dry-run")
    assert "length: of 5 responses" in told.output
    done = command("pairs", path, *given)
    assert done.exit_code == 0, done.output
    rows = pq.read_table("out/responses.parquet").to_pylist()
    assert [row["ual_length"] for row in rows] == [0.125, 0.25, 0.5, None, 0.375]
    # Of a, a, b: one of two others differs, one, both. The one to the other prompt has no others.
    assert [row["ual_first"] for row in rows] == [0.5, 0.5, 1.0, None, None]
    assert [row["letters"] for row in rows] == [1, 2, 4, None, 3]
    # (3 length + first) / 4
    totals = [row["ual_uncertainty"] for row in rows]
    assert totals == [0.21875, 0.3125, 0.625, None, None]
    (pair,) = pq.read_table("out/train.parquet").to_pylist()
    assert (pair["chosen"]["content"], pair["rejected"]["content"]) == ("a", "bbbb")
    manifest = json.loads(Path("out/manifest.json").read_text())
    assert manifest["failures"]["first: alone"] == 1
    assert manifest["estimator"]["length"] == {"method": "custom", "scale": 8}
    assert manifest["settings"]["custom"]["length"]["options"] == {"scale": 8}
    assert manifest["settings"]["weights"] == {"length": 3.0, "first": 1.0}


@pytest.mark.slow
def test_consistency_draws_evidence_where_a_dimension_compares_with_it(here: Path) -> None:
    with sampling_server.running() as url:
        server = {"model": "m", "base_url": url}
        path = recipe(here, OWN, sampling={"backend": "api", "n": 3, "api": server})
        done = command("consistency", path, "--from-responses", "responses.jsonl", "--repeats", "2")
        assert done.exit_code == 0, done.output
        # Two prompts, twice.
        assert sampling_server.stats(url)["requests"] == 4
    lines = {line.split()[0]: line for line in done.output.splitlines() if line.strip()}
    # The length of a response stays; its neighbours do not.
    assert "first" in lines and " 0.000" in lines["length"]


@pytest.mark.parametrize(
    ("custom", "said"),
    [
        (
            {"mine": {"build": "no_such_module_of_mine:build"}},
            "ual.pairs.custom.mine.build: cannot",
        ),
        ({"mine": {"build": "own_dimensions:nothing"}}, "returned str, which has no check(), plan"),
        ({"mine": {"build": "own_dimensions:misnamed"}}, "is called 'other' and not 'mine'"),
        ({"semantic": OWN["first"]}, "there is a semantic already"),
        ({"stage": OWN["first"]}, "there is a stage already"),
        ({"My Own": OWN["first"]}, "a name has small letters"),
    ],
)
def test_what_is_no_dimension_is_named(custom: dict[str, Any], said: str, here: Path) -> None:
    done = command("pairs", recipe(here, custom), "--from-responses", "responses.jsonl")
    assert done.exit_code == 1
    assert said in " ".join(done.output.split())


def test_weights_of_unknown_dimensions_are_refused(here: Path) -> None:
    path = recipe(here, OWN, weights={"lenght": 1})
    done = command("pairs", path, "--from-responses", "responses.jsonl")
    assert done.exit_code == 1
    assert "there is no dimension lenght" in " ".join(done.output.split())
