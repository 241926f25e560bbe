"""`ablate`, step by step: the grid, its data, its runs one after the other, and the evaluation."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from rich.console import Console

from axolotl_ual.data.annotated import locate
from axolotl_ual.data.fingerprint import fingerprint
from axolotl_ual.errors import AnnotationError, ConfigError
from axolotl_ual.host import PLUGIN, names_plugin
from axolotl_ual.settings.ual import parse_ual

from ..data.recipe import Recipe, load_recipe, read_yaml
from ..evaluation.controls import write_control
from ..evaluation.grid import Point, folder_name, make_points
from ..evaluation.runs import BASE, find_runs
from ..evaluation.training import LOG, Training
from .annotate import AnnotateOptions, annotate
from .evaluate import EvaluateOptions, evaluate_runs
from .pairs import PairsOptions, make_pairs

_DATA: Final = "data"
_RUNS: Final = "runs"
_BRINGS_COLUMNS: Final = ("annotate", "annotations", "pairs")
"""Sections of `ual:` that the rows of a control, which have their columns, go without."""


@dataclass(frozen=True, slots=True)
class AblateOptions:
    """What the command line says.

    Attributes:
        over: KEY=VALUE,VALUE, each.
        controls: names of built-in controls.
        seeds: runs of each point.
        output: folder of everything.
        launcher: what trains a recipe; None: `axolotl train`.
        jobs: runs that train at the same time.
        dry_run: tell what would be done, and do nothing.
        evaluate: how the runs are evaluated; its `runs` are those of the grid, and its `max_cost`
            is for annotating all points and for judging them, together.
    """

    over: Sequence[str]
    controls: Sequence[str]
    seeds: int
    output: Path
    launcher: str | None
    jobs: int
    dry_run: bool
    evaluate: EvaluateOptions


def ablate(path: Path, options: AblateOptions, console: Console) -> Mapping[str, Any] | None:
    """Train every point of a grid with every seed, and evaluate all of them.

    Args:
        path: the recipe.
        options: of the command line.
        console: for progress and the closing table.

    Returns:
        What was written to `evaluation.json`, or None for a dry run.

    Raises:
        UALError: what is wrong and what to do; finished runs are kept.
    """
    recipe = load_recipe(path, for_pairs=bool(read_yaml(path).get("rl")))
    _check_plugin(recipe)
    _check_held_out(recipe, options)
    points = make_points(options.over, options.controls, recipe)
    variants = {point.name: _variant(recipe, point) for point in points}
    seeds = [recipe.seed + number for number in range(options.seeds)]
    if options.dry_run:
        _print_plan(points, seeds, options, console)
        return None
    builder = _Builder(recipe, options, console)
    trainings: dict[str, list[Training]] = {}
    for point in points:
        for seed in seeds:
            training = builder.build(point, variants[point.name], seed)
            trainings.setdefault(point.name, []).append(training)
    _train_all(trainings, options, console)
    runs = find_runs([BASE], recipe)
    for name, trained in trainings.items():
        for seed, training in zip(seeds, trained, strict=True):
            (run,) = find_runs([f"{BASE}-trained={training.model}"], recipe)
            runs.append(dataclasses.replace(run, arm=name, seed=str(seed)))
    evaluation = dataclasses.replace(
        options.evaluate, output=options.output / "evaluation", max_cost=builder.left
    )
    return evaluate_runs(recipe, runs, evaluation, console)


def _check_plugin(recipe: Recipe) -> None:
    if not names_plugin(recipe.raw):
        raise ConfigError(
            f"{recipe.path}: plugins: does not list {PLUGIN}, so no setting of `ual:` would "
            "make a difference",
            f"add\n    plugins:\n      - {PLUGIN}",
        )


def _check_held_out(recipe: Recipe, options: AblateOptions) -> None:
    """Rows that another seed trains on are not held out."""
    named = options.evaluate.data or recipe.ual.evaluate.data or recipe.raw.get("test_datasets")
    if recipe.raw.get("val_set_size") and not named and options.seeds > 1:
        raise ConfigError(
            f"{recipe.path}: val_set_size: sets other rows apart with every seed, so that one "
            "run's validation rows are another's training rows",
            "name held-out rows with `--data`, `ual.evaluate.data` or `test_datasets:`",
        )


def _variant(recipe: Recipe, point: Point) -> Recipe:
    """The recipe of a point, its `ual:` block validated before anything is done.

    Raises:
        ConfigError: a key is unknown, or its value is wrong.
    """
    raw = point.recipe(recipe.raw)
    ual = parse_ual(raw.get("ual"), where=f"{point.name}: ual")
    return dataclasses.replace(recipe, raw=raw, ual=ual)


class _Builder:
    """Makes the recipe and the data of each run."""

    def __init__(self, recipe: Recipe, options: AblateOptions, console: Console) -> None:
        self._recipe = recipe
        self._options = options
        self._console = console
        self._spent = 0.0

    @property
    def left(self) -> float | None:
        """USD that may still be spent."""
        limit = self._options.evaluate.max_cost
        return None if limit is None else max(limit - self._spent, 0.0)

    def build(self, point: Point, variant: Recipe, seed: int) -> Training:
        folder = self._options.output / _RUNS / folder_name(point) / f"seed-{seed}"
        raw = {**variant.raw, "seed": seed}
        if point.control is None:
            raw = self._annotated(variant, raw, seed)
        else:
            raw = self._controlled(point, raw, seed)
        raw["output_dir"] = str(folder / "model")
        raw["dataset_prepared_path"] = str(folder / "prepared")
        raw.setdefault("auto_resume_from_checkpoints", True)
        data = locate(raw, parse_ual(raw.get("ual")), point.name).content
        return Training(folder, raw, data)

    def _annotated(self, variant: Recipe, raw: dict[str, Any], seed: int) -> dict[str, Any]:
        """The recipe with annotations or pairs that fit it, made where there are none."""
        kind = "pairs" if variant.raw.get("rl") else "annotate"
        section = getattr(variant.ual, kind)
        if section is None or _fits(raw):
            return raw
        key = _digest(variant, kind, seed)
        output = self._options.output / _DATA / f"{kind}-{key}"
        raw["ual"] = {**raw["ual"], kind: {**raw["ual"][kind], "output": str(output)}}
        if not _fits(raw):
            self._make(kind, raw, output)
        return raw

    def _make(self, kind: str, raw: Mapping[str, Any], output: Path) -> None:
        output.parent.mkdir(parents=True, exist_ok=True)
        path = output.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(dict(raw), sort_keys=False), encoding="utf-8")
        self._console.print(f"{kind}: {output}")
        again = self._options.evaluate.retry_failed
        if kind == "pairs":
            made = PairsOptions(max_cost=self.left, retry_failed=again)
            manifest = make_pairs(path, made, self._console)
        else:
            asked = AnnotateOptions(max_cost=self.left, retry_failed=again)
            manifest = annotate(path, asked, self._console)
        if manifest is not None:
            self._spent += manifest.usage.cost_usd or 0.0

    def _controlled(self, point: Point, raw: dict[str, Any], seed: int) -> dict[str, Any]:
        """The recipe on rows whose columns of ours a control has changed."""
        own = self._annotated(self._recipe, {**self._recipe.raw, "seed": seed}, seed)
        trained = dataclasses.replace(
            self._recipe, raw=own, ual=parse_ual(own.get("ual")), seed=seed
        )
        folder = self._options.output / _DATA / f"{point.name}-{seed}"
        entries = write_control(str(point.control), trained, folder, seed)
        ual = {k: v for k, v in (raw.get("ual") or {}).items() if k not in _BRINGS_COLUMNS}
        return {**raw, "datasets": entries, "ual": ual}


def _fits(raw: Mapping[str, Any]) -> bool:
    """Whether what the recipe trains on is there, and is of these data and settings."""
    try:
        locate(raw, parse_ual(raw.get("ual")), "recipe")
    except AnnotationError:
        return False
    return True


def _digest(variant: Recipe, kind: str, seed: int) -> str:
    """12 digits that change with what shapes annotations or pairs."""
    if kind == "pairs" and variant.ual.pairs is not None:
        settings = variant.ual.pairs.result_settings(variant.base_model)
    else:
        settings = variant.ual.result_settings(variant.base_model)
    data = [fingerprint(entry.raw, seed) for entry in variant.entries]
    text = json.dumps([settings, data], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _train_all(
    trainings: Mapping[str, Sequence[Training]], options: AblateOptions, console: Console
) -> None:
    """Train what is not finished; after a failure nothing more is begun."""
    flat = [(name, training) for name, trained in trainings.items() for training in trained]
    stopped = threading.Event()

    def train(head: str, training: Training) -> None:
        if stopped.is_set():
            return
        console.print(f"{head}: training; its log is {training.folder / LOG}")
        try:
            training.train(options.launcher)
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(options.jobs) as pool:
        begun = []
        for number, (name, training) in enumerate(flat, start=1):
            head = f"[{number}/{len(flat)}] {name}, {training.folder.name}"
            if training.is_finished:
                console.print(f"{head}: finished before")
            else:
                begun.append(pool.submit(train, head, training))
        try:
            for future in as_completed(begun):
                future.result()
        except BaseException:
            stopped.set()
            raise


def _print_plan(
    points: Sequence[Point], seeds: Sequence[int], options: AblateOptions, console: Console
) -> None:
    shown = ", ".join(str(seed) for seed in seeds)
    console.print(f"would train {len(points) * len(seeds)} runs in {options.output}: seeds {shown}")
    for point in points:
        folder = options.output / _RUNS / folder_name(point)
        done = sum((folder / f"seed-{seed}" / "finished.json").is_file() for seed in seeds)
        what = f" ({done} of {len(seeds)} finished)" if done else ""
        console.print(f"  {point.name}{what}")
    console.print("dry run: nothing was sent and nothing was written")
