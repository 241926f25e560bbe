"""`evaluate`, step by step: runs, held-out rows, what they make of them, and the document."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from axolotl_ual import __version__
from axolotl_ual.errors import ConfigError
from axolotl_ual.evaluation.comparison import compare
from axolotl_ual.evaluation.groups import ALL
from axolotl_ual.evaluation.predictions import EXACT_MATCH, MEASURES, Measure
from axolotl_ual.settings.evaluate import EvaluateConfig

from ..calls.ask import open_session
from ..calls.budget import Budget
from ..calls.cache import Cache
from ..data.prompt import Prompt
from ..data.recipe import Recipe, load_recipe, read_yaml
from ..evaluation import document as documents
from ..evaluation.features import measure_clusters
from ..evaluation.forgetting import Forgetting, check_forgetting, measure_forgetting
from ..evaluation.heldout import HeldOut, read_heldout
from ..evaluation.judged import (
    SECTION,
    Judged,
    compare_responses,
    judge_runs,
    rate_responses,
)
from ..evaluation.measuring import Measured, group_rows, measure_runs
from ..evaluation.reading import Reader, Text, encode_rows
from ..evaluation.runs import BASE, Run, find_runs
from ..output.manifest import library_versions
from ..progress import show_progress
from .pairs import chat_template

_SFT: Final = "sft"
_SHOWN: Final = (
    "nll",
    "ece_mass_15",
    "exact_match",
    "win_rate",
    "length_controlled_win_rate",
    "silhouette",
)
"""Measures of the closing table; all of them are in the files."""


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """What the command line adds to the recipe.

    Attributes:
        runs: NAME, NAME=PATH or PATH.
        data: files of held-out rows.
        output: takes the place of `ual.evaluate.output`.
        limit: the first held-out rows only.
        by: further columns to group rows by.
        against: the arm that the others are compared with.
        max_cost: USD that a judge may cost in this run.
        retry_failed: ask a judge again where an answer was kept that gave no score.
    """

    runs: Sequence[str]
    data: Sequence[Path] = ()
    output: Path | None = None
    limit: int | None = None
    by: Sequence[str] = ()
    against: str | None = None
    max_cost: float | None = None
    retry_failed: bool = False


def evaluate(path: Path, options: EvaluateOptions, console: Console) -> Mapping[str, Any]:
    """Measure runs on held-out rows and compare them.

    Args:
        path: the recipe.
        options: of the command line.
        console: for progress and the closing table.

    Returns:
        What was written to `evaluation.json`.

    Raises:
        UALError: what is wrong and what to do; what was measured is in the cache.
    """
    recipe = load_recipe(path, for_pairs=bool(read_yaml(path).get("rl")))
    return evaluate_runs(recipe, find_runs(options.runs, recipe), options, console)


def evaluate_runs(
    recipe: Recipe, runs: Sequence[Run], options: EvaluateOptions, console: Console
) -> Mapping[str, Any]:
    """The same for runs that are known already; `options.runs` is not looked at."""
    settings = _settings(recipe, options)
    against = _reference(runs, settings.against)
    output = options.output or Path(settings.output)
    template = chat_template(recipe.raw)
    base = str(recipe.base_model)
    check_forgetting(settings.forgetting, runs)
    heldout = read_heldout(recipe, options.data, options.limit)
    text = encode_rows(heldout.samples, base, template, settings)
    with Cache(settings.cache) as cache:
        readers = [(run, Reader(run, base, template, settings, cache)) for run in runs]
        measured = measure_runs(readers, text, heldout, settings, cache, console)
        further, reasons = _judge(settings, measured, heldout, against, options, console)
        clustered, clusters = measure_clusters(
            readers, text, heldout, measured, settings, cache, console
        )
        forgotten = measure_forgetting(readers, settings, text.max_length, cache, console)
    document = _document(recipe, settings, heldout, text, measured, against, [*further, *clustered])
    document["clustering"] = None if clusters is None else dataclasses.asdict(clusters)
    document["unjudged"] = dict(reasons)
    document["forgetting"] = None if forgotten is None else _forgetting(forgotten)
    documents.write_document(output, document)
    print_document(document, console)
    console.print(f"wrote {output / documents.JSON_FILE}, and the same as .md and .html")
    return document


def _settings(recipe: Recipe, options: EvaluateOptions) -> EvaluateConfig:
    settings = recipe.ual.evaluate
    return settings.model_copy(
        update={
            "by": [*settings.by, *(name for name in options.by if name not in settings.by)],
            "against": options.against or settings.against,
        }
    )


def _reference(runs: Sequence[Run], wanted: str | None) -> str:
    arms = list(dict.fromkeys(run.arm for run in runs))
    if wanted is None:
        return _SFT if _SFT in arms else arms[0]
    if wanted not in arms:
        raise ConfigError(
            f"--against: {wanted}: is none of the runs", f"name one of {', '.join(arms)}"
        )
    return wanted


def _judge(
    settings: EvaluateConfig,
    measured: Measured,
    heldout: HeldOut,
    against: str,
    options: EvaluateOptions,
    console: Console,
) -> tuple[Sequence[Measure], Mapping[str, int]]:
    """What a judge makes of the responses, where the settings name one."""
    prompts = [heldout.prompts[row] for row in measured.generated]
    config = settings.judge
    if config is None:
        if not settings.sentiment:
            return [], {}
        return judge_runs(measured, prompts, against, None, settings.sentiment)
    budget = Budget(options.max_cost)
    with open_session(
        settings.cache, budget, retry_failed=options.retry_failed, unscored=None
    ) as session:
        asker = session.asker(config, SECTION)
        asker.check()
        each = (2 + len(settings.ratings)) * len(prompts)
        with show_progress(console, "judging", each * len(measured.runs)) as progress:
            meter = session.meter(progress, each * len(measured.runs))

            def ask(
                _: Run, prompts: Sequence[Prompt], own: Sequence[str], other: Sequence[str]
            ) -> list[Judged]:
                compared = compare_responses(asker, config, prompts, own, other, meter)
                if not settings.ratings:
                    return [compared]
                rated = rate_responses(asker, config, settings.ratings, prompts, own, meter)
                return [compared, rated]

            found = judge_runs(measured, prompts, against, ask, settings.sentiment)
            meter.finish()
    return found


def _document(
    recipe: Recipe,
    settings: EvaluateConfig,
    heldout: HeldOut,
    text: Text,
    measured: Measured,
    against: str,
    further: Sequence[Measure],
) -> dict[str, Any]:
    arms = measured.arms
    groups = group_rows(heldout, measured, text, settings)
    measures = [*MEASURES, *([EXACT_MATCH] if measured.answered else []), *further]
    results = compare(arms, heldout.clusters, groups, measures, against, settings.seed)
    readable = text.readable
    return {
        "version": documents.VERSION,
        "package_version": __version__,
        "versions": library_versions(),
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "recipe": str(recipe.path),
        "base_model": recipe.base_model,
        "settings": settings.model_dump(mode="json", exclude={"cache"}),
        "data": {
            "source": heldout.source,
            "rows": int(readable.sum()),
            "prompts": len(set(heldout.clusters[readable].tolist())),
            "tokens": int(measured.sums[0]["tokens"].sum()),
            "answered": measured.answered,
            "unreadable": text.unreadable,
            "cut": text.cut,
            "max_length": text.max_length,
        },
        "runs": [
            {"arm": r.arm, "seed": r.seed, "kind": r.kind, "path": r.path, "digest": r.digest}
            for r in measured.runs
        ],
        "against": against,
        "single_seed": [arm.name for arm in arms if arm.trained and len(arm.seeds) == 1],
        "statistics": documents.settings_of_the_statistics(settings.seed),
        "measures": [documents.measure_dict(measure) for measure in measures],
        "results": [documents.result_dict(result) for result in results],
        "reliability": documents.reliability(arms),
    }


def _forgetting(forgotten: Forgetting) -> dict[str, Any]:
    return {
        "measures": [documents.measure_dict(measure) for measure in forgotten.measures],
        "results": [documents.result_dict(result) for result in forgotten.results],
        "left_out": forgotten.left_out,
    }


def print_document(document: Mapping[str, Any], console: Console) -> None:
    """Print the closing tables: the main measures over all rows, and by the columns of `by`."""
    data = document["data"]
    groups = tuple(f"{name} " for name in document["settings"]["by"])
    console.print(f"{data['rows']:,} held-out rows, {data['prompts']:,} distinct prompts")
    for part in documents.tables(document):
        if part["name"] in _SHOWN:
            rows = [r for r in part["rows"] if r["group"] == ALL or r["group"].startswith(groups)]
            _print_table(part, rows, document["against"], console)
    if document["forgetting"] is not None:
        for part in documents.tables(document["forgetting"]):
            _print_table(part, part["rows"], BASE, console)
        for task, metrics in document["forgetting"]["left_out"].items():
            console.print(f"{task}: no mean over questions, so left out: {', '.join(metrics)}")
    for reason, count in data["unreadable"].items():
        console.print(f"{count:,} rows are left out for all runs: {reason}")
    for reason, count in document["unjudged"].items():
        console.print(f"{count:,} questions to the judge gave no score: {reason}")
    if document["single_seed"]:
        names = ", ".join(document["single_seed"])
        console.print(f"one seed of {names}: nothing here tells what another seed would give")


def _print_table(
    part: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], against: str, console: Console
) -> None:
    better = f" ({part['better']} is better)" if part["better"] else ""
    table = Table(title=f"{part['label']}{better}", title_justify="left")
    for name in ("rows", "arm"):
        table.add_column(name)
    for name in ("value", f"- {against}", "95 %", "p (Holm)", "detectable"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row["group"] if row["first"] else "",
            row["arm"],
            documents.number(row["value"]),
            *_cells(row["difference"]),
            end_section=row["last"],
        )
    console.print(table)


def _cells(difference: Mapping[str, Any] | None) -> list[str]:
    if difference is None:
        return ["–"] * 4
    test = difference["test"]
    return [
        documents.signed(difference["difference"]),
        documents.span(difference["both"]),
        documents.p_value(difference["p_holm"]),
        documents.number(test["detectable"] if test else None),
    ]
