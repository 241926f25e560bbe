"""`evaluation.json`, and the same as Markdown and HTML.

The JSON file is written last and whole: where it is, the evaluation was finished. The other two are
drawn from it alone.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import jinja2
import numpy as np

from axolotl_ual.evaluation.comparison import Arm, Result
from axolotl_ual.evaluation.differences import ALPHA, POWER
from axolotl_ual.evaluation.predictions import DIAGRAM, Measure
from axolotl_ual.evaluation.resampling import LEVEL, RESAMPLES

from ..report.page import render

JSON_FILE: Final = "evaluation.json"
MARKDOWN_FILE: Final = "evaluation.md"
HTML_FILE: Final = "evaluation.html"
PACKAGE: Final = "axolotl_ual.preprocess.evaluation"
VERSION: Final = 1


def result_dict(result: Result) -> dict[str, Any]:
    """A result as JSON values; what has no value is null."""
    return dict(_plain(asdict(result)))


def measure_dict(measure: Measure) -> dict[str, Any]:
    """What a measure is called, and which way is better."""
    return {"name": measure.name, "label": measure.label, "better": measure.better}


def reliability(arms: Sequence[Arm]) -> dict[str, list[dict[str, Any]]]:
    """Bins of the reliability diagram by arm, predictions of all its seeds together."""
    diagrams = {}
    for arm in arms:
        count, gap, confidence = (
            np.sum([sums[f"{name}_{DIAGRAM}"].sum(axis=0) for sums in arm.sums], axis=0)
            for name in ("count", "gap", "confidence")
        )
        diagrams[arm.name] = [
            {
                "count": int(n),
                "confidence": float(c / n),
                "accuracy": float((c + g) / n),
            }
            for n, g, c in zip(count, gap, confidence, strict=True)
            if n > 0
        ]
    return diagrams


def settings_of_the_statistics(seed: int) -> dict[str, Any]:
    """What the numbers rest on, for the reader."""
    return {
        "alpha": ALPHA,
        "power": POWER,
        "level": LEVEL,
        "resamples": RESAMPLES,
        "seed": seed,
        "error": "clustered by prompt, and over seeds where there are several",
        "correction": "Holm, over the arms and groups of a measure",
    }


def write_document(folder: Path, document: Mapping[str, Any]) -> None:
    """Write Markdown, HTML and, last, JSON.

    Args:
        folder: made where it is missing.
        document: JSON values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / JSON_FILE).unlink(missing_ok=True)
    _replace(folder / MARKDOWN_FILE, _markdown(document))
    _replace(folder / HTML_FILE, _page(document))
    _replace(folder / JSON_FILE, json.dumps(_plain(document), indent=2, ensure_ascii=False) + "\n")


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    return value


def _markdown(document: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(PACKAGE),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= _filters()
    return environment.get_template(f"{MARKDOWN_FILE}.jinja").render(_shown(document))


def _page(document: Mapping[str, Any]) -> str:
    return render(
        f"{HTML_FILE}.jinja",
        PACKAGE,
        [],
        title="Evaluation",
        styles=[(PACKAGE, "evaluation.css")],
        filters=_filters(),
        **_shown(document),
    )


def _shown(document: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "document": _plain(document),
        "tables": list(tables(document)),
        "changes": _changes(document),
        "scatters": _scatters(document),
    }


def _filters() -> dict[str, Callable[..., str]]:
    return {"number": number, "signed": signed, "span": span, "p": p_value}


def _scatters(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Pictures of the features, scaled to the unit square, with the number of each row's group."""
    clusters = document["clustering"]
    if clusters is None:
        return []
    names = sorted(set(clusters["labels"]))
    groups = [names.index(label) for label in clusters["labels"]]
    found = []
    for arm, methods in clusters["pictures"].items():
        for method, places in methods.items():
            corner, size = np.min(places, axis=0), np.ptp(places, axis=0)
            scaled = (np.array(places) - corner) / np.where(size > 0, size, 1.0)
            points = [[x, y, g] for (x, y), g in zip(scaled.tolist(), groups, strict=True)]
            found.append({"arm": arm, "method": method, "points": points, "names": names})
    return found


def _changes(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(tables(document["forgetting"])) if document["forgetting"] else []


def number(value: float | None) -> str:
    """Four significant digits, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4g}" if abs(value) >= 1e-4 or value == 0 else f"{value:.1e}"


def signed(value: float | None) -> str:
    """Likewise with a sign."""
    if value is None or not math.isfinite(value):
        return number(value)
    return f"{value:+.3g}" if value else "0"


def span(interval: Sequence[float] | None) -> str:
    """An interval in brackets."""
    return "–" if interval is None else f"[{signed(interval[0])}, {signed(interval[1])}]"


def p_value(value: float | None) -> str:
    """A p-value."""
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def tables(document: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    """One table a measure: a row for each group and arm."""
    for measure in document["measures"]:
        rows = [
            result
            for result in document["results"]
            if result["measure"] == measure["name"] and _has_value(result)
        ]
        if rows:
            yield {**measure, "rows": [line for row in rows for line in _lines(row)]}


def _has_value(result: Mapping[str, Any]) -> bool:
    """Whether any arm has one: no row of a group may have an answer, say."""
    return any(v is not None and math.isfinite(v) for v in result["values"].values())


def _lines(result: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    differences = {d["arm"]: d for d in result["differences"]}
    for place, (arm, value) in enumerate(result["values"].items()):
        yield {
            "first": place == 0,
            "last": place == len(result["values"]) - 1,
            "group": result["group"],
            "rows": result["rows"],
            "prompts": result["prompts"],
            "arm": arm,
            "value": value,
            "interval": result["intervals"][arm],
            "difference": differences.get(arm),
        }
