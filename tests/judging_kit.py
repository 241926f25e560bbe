"""What tests of the judge share: samples, and estimates against a `judge_server`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml
from click.testing import CliRunner, Result

import judge_server
from axolotl_ual.config import AnnotateConfig
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.estimators.base import Estimation, RunOptions
from axolotl_ual.preprocess.estimators.judge import build
from axolotl_ual.preprocess.fence import fence
from axolotl_ual.preprocess.judges import load_rubric
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.preprocess.turns import Sample, Turn


def sample(question: str, answer: str = "Yes.") -> Sample:
    return Sample((Turn("user", question, False), Turn("assistant", answer, True)))


def samples(number: int) -> list[Sample]:
    return [sample(f"Question {i}?", f"Answer {i}.") for i in range(number)]


def stated_percent(asked: Sample) -> int:
    """What the server says about a sample, from 0 to 100."""
    text = load_rubric("uncertainty-v1").sample(fence(asked, 16_000))
    return judge_server.score_of([{"content": text}])


def stated(asked: Sample) -> float:
    return stated_percent(asked) / 100


def settings(server: judge_server.Running, **judge: Any) -> dict[str, Any]:
    return {"model": "judge-1", "base_url": server.base_url, "timeout": 5.0, **judge}


def estimate(
    server: judge_server.Running,
    folder: Path,
    asked: list[Sample],
    options: RunOptions | None = None,
    **judge: Any,
) -> tuple[Estimation, SilentProgress]:
    annotate = {"output": "out", "judge": settings(server, **judge), "cache": str(folder)}
    return run(AnnotateConfig.model_validate(annotate), asked, options)


def run(
    annotate: AnnotateConfig, asked: list[Sample], options: RunOptions | None = None
) -> tuple[Estimation, SilentProgress]:
    progress = SilentProgress()
    return build(annotate, None, options).estimate(asked, progress), progress


def write_recipe(folder: Path, server: judge_server.Running, rows: int = 30, **judge: Any) -> Path:
    data = [{"instruction": f"q {i}", "input": "", "output": f"a {i}"} for i in range(rows)]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    recipe = {
        "base_model": "none",
        "datasets": [{"path": str(folder / "d.jsonl"), "type": "alpaca"}],
        "ual": {
            "annotate": {
                "output": str(folder / "out"),
                "cache": str(folder / "cache"),
                "judge": {"model": "m", "base_url": server.base_url, **judge},
            }
        },
    }
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])
