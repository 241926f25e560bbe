"""The numbers of a report, for `--json` and for its head."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from axolotl_ual.columns import GAP, STAGES, UNCERTAINTY

from .annotated import estimators_agreement, repeats_agreement, repeats_of
from .bins import Groups, Summary, by_group, histogram, length_edges, place, summarise
from .bins import Values as Array
from .folder import Folder
from .paired import difference_of_lengths, dimensions_agreement
from .responses import Responses
from .rows import Texts
from .sample import Extreme
from .shared import edges_of
from .table import Table, number_columns
from .values import Values

_QUANTILE_NAMES = ("least", "q05", "q25", "median", "q75", "q95", "greatest")


def report_facts(
    folder: Folder,
    values: Values,
    texts: Texts,
    responses: Responses | None,
    extremes: Sequence[Extreme],
    findings: Sequence[str],
    table: Table,
) -> dict[str, Any]:
    """Everything that a report shows, but the texts, as JSON values."""
    manifest = folder.manifest
    main = GAP if folder.kind == "pairs" else UNCERTAINTY
    facts: dict[str, Any] = plain(
        {
            "folder": folder.path.name,
            "kind": folder.kind,
            "created": manifest.created if manifest else None,
            "package_version": manifest.package_version if manifest else None,
            "estimator": manifest.estimator if manifest else None,
            "usage": manifest.usage.model_dump() if manifest else None,
            "counts": manifest.counts if manifest else None,
            "failures": manifest.failures if manifest else None,
            "rows": values.rows,
            "columns": {
                name: _column(name, array)
                for name, array in number_columns(folder, values, texts).items()
            },
            "stages": {
                stage: int(np.count_nonzero(values.stage_N == code))
                for code, stage in enumerate(STAGES)
            },
            "sources": _sources(folder, values, main),
            "by_length": _by_length(values.get(main), texts),
            "by_turns": _by_turns(values.get(main), texts),
            "length_unit": texts.unit,
            "agreement": _agreement(folder, values, texts, responses),
            "responses": _responses(responses),
            "extremes": {extreme.name: _extreme(folder, values, extreme) for extreme in extremes},
            "findings": list(findings),
            "table": {"rows": int(table.rows_T.size), "of": values.rows},
        }
    )
    return facts


def summary_facts(found: Summary) -> dict[str, Any]:
    """A summary by name."""
    named = dict(zip(_QUANTILE_NAMES, found.quantiles, strict=True))
    return {
        "rows": found.rows,
        "missing": found.missing,
        "mean": found.mean,
        "sd": found.sd,
        "distinct": found.distinct,
        **named,
    }


def _column(name: str, array: Array) -> dict[str, Any]:
    edges = edges_of(name, array)
    return {
        **summary_facts(summarise(array)),
        "histogram": {"edges": edges, "counts": histogram(array, edges)},
    }


def _sources(folder: Folder, values: Values, main: str) -> list[dict[str, Any]]:
    groups = by_group(values.get(main), values.part_N.astype(np.int64), len(folder.parts))
    return [
        {"label": part.label, "file": part.path.name, "rows": part.rows, **group}
        for part, group in zip(folder.parts, _groups(groups), strict=True)
    ]


def _by_length(array: Array, texts: Texts) -> list[dict[str, Any]]:
    known = texts.length_N[np.isfinite(texts.length_N)]
    if not known.size:
        return []
    edges = length_edges(float(known.max()))
    groups = by_group(array, place(texts.length_N, edges), edges.size - 1)
    return [
        {"from": int(edges[i]), "below": int(edges[i + 1]), **group}
        for i, group in enumerate(_groups(groups))
        if groups.rows[i]
    ]


def _by_turns(array: Array, texts: Texts) -> list[dict[str, Any]]:
    known = np.isfinite(texts.turns_N)
    numbers, at = np.unique(texts.turns_N[known], return_inverse=True)
    group_N = np.full(texts.turns_N.size, -1)
    group_N[known] = at
    groups = by_group(array, group_N, numbers.size)
    return [
        {"turns": int(number), **group}
        for number, group in zip(numbers, _groups(groups), strict=True)
    ]


def _groups(groups: Groups) -> list[dict[str, Any]]:
    return [
        {
            "scored": int(rows),
            "mean": mean,
            **dict(zip(_QUANTILE_NAMES[1:-1], quantiles, strict=True)),
        }
        for rows, mean, quantiles in zip(groups.rows, groups.mean, groups.quantiles, strict=True)
    ]


def _agreement(
    folder: Folder, values: Values, texts: Texts, responses: Responses | None
) -> dict[str, Any]:
    if folder.kind == "pairs":
        difference = difference_of_lengths(texts)
        return {
            "dimensions": [asdict(pair) for pair in dimensions_agreement(responses)],
            "chosen_longer": int(np.count_nonzero(difference > 0)),
            "chosen_shorter": int(np.count_nonzero(difference < 0)),
        }
    repeats = repeats_agreement(values, repeats_of(folder.manifest))
    return {
        "repeats": None if repeats is None else asdict(repeats),
        "estimators": [asdict(pair) for pair in estimators_agreement(values, folder.manifest)],
    }


def _responses(responses: Responses | None) -> dict[str, Any] | None:
    if responses is None:
        return None
    return {
        "rows": int(responses.prompt_R.size),
        "prompts": int(np.unique(responses.prompt_R).size),
        "statuses": responses.statuses,
        "columns": {
            name: summary_facts(summarise(array))
            for name, array in responses.numbers.items()
            if name != "cluster"
        },
    }


def _extreme(folder: Folder, values: Values, extreme: Extreme) -> list[dict[str, Any]]:
    return [
        {
            "file": folder.parts[int(values.part_N[row])].path.name,
            "row": int(values.number_N[row]),
            extreme.column: value,
        }
        for row, value in zip(extreme.rows, extreme.values, strict=True)
    ]


def plain(value: Any) -> Any:
    """JSON values: numbers of numpy as Python's, what is no number as null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
