"""`axolotl-ual check`: what stands between a recipe and `axolotl train`, and what training will do.

The YAML, the settings and the annotated copy are looked at here; whether Axolotl can import the
plugin and accepts the recipe is asked of Axolotl itself, in a process of its own.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from axolotl_ual import columns
from axolotl_ual.data.annotated import locate
from axolotl_ual.errors import AnnotationError, ConfigError, UALError
from axolotl_ual.host import PLUGIN, asks_for_plugin, host, names_plugin, runs_without_a_line
from axolotl_ual.settings.left_alone import left_alone
from axolotl_ual.settings.preference import ON_PROMPTS, kind_of_rl
from axolotl_ual.settings.refusals import unsupported
from axolotl_ual.settings.ual import UALConfig, parse_ual

from ..data.recipe import read_entries, read_yaml
from .probe import servers

_PROBE_SECONDS = 600


@dataclass(slots=True)
class Findings:
    """What a check found out.

    Attributes:
        problems: each with its fix; empty when `axolotl train` can run.
        facts: what training will do.
        missing: the one of the problems that is about the annotated copy.
        readable: whether the file is a recipe at all.
    """

    problems: list[str] = field(default_factory=list)
    facts: list[str] = field(default_factory=list)
    missing: str | None = None
    readable: bool = True


def check(path: Path, console: Console) -> bool:
    """Check a recipe and print the result.

    Returns:
        Whether nothing is wrong.
    """
    findings = examine(path)
    if findings.readable:
        _note(findings, _axolotl(path, findings.problems))
    return print_findings(findings, path, f"axolotl train {path}", console)


def print_findings(findings: Findings, path: Path, following: str, console: Console) -> bool:
    """Print what a check found out.

    Args:
        findings: what it found out.
        path: the recipe.
        following: the command to run after it, where nothing is wrong.
        console: where to.

    Returns:
        Whether nothing is wrong.
    """
    for fact in findings.facts:
        console.print(Text("ok     ", style="green"), Text(fact), sep="")
    for problem in findings.problems:
        console.print(Text("wrong  ", style="bold red"), Text(problem), sep="")
    if findings.problems:
        number = len(findings.problems)
        console.print(f"{path}: {number} problem{'s' if number > 1 else ''}", highlight=False)
        return False
    console.print(f"{path}: nothing is wrong; next: {following}", highlight=False)
    return True


def examine(path: Path) -> Findings:
    """Look at a recipe from all sides; one problem does not hide the next.

    What Axolotl says of it is not asked here.
    """
    findings = Findings()
    try:
        recipe = read_yaml(path)
    except UALError as error:
        return Findings(problems=[str(error)], readable=False)
    _note(findings, _plugin_named(recipe, path))
    findings.problems.extend(str(error) for error in unsupported(recipe))
    _note(findings, _entries(recipe, path))
    try:
        ual = parse_ual(recipe.get("ual"))
        _note(findings, _servers(ual, path))
        _note(findings, list(_data(recipe, ual, path)))
    except UALError as error:
        if isinstance(error, AnnotationError):
            findings.missing = str(error)
        findings.problems.append(str(error))
    return findings


def _servers(ual: UALConfig, path: Path) -> list[str | UALError]:
    asked = [section for section, _ in servers(ual)]
    if not asked:
        return []
    return [f"asks {', '.join(asked)}; to see how they answer: axolotl-ual probe {path}"]


def _note(findings: Findings, found: list[str | UALError]) -> None:
    for item in found:
        if isinstance(item, UALError):
            findings.problems.append(str(item))
        else:
            findings.facts.append(item)


def _plugin_named(recipe: Mapping[str, Any], path: Path) -> list[str | UALError]:
    if names_plugin(recipe):
        return []
    if runs_without_a_line() and asks_for_plugin(recipe):
        return [f"Axolotl {host().version} loads the plugin by itself, for `ual:`"]
    return [
        ConfigError(
            f"{path}: plugins: does not list {PLUGIN}, so training would take no notice of "
            "`ual:` and of the annotations",
            f"add\n    plugins:\n      - {PLUGIN}",
        )
    ]


def _entries(recipe: Mapping[str, Any], path: Path) -> list[str | UALError]:
    if not recipe.get("datasets"):
        return []
    try:
        read_entries(recipe, path)
    except ConfigError as error:
        return [error]
    return []


def _data(recipe: Mapping[str, Any], ual: UALConfig, path: Path) -> Iterator[str | UALError]:
    pairs = ual.pairs is not None and bool(recipe.get("rl"))
    if not recipe.get("datasets") and recipe.get("pretraining_dataset"):
        yield (
            f"pretraining_dataset: streamed, each row with the column {columns.SMOOTHING} that it "
            "must have"
        )
        return
    if not recipe.get("datasets") and not pairs:
        yield ConfigError(f"{path}: datasets: this key is needed", "name the data to train on")
        return
    line = left_alone(recipe)
    if line is not None:
        yield line
    for entry in locate(recipe, ual, str(path)).entries:
        name = str(entry["path"])
        if ual.annotations is not None:
            yield f"{name}: joined by content to `ual.annotations: {ual.annotations.name}`"
        elif line is not None:
            yield f"{name}: trained on as it is"
        elif kind_of_rl(recipe) in ON_PROMPTS:
            yield f"{name}: prompts, which carry no label smoothing"
        else:
            yield _describe(Path(name), name)


def _describe(file: Path, name: str) -> str:
    if not (file.is_file() and file.suffix == ".parquet"):
        return f"{name}: trained on with the column {columns.SMOOTHING} that it must have"
    import pyarrow.parquet as pq

    names = [n for n in (columns.SMOOTHING, columns.STAGE) if n in pq.read_schema(file).names]
    table = pq.read_table(file, columns=names)
    smoothing = table[columns.SMOOTHING].to_numpy()
    text = (
        f"{name}: {len(smoothing):,} rows carry label smoothing, "
        f"mean {np.mean(smoothing, dtype=np.float64):.6f}, largest {np.max(smoothing):.4f}"
    )
    if columns.STAGE in names:
        values = table[columns.STAGE].to_pylist()
        stages = ", ".join(f"{stage} {values.count(stage):,}" for stage in columns.STAGES)
        text = f"{text}; stages: {stages}"
    return text


def _axolotl(path: Path, known: list[str]) -> list[str | UALError]:
    """Have Axolotl load the plugins and validate the YAML."""
    if not axolotl_is_installed():
        return [
            ConfigError(
                "axolotl is not installed in this environment, so nothing can be trained here",
                "pip install 'axolotl-ual[train]'",
            )
        ]
    return opinion(ask_axolotl([path])[path], known)


def axolotl_is_installed() -> bool:
    """Whether there is an Axolotl to ask."""
    return importlib.util.find_spec("axolotl") is not None


def opinion(said: list[str] | UALError, known: list[str]) -> list[str | UALError]:
    """What Axolotl said of a recipe, less what is known already."""
    if isinstance(said, UALError):
        return [said]
    unseen = [problem for problem in said if problem not in known]
    if unseen:
        return [ConfigError(f"Axolotl refuses the recipe: {problem}") for problem in unseen]
    return [] if said else ["Axolotl imports the plugin and accepts the recipe"]


def ask_axolotl(paths: Sequence[Path]) -> dict[Path, list[str] | UALError]:
    """Have Axolotl look at recipes in a process of its own.

    Returns:
        For each recipe its problems, or an error where Axolotl itself failed.
    """
    run = subprocess.run(
        [sys.executable, "-m", "axolotl_ual.preprocess.data.axolotl_says", *map(str, paths)],
        env={**os.environ, "AXOLOTL_DO_NOT_TRACK": "1"},
        capture_output=True,
        text=True,
        timeout=_PROBE_SECONDS,
        check=False,
    )
    answers = [line for line in run.stdout.splitlines() if line.startswith('{"recipe": ')]
    found = {item["recipe"]: item["problems"] for item in map(json.loads, answers)}
    said = (run.stderr.strip() or run.stdout.strip()).splitlines()
    failed = UALError("Axolotl cannot be asked: " + (said[-1] if said else "it said nothing"))
    return {path: found.get(str(path), failed) for path in paths}
