"""Uncertainty of rows by the real `axolotl-ual annotate`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mixed import Row
from serving import judging, sampling

Floats = np.ndarray[Any, Any]
SERVERS = {"judge": judging, "self_consistency": sampling}


def annotated(
    estimator: str,
    rows: Sequence[Row],
    model: Path,
    folder: Path,
    section: Mapping[str, Any],
    smoothing: Mapping[str, float],
) -> Floats:
    """The uncertainty of each row; NaN where none could be had.

    Args:
        estimator: its name in a recipe.
        rows: to be annotated.
        model: what is asked, by itself or behind a server.
        folder: keeps the annotated copy; one that is complete is read and not made again.
        section: further keys of the estimator's section.
        smoothing: the `smoothing:` section.
    """
    import pyarrow.parquet as pq

    if not (folder / "manifest.json").is_file():
        server = SERVERS.get(estimator)
        with nullcontext({}) if server is None else server(model) as keys:
            _annotate(estimator, rows, model, folder, {**keys, **section}, smoothing)
    (table,) = folder.glob("*.parquet")
    values = pq.read_table(table)["ual_uncertainty"].to_pylist()
    return np.array([np.nan if value is None else value for value in values], dtype=np.float64)


def _annotate(
    estimator: str,
    rows: Sequence[Row],
    model: Path,
    folder: Path,
    section: Mapping[str, Any],
    smoothing: Mapping[str, float],
) -> None:
    from rich.console import Console

    from axolotl_ual.preprocess.commands.annotate import AnnotateOptions, annotate

    folder.parent.mkdir(parents=True, exist_ok=True)
    data = folder.with_suffix(".jsonl")
    lines = [json.dumps({"messages": row.messages}) for row in rows]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    recipe = {
        "base_model": str(model),
        "datasets": [{"path": str(data), "type": "chat_template"}],
        "ual": {
            "annotate": {
                "output": str(folder),
                "estimator": estimator,
                estimator: dict(section),
                "trained": "ignore",
                "cache": str(folder.parent / "cache"),
            },
            "smoothing": dict(smoothing),
        },
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    annotate(path, AnnotateOptions(report=False), Console(stderr=True))
