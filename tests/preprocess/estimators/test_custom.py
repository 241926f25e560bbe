"""An estimator that is not in the package: one file of the user's, and a line of the recipe."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from judging_kit import command

OURS = '''
"""Uncertainty by length: u = characters / longest."""
import numpy as np
from axolotl_ual.preprocess.calls.plan import Plan
from axolotl_ual.preprocess.estimators.base import Estimation, RowScores


class Length:
    def __init__(self, scale):
        self.scale = scale

    def check(self):
        pass

    def plan(self, samples):
        return Plan([f"the length of {len(samples)} responses"])

    def scorer(self):
        return self

    def score(self, samples, progress):
        progress.advance(len(samples))
        lengths = [sum(len(t.text) for t in s.turns if t.trained) for s in samples]
        return RowScores({"length": self.scale * np.array(lengths, np.float64)})

    def finish(self, scores):
        length = scores.values["length"]
        return Estimation((length / length.max()).astype(np.float32), facts={"scale": self.scale})


def build(options, base_model, session):
    return Length(**options)


def nothing(options, base_model, session):
    return base_model
'''


def recipe(folder: Path, build: str) -> Path:
    # Responses of 1, 2, 3 and 4 characters.
    rows = [{"instruction": "Say.", "input": "", "output": "a" * n} for n in (1, 2, 3, 4)]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "own_length.py").write_text(OURS)
    custom = {"build": build, "options": {"scale": 2.0}}
    path = folder / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "base_model": "none",
                "datasets": [{"path": str(folder / "data.jsonl"), "type": "alpaca"}],
                "ual": {
                    "annotate": {
                        "output": str(folder / "out"),
                        "estimator": "custom",
                        "custom": custom,
                    }
                },
            }
        )
    )
    return path


def test_an_estimator_from_outside_annotates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    path = recipe(tmp_path, "own_length:build")
    told = command("annotate", path, "--dry-run")
    assert "the length of 4 responses" in told.output
    done = command("annotate", path)
    assert done.exit_code == 0, done.output
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    assert table.column("ual_uncertainty").to_pylist() == [0.25, 0.5, 0.75, 1.0]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert (manifest["estimator"]["name"], manifest["estimator"]["scale"]) == ("custom", 2.0)
    assert manifest["settings"]["custom"]["options"] == {"scale": 2.0}


@pytest.mark.parametrize(
    ("build", "said"),
    [
        ("no_such_module_of_mine:build", "cannot find no_such_module_of_mine:build"),
        ("own_length:gone", "cannot find own_length:gone"),
        ("own_length:nothing", "own_length:nothing returned str, which has no check(), plan()"),
        ("own_length", "ual.annotate.custom.build"),
    ],
)
def test_what_is_no_estimator_is_named(
    build: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    done = command("annotate", recipe(tmp_path, build))
    assert done.exit_code == 1
    assert said in done.output
