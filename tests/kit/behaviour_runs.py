"""Runs the real `annotate` against a behaviour of the table, and says what came of it."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml
from behaviour_server import stats
from behaviours import BEHAVIOURS, Behaviour, score_of, text_of
from rich.console import Console

from axolotl_ual.columns import UNCERTAINTY
from axolotl_ual.errors import UALError
from axolotl_ual.preprocess.commands.annotate import AnnotateOptions, annotate

USD_A_TOKEN = 0.001
_FAR = 1000.0


@dataclass
class Outcome:
    """What a run came to.

    Attributes:
        error: that ended it, or an empty string.
        output: lines that were printed.
        uncertainty: of each row; empty where the run failed.
        requests: that the server got.
        charged: tokens of all completions that the server gave.
        most_completions: that it gave for one row.
        completed: rows that it gave one for.
        manifest: that was written.
        seconds: that it took.
        silence: the longest time without a line.
    """

    error: str = ""
    output: str = ""
    uncertainty: list[float | None] = field(default_factory=list)
    requests: int = 0
    charged: int = 0
    most_completions: int = 0
    completed: set[int] = field(default_factory=set)
    manifest: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    silence: float = 0.0

    @property
    def scored(self) -> int:
        return sum(value is not None for value in self.uncertainty)

    def misread(self, digits: bool) -> list[int]:
        """Rows whose uncertainty is not what the judge stated."""
        wrong = []
        for row, value in enumerate(self.uncertainty):
            stated = (row % 10) / 9 if digits else score_of(row) / 100
            if value is not None and abs(value - stated) > 1e-6:
                wrong.append(row)
        return wrong


class Lines(io.StringIO):
    """Notes when lines are written."""

    def __init__(self) -> None:
        super().__init__()
        self.at = [time.monotonic()]

    def write(self, text: str) -> int:
        self.at.append(time.monotonic())
        return super().write(text)


def write_recipe(folder: Path, root: str, name: str, tried: Behaviour) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "instruction": f"Row {i}: what is it?{text_of(tried, i)}",
            "input": "",
            "output": f"It is {i}.",
        }
        for i in range(tried.rows)
    ]
    (folder / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "prices.yaml").write_text("m: {input: 1000, output: 1000}\n")
    judge = {"timeout": 5, "max_concurrency": 2, "patience": 30, **tried.judge}
    recipe = {
        "base_model": "none",
        "datasets": [{"path": str(folder / "d.jsonl"), "type": "alpaca"}],
        "ual": {
            "annotate": {
                "output": str(folder / "out"),
                "cache": str(folder / "cache"),
                "judge": {
                    "model": "m",
                    "base_url": f"{root}/{name}/v1",
                    "prices": str(folder / "prices.yaml"),
                    **judge,
                },
            }
        },
    }
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def run(folder: Path, root: str, name: str, max_cost: float = _FAR) -> Outcome:
    """Annotate against a behaviour; the folder keeps recipe and cache between runs."""
    tried = BEHAVIOURS[name]
    recipe = folder / "r.yaml"
    if not recipe.exists():
        write_recipe(folder, root, name, tried)
    lines, outcome = Lines(), Outcome()
    console = Console(file=lines, width=500, force_terminal=False)
    start = time.monotonic()
    with _environment(tried.environment):
        try:
            manifest = annotate(recipe, AnnotateOptions(max_cost=max_cost), console)
        except UALError as error:
            outcome.error = str(error)
        else:
            assert manifest is not None
            outcome.manifest = manifest.model_dump()
            table = pq.read_table(folder / "out/train.parquet")
            outcome.uncertainty = table[UNCERTAINTY].to_pylist()
    end = time.monotonic()
    outcome.seconds = end - start
    outcome.silence = max(b - a for a, b in zip(lines.at, [*lines.at[1:], end], strict=True))
    outcome.output = lines.getvalue()
    seen = stats(root, name)
    outcome.requests, outcome.charged = seen["requests"], seen["charged"]
    outcome.most_completions = seen["most_completions"]
    outcome.completed = set(seen["completed"])
    return outcome


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    kept = {name: os.environ.get(name) for name in ("OPENAI_API_KEY", *values)}
    os.environ.pop("OPENAI_API_KEY", None)
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
