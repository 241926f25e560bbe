"""`annotate`, step by step: the only file that knows the order.

Everything that can be wrong with the input is found before anything is paid for, and nothing is
written before everything is known.
"""

from __future__ import annotations

import bisect
import importlib.metadata
import itertools
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import pyarrow as pa
from rich.console import Console

from axolotl_ual import __version__, columns
from axolotl_ual.columns import Manifest, ManifestSource
from axolotl_ual.data.fingerprint import fingerprint, plain
from axolotl_ual.errors import BackendError, ConfigError, DataError
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import open_session
from ..calls.budget import Budget
from ..data.load import load_entry
from ..data.recipe import Entry, Recipe, load_recipe
from ..data.rows import Sample, read_samples
from ..engines.base import estimate
from ..engines.local import LocalEngine
from ..estimators import build_estimator
from ..estimators.base import Estimation, Estimator, FloatArray
from ..labels.remarks import remarks
from ..labels.smoothing import SmoothingMap, solve_smoothing
from ..labels.stages import StageCodes, assign_stages, stage_counts
from ..output import card
from ..output.folder import (
    check_target,
    float_column,
    replace_folder,
    write_manifest,
    write_parquet,
)
from ..progress import show_progress
from .audit import audit
from .closing import print_plan, print_written

if TYPE_CHECKING:
    from datasets import Dataset

UNSCORED_FILE = "unscored.jsonl"
"""Answers of a judge that gave no score, beside the annotated rows."""
_VERSIONED = ("datasets", "numpy", "openai", "pyarrow", "torch", "transformers")


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
    """

    output: Path | None = None
    limit: int | None = None
    dry_run: bool = False
    max_cost: float | None = None
    retry_failed: bool = False
    audit: int | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """One dataset of the recipe, loaded."""

    entry: Entry
    table: Dataset
    samples: Sequence[Sample]
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Annotations:
    """What is known about the rows of all sources, one after the other."""

    estimation: Estimation
    smoothing: FloatArray
    stages: StageCodes
    map: SmoothingMap

    @property
    def missing(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Bool of shape (N,): rows without an uncertainty."""
        return np.isnan(self.estimation.uncertainty)


class Concatenated(Sequence[Sample]):
    """The samples of several sources as one lazy sequence."""

    def __init__(self, parts: Sequence[Sequence[Sample]]) -> None:
        self._parts = parts
        self._ends = list(itertools.accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __iter__(self) -> Iterator[Sample]:
        return itertools.chain.from_iterable(self._parts)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        part = bisect.bisect_right(self._ends, index)
        return self._parts[part][index - (self._ends[part] - len(self._parts[part]))]


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
    sources = load_sources(recipe, options.limit)
    samples = Concatenated([source.samples for source in sources])
    with tempfile.TemporaryDirectory() as scratch:
        unscored = Path(scratch) / UNSCORED_FILE
        with open_session(
            settings.cache,
            Budget(options.max_cost),
            retry_failed=options.retry_failed,
            unscored=unscored,
        ) as session:
            estimator = build_estimator(settings, recipe.base_model, session)
            if options.dry_run:
                _print_plan(recipe, sources, estimator, samples, output, console)
                return None
            if options.audit is not None:
                _audit(estimator, samples, options.audit, console)
                return None
            label = f"judging ({settings.estimator})"
            with show_progress(console, label, len(samples)) as progress:
                estimation = estimate(estimator, samples, progress, LocalEngine())
        annotations = annotate_rows(recipe, settings, estimation)
        manifest = _write(recipe, settings, options, output, sources, annotations, unscored)
    _print_result(manifest, output, path, settings, console)
    return manifest


def load_sources(recipe: Recipe, limit: int | None) -> list[Source]:
    """Load every dataset of the recipe and check all of its rows.

    Raises:
        DataError: a dataset cannot be read, or rows are not what their type says.
    """
    sources = []
    for entry in recipe.entries:
        table = load_entry(entry, seed=recipe.seed)
        if limit is not None:
            table = table.select(range(min(limit, len(table))))
        samples = read_samples(table, entry, recipe)
        samples.check()
        sources.append(Source(entry, table, samples, fingerprint(entry.raw, recipe.seed)))
    return sources


def annotate_rows(recipe: Recipe, settings: AnnotateConfig, estimation: Estimation) -> Annotations:
    """Map uncertainty to smoothing and stages.

    Raises:
        BackendError: no row at all has an uncertainty.
        DataError: `on_missing: error`, and there are rows without an uncertainty.
        ConfigError: the mean cannot be reached.
    """
    uncertainty = estimation.uncertainty
    missing = np.isnan(uncertainty)
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
    wanted = recipe.ual.smoothing
    solved = solve_smoothing(
        uncertainty, wanted.mean, wanted.max, decreasing=wanted.direction == "decreasing"
    )
    smoothing = solved(uncertainty)
    smoothing[missing] = wanted.mean
    stages = assign_stages(uncertainty, recipe.ual.stages.thresholds)
    return Annotations(estimation, smoothing.astype(np.float32), stages, solved)


def _annotate_settings(recipe: Recipe) -> AnnotateConfig:
    if recipe.ual.annotate is None:
        raise ConfigError(
            f"{recipe.path}: ual.annotate: this section is needed by `axolotl-ual annotate`",
            "add for example\n    ual:\n      annotate:\n        output: data/annotated\n"
            "        estimator: judge\n        judge: {model: gpt-4o}",
        )
    return recipe.ual.annotate


def _write(
    recipe: Recipe,
    settings: AnnotateConfig,
    options: AnnotateOptions,
    output: Path,
    sources: Sequence[Source],
    annotations: Annotations,
    unscored: Path,
) -> Manifest:
    keep = ~annotations.missing if settings.on_missing == "drop" else None
    arrays = _arrow_columns(annotations)
    with replace_folder(output) as folder:
        written, start = [], 0
        for source in sources:
            rows = slice(start, start + len(source.table))
            start = rows.stop
            file = write_parquet(
                folder / _file_name(source, len(sources)),
                source.table,
                {name: array[rows] for name, array in arrays.items()},
                None if keep is None else keep[rows],
            )
            written.append(
                ManifestSource(
                    entry=plain(source.entry.raw),
                    fingerprint=source.fingerprint,
                    rows=len(source.table),
                    file=file,
                )
            )
        if unscored.exists():
            shutil.copyfile(unscored, folder / UNSCORED_FILE)
        manifest = _manifest(recipe, settings, options, written, annotations, keep)
        (folder / "README.md").write_text(card.render(manifest, output), encoding="utf-8")
        write_manifest(folder, manifest)
    return manifest


def _arrow_columns(annotations: Annotations) -> dict[str, pa.Array]:
    estimation = annotations.estimation
    return {
        columns.UNCERTAINTY: float_column(estimation.uncertainty),
        columns.SMOOTHING: float_column(annotations.smoothing),
        columns.STAGE: pa.array(np.array(columns.STAGES)[annotations.stages]),
        **{name: float_column(values) for name, values in estimation.columns.items()},
    }


def _manifest(
    recipe: Recipe,
    settings: AnnotateConfig,
    options: AnnotateOptions,
    written: list[ManifestSource],
    annotations: Annotations,
    keep: np.ndarray[Any, np.dtype[np.bool_]] | None,
) -> Manifest:
    kept = slice(None) if keep is None else keep
    smoothing = annotations.smoothing[kept]
    missing = int(annotations.missing.sum())
    rows = annotations.missing.size
    return Manifest(
        package_version=__version__,
        versions=library_versions(),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        estimator={
            "name": settings.estimator,
            **annotations.estimation.facts,
            "remarks": _remarks(annotations),
        },
        settings=recipe.ual.result_settings(recipe.base_model),
        sources=written,
        limit=options.limit,
        counts={
            "rows": rows,
            "scored": rows - missing,
            "missing": missing,
            "dropped": rows - smoothing.size,
        },
        failures=dict(sorted(annotations.estimation.failures.items())),
        usage=annotations.estimation.usage,
        smoothing={
            "mean": float(smoothing.mean(dtype=np.float64)),
            "max": float(smoothing.max()),
            "scale": annotations.map.scale,
        },
        stages=stage_counts(annotations.stages[kept]),
    )


def _remarks(annotations: Annotations) -> list[str]:
    estimation = annotations.estimation
    mapping = estimation.facts.get("mapping")
    return remarks(estimation.uncertainty, mapping, annotations.map.scale)


def library_versions() -> dict[str, str]:
    """Python and the libraries that shape a result, for the manifest."""
    versions = {"python": platform.python_version()}
    for name in _VERSIONED:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _file_name(source: Source, sources: int) -> str:
    split = str(source.entry.raw.get("split") or "train")
    plain_split = "".join(c if c.isalnum() or c in "-_" else "_" for c in split).strip("_")
    if sources == 1:
        return f"{plain_split}.parquet"
    label = "".join(c if c.isalnum() or c in "-_" else "-" for c in source.entry.label).strip("-")
    return f"{source.entry.index:02d}-{label}-{plain_split}.parquet"


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
    sources: Sequence[Source],
    estimator: Estimator,
    samples: Sequence[Sample],
    output: Path,
    console: Console,
) -> None:
    plan = estimator.plan(samples)
    head = [f"{recipe.path}: would annotate {len(samples):,} rows into {output}"]
    head += [f"  {source.entry.label}: {len(source.table):,} rows" for source in sources]
    print_plan(head, plan, console)


def _print_result(
    manifest: Manifest, output: Path, path: Path, settings: AnnotateConfig, console: Console
) -> None:
    counts = manifest.counts
    console.print(f"{counts['rows']:,} rows: {counts['scored']:,} scored", highlight=False)
    if counts["missing"]:
        fate = "dropped" if settings.on_missing == "drop" else "smoothed by the mean"
        reasons = ", ".join(f"{reason}: {n:,}" for reason, n in manifest.failures.items())
        console.print(f"{counts['missing']:,} without an uncertainty, {fate} ({reasons})")
        if (output / UNSCORED_FILE).exists():
            console.print(f"what was answered for them is in {output / UNSCORED_FILE}")
    for remark in manifest.estimator["remarks"]:
        console.print(remark, highlight=False, markup=False)
    print_written(manifest, "smoothing:", output, path, console)
