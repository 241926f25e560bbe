"""The folder that `annotate` leaves: a Parquet file for each dataset, manifest and card."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import Manifest, ManifestSource, ManifestUsage
from axolotl_ual.data.fingerprint import plain

from ..data.recipe import Recipe
from ..data.sources import Source
from ..labels.stages import stage_counts
from . import card
from .folder import replace_folder, write_manifest, write_parquet
from .manifest import make_manifest
from .tables import Annotations, annotated

UNSCORED_FILE: Final = "unscored.jsonl"
"""Answers of a judge that gave no score, beside the annotated rows."""
UNREADABLE_FILE: Final = "unreadable.jsonl"
"""Rows that could not be read: where they lie, and what is wrong there."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run found out beside the values of the columns.

    Attributes:
        estimator: its name and facts.
        failures: rows without an uncertainty, by reason.
        usage: of the run.
        scale: slope of the smoothing.
        keep: bool of shape (N,): rows that are written; None for all.
        untrained: rows without a trained token.
        trained: what training makes of the rows.
        limit: `--limit`.
        unscored: file with the answers that gave no score, where there is one.
    """

    estimator: dict[str, Any]
    failures: Mapping[str, int]
    usage: ManifestUsage
    scale: float
    keep: npt.NDArray[np.bool_] | None = None
    untrained: int = 0
    trained: dict[str, Any] = field(default_factory=dict)
    limit: int | None = None
    unscored: Path | None = None


def write_annotated(
    output: Path,
    recipe: Recipe,
    sources: Sequence[Source],
    annotations: Annotations,
    outcome: Outcome,
) -> Manifest:
    """Write the folder, the manifest last.

    Args:
        output: the folder.
        recipe: that was run.
        sources: its datasets, N rows in all.
        annotations: of these rows.
        outcome: of the run.

    Raises:
        DataError: something else lies where the folder should.
    """
    with replace_folder(output) as folder:
        written = _write_rows(folder, sources, annotations, outcome)
        if outcome.unscored is not None and outcome.unscored.exists():
            shutil.copyfile(outcome.unscored, folder / UNSCORED_FILE)
        lines = [json.dumps(asdict(row)) for source in sources for row in source.unreadable]
        if lines:
            text = "".join(f"{line}\n" for line in lines)
            (folder / UNREADABLE_FILE).write_text(text, encoding="utf-8")
        manifest = _manifest(recipe, sources, written, annotations, outcome)
        (folder / "README.md").write_text(
            card.render(manifest, output, recipe.raw), encoding="utf-8"
        )
        write_manifest(folder, manifest)
    return manifest


def _write_rows(
    folder: Path, sources: Sequence[Source], annotations: Annotations, outcome: Outcome
) -> list[ManifestSource]:
    filled, keep = annotated(annotations), outcome.keep
    written, start = [], 0
    for source in sources:
        rows = slice(start, start + len(source.table))
        start = rows.stop
        file = write_parquet(
            folder / _file_name(source, len(sources)),
            source.table,
            {column.name: array[rows] for column, array in filled},
            None if keep is None else keep[rows],
        )
        file.columns = [column for column, _ in filled]
        written.append(
            ManifestSource(
                entry=plain(source.entry.raw),
                fingerprint=source.fingerprint,
                rows=source.rows_read,
                file=file,
            )
        )
    return written


def _file_name(source: Source, sources: int) -> str:
    split = str(source.entry.raw.get("split") or "train")
    plain_split = "".join(c if c.isalnum() or c in "-_" else "_" for c in split).strip("_")
    if sources == 1:
        return f"{plain_split}.parquet"
    label = "".join(c if c.isalnum() or c in "-_" else "-" for c in source.entry.label).strip("-")
    return f"{source.entry.index:02d}-{label}-{plain_split}.parquet"


def _manifest(
    recipe: Recipe,
    sources: Sequence[Source],
    written: list[ManifestSource],
    annotations: Annotations,
    outcome: Outcome,
) -> Manifest:
    kept = slice(None) if outcome.keep is None else outcome.keep
    smoothing = annotations.smoothing[kept]
    rows = sum(source.rows_read for source in sources)
    scored = int((~annotations.missing).sum())
    not_judged = {
        "unreadable": sum(len(source.unreadable) for source in sources),
        "untrained": outcome.untrained,
    }
    return make_manifest(
        estimator=outcome.estimator,
        settings=recipe.ual.result_settings(recipe.base_model),
        sources=written,
        limit=outcome.limit,
        counts={
            "rows": rows,
            "scored": scored,
            "missing": rows - scored,
            "dropped": rows - smoothing.size,
            **{name: number for name, number in not_judged.items() if number},
        },
        failures=dict(sorted(outcome.failures.items())),
        usage=outcome.usage,
        smoothing={
            "mean": float(smoothing.mean(dtype=np.float64)),
            "max": float(smoothing.max()),
            "scale": outcome.scale,
        },
        stages=stage_counts(annotations.stages[kept]),
        trained=outcome.trained,
    )
