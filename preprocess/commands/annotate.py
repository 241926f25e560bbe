"""`annotate`, step by step: the only file that knows the order.

Everything that can be wrong with the input is found before anything is paid for, and nothing is
written before everything is known.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from axolotl_ual.columns import Manifest
from axolotl_ual.errors import BackendError, ConfigError, DataError
from axolotl_ual.labels.smoothing import SmoothingMap, solve_smoothing
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import open_session
from ..calls.budget import Budget
from ..data.recipe import Recipe, load_recipe
from ..data.rows import Concatenated, Sample
from ..data.sources import load_sources
from ..engines.base import estimate
from ..engines.build import build_engine, engine_lines
from ..estimators import build_estimator
from ..estimators.base import Estimation, Estimator, FloatArray
from ..labels.remarks import remarks
from ..labels.sentences import Scored
from ..labels.stages import assign_stages
from ..output.annotated import UNREADABLE_FILE, UNSCORED_FILE, Outcome, write_annotated
from ..output.folder import check_target
from ..output.tables import Annotations
from ..progress import show_progress
from .audit import audit
from .beforehand import Rows, drift, look_at_rows, without
from .by_sentence import name_rows, over_sentences, sentences_line, sentences_of
from .closing import images_line, print_plan, print_written
from .report import report_beside

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class AnnotateOptions:
    """What the command line adds to the recipe.

    Attributes:
        output: takes the place of `ual.annotate.output`.
        limit: annotate the first rows only, of each dataset.
        dry_run: tell what would be done, send and write nothing.
        max_cost: USD that may be spent in this run.
        retry_failed: ask again where an answer was kept that gave no score.
        audit: judge so many rows several times and write nothing; None for no audit.
        report: write `report.html` beside the rows.
    """

    output: Path | None = None
    limit: int | None = None
    dry_run: bool = False
    max_cost: float | None = None
    retry_failed: bool = False
    audit: int | None = None
    report: bool = True


def annotate(path: Path, options: AnnotateOptions, console: Console) -> Manifest | None:
    """Annotate the datasets of a recipe.

    Args:
        path: the recipe.
        options: of the command line.
        console: for progress and the closing lines.

    Returns:
        The manifest that was written, or None for a dry run or an audit.

    Raises:
        UALError: what is wrong and what to do; nothing was written.
    """
    recipe = load_recipe(path)
    settings = _annotate_settings(recipe)
    output = options.output or Path(settings.output)
    check_target(output)
    sources = load_sources(recipe, options.limit, settings.on_unreadable)
    if options.audit is None:
        rows = look_at_rows(recipe, settings, sources, console)
    else:
        rows = Rows.of(sources)
    samples = Concatenated([source.samples for source in rows.sources])
    with tempfile.TemporaryDirectory() as scratch:
        unscored = Path(scratch) / UNSCORED_FILE
        with open_session(
            settings.cache,
            Budget(options.max_cost),
            retry_failed=options.retry_failed,
            unscored=unscored,
        ) as session:
            estimator = build_estimator(settings, recipe.base_model, session)
            sentences = sentences_of(recipe, settings, samples)
            items = samples if sentences is None else sentences
            if options.dry_run:
                _print_plan(recipe, settings, rows, estimator, items, output, console)
                return None
            if options.audit is not None:
                _audit(estimator, items, options.audit, console)
                return None
            with show_progress(console, _label(settings), len(items)) as progress:
                engine = build_engine(settings, recipe.base_model, session)
                estimation = estimate(estimator, items, progress, engine)
        scored = None
        if sentences is not None:
            name_rows(unscored, sentences)
            estimation, scored = over_sentences(estimation, sentences)
            scored = scored.among(np.flatnonzero(rows.judged), rows.judged.size)
        _check_missing(settings, estimation)
        found = over_all_rows(estimation, rows)
        keep = _kept_rows(settings, found, rows)
        if keep is not None:
            rows = without(recipe, rows, ~keep)
        annotations, solved = annotate_rows(recipe, settings, found, rows, scored)
        mean, drifted = drift(rows, annotations.smoothing, recipe.ual.smoothing.mean)
        outcome = Outcome(
            {
                "name": settings.estimator,
                **estimation.facts,
                **_images(settings, samples),
                "remarks": remarks(
                    estimation.uncertainty, estimation.facts.get("mapping"), solved.scale
                ),
            },
            found.failures,
            estimation.usage,
            solved.scale,
            keep,
            rows.untrained,
            {**(rows.facts or {}), **({} if np.isnan(mean) else {"mean_smoothing": mean})},
            options.limit,
            unscored,
        )
        manifest = write_annotated(output, recipe, rows.sources, annotations, outcome)
    if options.report:
        report_beside(output, console)
    _print_result(manifest, output, path, drifted, console)
    return manifest


def over_all_rows(estimation: Estimation, rows: Rows) -> Estimation:
    """An estimation of the judged rows as one of all N, with NaN for the others."""

    def spread(values: FloatArray) -> FloatArray:
        everywhere = np.full(rows.judged.size, np.nan, dtype=np.float32)
        everywhere[rows.judged] = values
        return everywhere

    return replace(
        estimation,
        uncertainty=spread(estimation.uncertainty),
        columns={name: spread(values) for name, values in estimation.columns.items()},
        failures={**estimation.failures, **rows.not_judged},
    )


def annotate_rows(
    recipe: Recipe,
    settings: AnnotateConfig,
    found: Estimation,
    rows: Rows,
    sentences: Scored | None = None,
) -> tuple[Annotations, SmoothingMap]:
    """Map uncertainty to smoothing and stages.

    Args:
        recipe: the recipe.
        settings: its `annotate:` section.
        found: about all N rows.
        rows: these rows, with what is trained of them.
        sentences: of these rows, where each has an uncertainty.

    Raises:
        ConfigError: the mean cannot be reached.
    """
    wanted, uncertainty = recipe.ual.smoothing, found.uncertainty
    decreasing = wanted.direction == "decreasing"
    # A row that becomes several sequences counts as often in the mean.
    weight = rows.weight if settings.trained == "only" else None
    if sentences is None or sentences.agree:
        counted = uncertainty if weight is None else np.repeat(uncertainty, weight)
        solved = solve_smoothing(counted, wanted.mean, wanted.max, decreasing)
    else:
        solved = sentences.solve(wanted.mean, wanted.max, decreasing, weight)
    smoothing, column = solved(uncertainty).astype(np.float32), None
    if sentences is not None:
        smoothing_S = solved(sentences.uncertainty_S).astype(np.float32)
        whole = np.zeros(uncertainty.size, np.bool_) if rows.whole is None else rows.whole
        smoothing, column = sentences.means(smoothing_S), sentences.column(smoothing_S, whole)
    smoothing[np.isnan(uncertainty)] = wanted.mean
    stages = assign_stages(uncertainty, recipe.ual.stages.thresholds)
    made = Annotations(uncertainty, smoothing, stages, found.columns, column)
    return made, solved


def _check_missing(settings: AnnotateConfig, estimation: Estimation) -> None:
    missing = np.isnan(estimation.uncertainty)
    if missing.all():
        raise BackendError(
            f"none of the {missing.size:,} rows got an uncertainty ({_reasons(estimation)})",
            "look at the reasons above; nothing was written",
        )
    if missing.any() and settings.on_missing == "error":
        first = int(np.flatnonzero(missing)[0])
        raise DataError(
            f"{int(missing.sum()):,} of {missing.size:,} rows got no uncertainty "
            f"({_reasons(estimation)}); the first is row {first}",
            "set ual.annotate.on_missing to `mean` or `drop`, or mend these rows; answers that "
            "were had are kept in the cache",
        )


def _label(settings: AnnotateConfig) -> str:
    what = "judging sentences" if settings.unit == "sentence" else "judging"
    return f"{what} ({settings.estimator})"


def _kept_rows(settings: AnnotateConfig, found: Estimation, rows: Rows) -> BoolArray | None:
    """Rows that are written; None where none is dropped."""
    if settings.on_missing != "drop":
        return None
    keep: BoolArray = ~(np.isnan(found.uncertainty) & rows.judged)
    return None if keep.all() else keep


def _annotate_settings(recipe: Recipe) -> AnnotateConfig:
    if recipe.ual.annotate is None:
        raise ConfigError(
            f"{recipe.path}: ual.annotate: this section is needed by `axolotl-ual annotate`",
            "add for example\n    ual:\n      annotate:\n        output: data/annotated\n"
            "        estimator: judge\n        judge: {model: gpt-4o}",
        )
    return recipe.ual.annotate


def _images(settings: AnnotateConfig, samples: Sequence[Sample]) -> dict[str, Any]:
    """For the manifest: rows with images, and which of them a judge saw."""
    if settings.images == "error":
        return {}
    if settings.images == "omit":
        rows = sum(sample.has_images for sample in samples)
        return {"images": {"rows": rows, "seen": False}}
    counts = dict.fromkeys(("rows", "sent", "by_address", "beyond_the_first"), 0)
    for sample in samples:
        counts["rows"] += sample.has_images
        counts["sent"] += len(sample.images)
        counts["by_address"] += sum(bool(image.address) for image in sample.images)
        counts["beyond_the_first"] += sample.images_beyond
    return {"images": {**counts, "seen": True}}


def _reasons(estimation: Estimation) -> str:
    return ", ".join(f"{reason}: {number:,}" for reason, number in estimation.failures.items())


def _audit(estimator: Estimator, samples: Sequence[Sample], rows: int, console: Console) -> None:
    with show_progress(console, "auditing", min(rows, len(samples))) as progress:
        lines = audit(estimator, samples, rows, progress)
    for line in lines:
        console.print(line, highlight=False, markup=False)
    console.print("nothing was written; the answers are in the cache")


def _print_plan(
    recipe: Recipe,
    settings: AnnotateConfig,
    rows: Rows,
    estimator: Estimator,
    items: Sequence[Sample],
    output: Path,
    console: Console,
) -> None:
    plan = estimator.plan(items)
    number = sum(len(source.table) for source in rows.sources)
    head = [f"{recipe.path}: would annotate {number:,} rows into {output}"]
    head += [f"  {source.entry.label}: {len(source.table):,} rows" for source in rows.sources]
    if settings.unit == "sentence":
        head.append(f"  {len(items):,} sentences, each scored behind what comes before it")
    head += engine_lines(settings.engine, len(items))
    print_plan(head, plan, console)


def _print_result(
    manifest: Manifest, output: Path, path: Path, drifted: str, console: Console
) -> None:
    counts = manifest.counts
    console.print(f"{counts['rows']:,} rows: {counts['scored']:,} scored", highlight=False)
    if sentences := manifest.estimator.get("sentences"):
        console.print(sentences_line(sentences), highlight=False)
    if counts["missing"]:
        fate = "smoothed by the mean"
        if counts["dropped"]:
            fate = "dropped" if counts["dropped"] == counts["missing"] else f"{fate} or dropped"
        reasons = ", ".join(f"{reason}: {n:,}" for reason, n in manifest.failures.items())
        console.print(f"{counts['missing']:,} without an uncertainty, {fate} ({reasons})")
        if (output / UNSCORED_FILE).exists():
            console.print(f"what was answered for them is in {output / UNSCORED_FILE}")
        if (output / UNREADABLE_FILE).exists():
            console.print(f"rows that cannot be read are named in {output / UNREADABLE_FILE}")
    if images := manifest.estimator.get("images"):
        console.print(images_line(images), highlight=False)
    for line in [*manifest.estimator["remarks"], *([drifted] if drifted else [])]:
        console.print(line, highlight=False, markup=False)
    print_written(manifest, "smoothing:", output, path, console)
