"""A report as a page: its head in words and large numbers, and what the template needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import orjson

from axolotl_ual.columns import GAP, PREFIX, SMOOTHING, UNCERTAINTY, Manifest

from .bins import summarise
from .build import Report
from .figure import count, number, share
from .findings import at_cap
from .names import name_of
from .pack import pack_json
from .page import PACKAGE, render
from .sample import Extreme
from .table import describe_table

_SCRIPTS: Final = ("table.js", "rows.js", "report.js")
_SHOWN_EXTREMES: Final = 5

Tile = tuple[str, str, str]
"""Label, value, detail."""


def render_report(report: Report) -> str:
    """The page."""
    folder, table = report.folder, report.table
    about = describe_table(folder, report.values, report.texts, table, report.extremes)
    about["scores"] = [name.removeprefix(PREFIX).replace("_", " ") for name in report.scores]
    return render(
        "report.html.jinja",
        PACKAGE,
        [figure for section in report.sections for figure in section.figures],
        title=f"{folder.path.resolve().name}: report",
        scripts=[(PACKAGE, name) for name in _SCRIPTS],
        styles=[(PACKAGE, "report.css")],
        packed={"table": pack_json(about), "arrays": table.arrays()},
        blocks=table.blocks.blocks,
        name=folder.path.resolve().name,
        facts=report.facts,
        manifest=folder.manifest,
        sections=report.sections,
        extremes=[_shown(extreme, report) for extreme in report.extremes],
        tiles=list(tiles(report)),
        subtitle=" · ".join(subtitle(report)),
        table=about,
        run_facts=list(run_facts(folder.manifest)),
        settings=_settings(folder.manifest),
    )


def _shown(extreme: Extreme, report: Report) -> dict[str, Any]:
    noun = "pairs" if report.folder.kind == "pairs" else "rows"
    pairs = report.folder.kind == "pairs"
    ties, first = "", "greatest" if extreme.high else "least"
    if extreme.tied > 1:
        value = number(float(extreme.values[0]), 4)
        ties = f"{count(extreme.tied)} {noun} have {value}; these are drawn from them."
    return {
        "name": extreme.name,
        "title": extreme.title,
        "column": extreme.column,
        "label": f"{name_of(extreme.column, pairs)}, {first} first",
        "ties": ties if extreme.tied > _SHOWN_EXTREMES else "",
        "shown": _SHOWN_EXTREMES,
    }


def _settings(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    return orjson.dumps(manifest.settings, option=orjson.OPT_INDENT_2).decode()


def tiles(report: Report) -> Iterator[Tile]:
    """The large numbers of the head."""
    pairs = report.folder.kind == "pairs"
    yield _rows_tile(report)
    main = GAP if pairs else UNCERTAINTY
    found = summarise(report.values.get(main))
    middle = f"middle half {number(found.quantiles[2])} to {number(found.quantiles[4])}"
    yield (
        f"Mean {name_of(main)}",
        number(found.mean),
        f"median {number(found.median)}, {middle}",
    )
    yield _smoothing_tile(report)
    yield from _usage_tiles(report.folder.manifest)


def _rows_tile(report: Report) -> Tile:
    manifest, rows = report.folder.manifest, report.values.rows
    counts = manifest.counts if manifest else {}
    if report.folder.kind == "pairs":
        parts = [f"{count(counts[n])} {n}" for n in ("prompts", "responses") if n in counts]
        return "Pairs", count(rows), "from " + ", ".join(parts) if parts else ""
    scored = summarise(report.values.get(UNCERTAINTY)).rows
    parts = [f"{count(scored)} scored"]
    if rows > scored:
        parts.append(f"{count(rows - scored)} without an uncertainty")
    if counts.get("dropped"):
        parts.append(f"{count(counts['dropped'])} dropped")
    return "Rows", count(rows), ", ".join(parts)


def _smoothing_tile(report: Report) -> Tile:
    pairs = report.folder.kind == "pairs"
    smoothing = report.values.get(SMOOTHING)
    found = summarise(smoothing)
    manifest = report.folder.manifest
    settings = manifest.settings.get("smoothing") if manifest else None
    settings = settings if isinstance(settings, Mapping) else {}
    parts = [f"asked for {settings['mean']:g}"] if "mean" in settings else []
    parts.append(f"largest {number(found.greatest)}")
    if "max" in settings:
        capped = at_cap(smoothing[np.isfinite(smoothing)], float(settings["max"]))
        parts[-1] += f" of {settings['max']:g} allowed"
        if capped:
            parts.append(f"{share(capped, found.rows)} at that cap")
    return f"Mean {name_of(SMOOTHING, pairs)}", number(found.mean, 4), ", ".join(parts)


def _usage_tiles(manifest: Manifest | None) -> Iterator[Tile]:
    if manifest is None or not (manifest.usage.requests or manifest.usage.cached):
        return
    usage = manifest.usage
    detail = f"{count(usage.cached)} further answers from the cache" if usage.cached else ""
    yield "Requests", count(usage.requests), detail
    tokens = ""
    if usage.prompt_tokens:
        tokens = f"{count(usage.prompt_tokens)} + {count(usage.completion_tokens)} tokens, "
        tokens += "prompt and completion"
    yield "Cost of this run", money(usage.cost_usd), tokens


def money(usd: float | None) -> str:
    """An amount with cents, or with four decimals where cents would round it away."""
    if usd is None:
        return "not known"
    return f"{usd:,.2f} USD" if usd >= 0.1 or usd == 0 else f"{usd:.4f} USD"


def subtitle(report: Report) -> Iterator[str]:
    """What the rows are and how they were made."""
    manifest = report.folder.manifest
    yield "preference pairs" if report.folder.kind == "pairs" else "annotated rows"
    if manifest is None:
        return
    yield from estimators(manifest)
    yield manifest.created.replace("T", " ").replace("+00:00", " UTC")


def estimators(manifest: Manifest) -> Iterator[str]:
    """Who was asked, a phrase each."""
    facts = manifest.estimator
    if manifest.kind == "pairs":
        for name, said in facts.items():
            if isinstance(said, Mapping) and "method" in said:
                model = f" ({said['model']})" if said.get("model") else ""
                yield f"{name}: {said['method']}{model}"
        return
    yield f"{facts.get('name', 'estimator')} {facts.get('model', '')}".strip()
    for judge in facts.get("judges", ()):
        yield str(judge.get("model"))
    if facts.get("members"):
        yield " + ".join(facts["members"])
    if facts.get("rubric"):
        yield f"rubric {facts['rubric']}"


def run_facts(manifest: Manifest | None) -> Iterator[tuple[str, str]]:
    """What the manifest says of the run, a line each."""
    if manifest is None:
        return
    yield from flat({key: value for key, value in manifest.estimator.items() if key != "remarks"})
    yield "axolotl-ual", manifest.package_version
    yield from manifest.versions.items()
    for key, counted in manifest.counts.items():
        yield f"counts: {key}", count(counted)


def flat(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """A nested mapping as lines of dotted keys."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from flat(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, (list, tuple)):
        for place, item in enumerate(value):
            yield from flat(item, f"{key}[{place}]")
    else:
        yield key, "–" if value is None else str(value)
