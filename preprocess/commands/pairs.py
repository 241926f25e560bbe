"""`pairs`, step by step: prompts, responses, scores, pairs, and the folder they are written to."""

from __future__ import annotations

import functools
import importlib.util
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from axolotl_ual.columns import Manifest
from axolotl_ual.data.fingerprint import fingerprint
from axolotl_ual.errors import ConfigError, DataError
from axolotl_ual.settings.pairs import PairsConfig

from ..calls.ask import Session, open_session
from ..calls.budget import Budget, total_usage
from ..calls.plan import Paying, Plan, joined
from ..data.load import load_entry
from ..data.prompt import Prompt
from ..data.prompts import read_prompts
from ..data.recipe import Recipe, load_recipe
from ..data.responses import ResponseSet, read_responses
from ..data.sources import Unreadable, sift
from ..dimensions.base import Dimension, Usable
from ..dimensions.scores import Scores, build_dimensions, score_responses
from ..dimensions.total import shares, total_uncertainty
from ..engines.build import engine_lines, pairs_on_ray
from ..labels.pairs import (
    Scored,
    digests,
    select_pairs,
    smooth_pairs,
    stage_pairs,
)
from ..output.annotated import UNSCORED_FILE
from ..output.folder import check_target
from ..output.pairing import Paired, Pairing
from ..output.pairs import BY_POLICY, FOUND_AGAIN, Made, Origin, write_pairs
from ..progress import show_progress
from ..sampling.base import Sampled, Sampler, Unsampled
from ..sampling.build import build_sampler
from .beforehand import say_unreadable
from .closing import print_plan, print_written
from .report import report_beside


@dataclass(frozen=True, slots=True)
class PairsOptions:
    """What the command line adds to the recipe.

    Attributes:
        output: takes the place of `ual.pairs.output`.
        from_responses: score these responses instead of sampling.
        limit: the first prompts only, of each dataset.
        dry_run: tell what would be done, send and write nothing.
        max_cost: USD that sampling and rating may cost together in this run.
        retry_failed: ask again where an answer was kept that gave no score.
        report: write `report.html` beside the pairs.
    """

    output: Path | None = None
    from_responses: Path | None = None
    limit: int | None = None
    dry_run: bool = False
    max_cost: float | None = None
    retry_failed: bool = False
    report: bool = True


@dataclass(slots=True)
class Input:
    """Prompts, or responses that are there already.

    Attributes:
        prompts: of all sources, in order.
        origins: of each source.
        responses: those of `--from-responses`, or None.
        unreadable: rows without a prompt that are left out.
    """

    prompts: list[Prompt]
    origins: list[Origin] = field(default_factory=list)
    responses: ResponseSet | None = None
    unreadable: list[Unreadable] = field(default_factory=list)


def make_pairs(path: Path, options: PairsOptions, console: Console) -> Manifest | None:
    """Turn the prompts of a recipe into preference pairs.

    Args:
        path: the recipe.
        options: of the command line.
        console: for progress and the closing lines.

    Returns:
        The manifest that was written, or None for a dry run.

    Raises:
        UALError: what is wrong and what to do; nothing was written.
    """
    recipe = load_recipe(path, for_pairs=True)
    settings = pairs_settings(recipe)
    output = options.output or Path(settings.output)
    check_target(output)
    stop = settings.on_unreadable == "error"
    given = read_input(recipe, options.from_responses, options.limit, stop)
    say_unreadable(given.unreadable, console)
    with tempfile.TemporaryDirectory() as scratch:
        unscored = Path(scratch) / UNSCORED_FILE
        with open_session(
            settings.cache,
            Budget(options.max_cost),
            retry_failed=options.retry_failed,
            unscored=unscored,
        ) as session:
            sampler = None
            if given.responses is None:
                sampler = find_sampler(recipe, settings, session)
            show = functools.partial(show_progress, console)
            dimensions = build_dimensions(settings, session)
            if options.dry_run:
                plan = plan_pairs(settings, given, sampler, dimensions)
                prompts = f"{len(given.prompts):,} prompts"
                head = [f"{path}: would make pairs from {prompts} into {output}"]
                head += engine_lines(settings.engine, len(given.prompts), "prompts")
                print_plan(head, plan, console)
                return None
            check_paying([sampler, *dimensions])
            if settings.engine.kind == "ray":
                sampled, scores = on_workers(recipe, settings, given, session, console)
                data = ResponseSet(given.prompts, sampled.responses)
            else:
                sampled = sample(given, sampler, console)
                data = ResponseSet(given.prompts, sampled.responses)
                usable = Usable(data, settings.sampling.truncated == "keep")
                scores = score_responses(dimensions, usable, show)
        paired = pair_up(settings, data, scores)
        made = Made(
            _facts(settings, given, sampled, scores),
            settings.result_settings(recipe.base_model),
            given.origins,
            scores.failures,
            total_usage([sampled.usage, scores.usage]),
            len(given.unreadable),
            options.limit,
            unscored,
        )
        manifest = write_pairs(output, recipe, Pairing(data, scores, paired), made)
    if options.report:
        report_beside(output, console)
    _print_result(manifest, output, path, console)
    return manifest


def pairs_settings(recipe: Recipe) -> PairsConfig:
    """The recipe's `ual.pairs`.

    Raises:
        ConfigError: there is none.
    """
    if recipe.ual.pairs is None:
        raise ConfigError(
            f"{recipe.path}: ual.pairs: this section is needed by `axolotl-ual pairs`",
            "add for example\n    ual:\n      pairs:\n        output: data/pairs\n"
            "        judge: {model: gpt-4o}",
        )
    return recipe.ual.pairs


def read_input(
    recipe: Recipe, from_responses: Path | None, limit: int | None, stop: bool = True
) -> Input:
    """Read the prompts of every dataset, or responses from a file.

    Args:
        recipe: the recipe.
        from_responses: a file of responses, or None.
        limit: the first prompts only, of each dataset.
        stop: whether a row without a prompt is an error; else it is left out.

    Raises:
        DataError: a file cannot be read, or a row has no prompt.
        ConfigError: the recipe names no data.
    """
    if from_responses is not None:
        data = read_responses(from_responses)
        if limit is not None:
            data = ResponseSet(data.prompts[:limit], data.responses[:limit])
        named = {"path": str(from_responses), "type": "responses"}
        origin = (named, fingerprint(named), len(data.prompts))
        return Input(data.prompts, [origin], data)
    if not recipe.entries:
        raise ConfigError(
            f"{recipe.path}: datasets: this key is needed to know the prompts",
            "add a dataset of prompts, or give responses with --from-responses",
        )
    given = Input([])
    for entry in recipe.entries:
        table = load_entry(entry, seed=recipe.seed)
        if limit is not None:
            table = table.select(range(min(limit, len(table))))
        instead = "or set ual.pairs.on_unreadable to `drop`"
        prompts, _, unreadable = sift(read_prompts(table, entry, recipe), entry, stop, instead)
        given.prompts.extend(prompts)
        given.unreadable.extend(unreadable)
        given.origins.append((entry.raw, fingerprint(entry.raw, recipe.seed), len(table)))
    return given


def plan_pairs(
    settings: PairsConfig,
    given: Input,
    sampler: Sampler | None,
    dimensions: Sequence[Dimension],
) -> Plan:
    """What would be sampled and rated.

    Where responses are sampled already, the questions about them are counted one by one. Where they
    are not, each prompt is taken to get n distinct responses, which is the most that can be rated.
    """
    plans, unsampled, data = [], None, given.responses
    if sampler is not None:
        outlook = sampler.plan(given.prompts)
        plans.append(outlook.plan())
        data = ResponseSet(list(outlook.known), list(outlook.known.values()))
        left = [prompt for prompt in dict.fromkeys(given.prompts) if prompt not in outlook.known]
        sampling = settings.sampling
        unsampled = Unsampled(left, sampling.n, outlook.answer, sampling.max_tokens)
    if data is not None:
        plans += [dimension.plan(data, unsampled, 1) for dimension in dimensions]
    return joined(plans)


def find_sampler(recipe: Recipe, settings: PairsConfig, session: Session) -> Sampler:
    """The sampler of a recipe.

    Raises:
        ConfigError: there is no model, no such chat template, or no readable price list.
    """
    return build_sampler(settings, recipe.base_model, chat_template(recipe.raw), session)


def check_paying(askers: Iterable[Sampler | Dimension | None]) -> None:
    """Find what any of them is missing before one of them is paid for.

    Raises:
        ConfigError: a key, or a price where spending is limited.
    """
    for asker in askers:
        if isinstance(asker, Paying):
            asker.check()


def sample(given: Input, sampler: Sampler | None, console: Console) -> Sampled:
    """Sample responses to every prompt, unless they were given."""
    if given.responses is not None or sampler is None:
        return Sampled(given.responses.responses if given.responses is not None else [])
    with show_progress(console, "sampling", len(given.prompts)) as progress:
        return sampler.sample(given.prompts, progress)


def on_workers(
    recipe: Recipe, settings: PairsConfig, given: Input, session: Session, console: Console
) -> tuple[Sampled, Scores]:
    """Sample responses, unless they were given, and score them, by workers on Ray."""
    responses = None if given.responses is None else given.responses.responses
    template = chat_template(recipe.raw) if responses is None else None
    model = recipe.base_model
    with show_progress(console, "pairs", len(given.prompts)) as progress:
        return pairs_on_ray(settings, model, template, given.prompts, responses, session, progress)


def chat_template(raw: Mapping[str, Any]) -> str | None:
    """The chat template that a recipe trains with, where it is not the tokenizer's own.

    Raises:
        ConfigError: Axolotl has no template of that name, or is not installed.
    """
    given = raw.get("chat_template_jinja")
    if given:
        file = Path(str(given))
        return file.read_text(encoding="utf-8") if file.is_file() else str(given)
    name = raw.get("chat_template")
    if name is None or str(name).startswith("tokenizer_default"):
        return None
    # Found beside Axolotl's module and not through it: importing it takes half a minute.
    found = importlib.util.find_spec("axolotl")
    root = Path(found.origin).parent if found and found.origin else Path()
    file = root / "utils" / "chat_templates" / "templates" / f"{name}.jinja"
    if not file.is_file():
        raise ConfigError(
            f"chat_template: {name}: there is no such template in Axolotl here",
            "install axolotl, give `chat_template_jinja:`, or use tokenizer_default",
        )
    return file.read_text(encoding="utf-8")


def pair_up(settings: PairsConfig, data: ResponseSet, scores: Scores) -> Paired:
    """Total uncertainty, pairs, stages and smoothing.

    Raises:
        DataError: no prompt gives a pair.
        ConfigError: the mean smoothing cannot be reached.
    """
    weights = {str(name): settings.weight(name) for name in settings.dimensions}
    total = total_uncertainty(scores.dimensions, weights, settings.on_missing)
    scored = Scored(
        prompt=data.prompt_of(),
        uncertainty=total,
        usable=data.usable(settings.sampling.truncated == "keep"),
        text=digests([response.text for response in data.flat()], settings.seed),
        prompt_key=digests([prompt.digest() for prompt in data.prompts]),
    )
    selection = select_pairs(scored, settings.policies, settings.min_gap, settings.seed)
    if not len(selection.chosen):
        reasons = ", ".join(f"{name}: {n:,}" for name, n in selection.counts().items())
        failed = ", ".join(f"{name}: {n:,}" for name, n in scores.failures.items())
        raise DataError(
            f"none of the {len(data.prompts):,} prompts gives a pair ({reasons}"
            f"{'; ' + failed if failed else ''})",
            "look at the reasons above; nothing was written",
        )
    smoothing, _ = smooth_pairs(selection.gap, settings.smoothing.mean, settings.smoothing.max)
    stages = stage_pairs(selection.gap, settings.thresholds)
    return Paired(selection, total, smoothing, stages)


def _facts(settings: PairsConfig, given: Input, sampled: Sampled, scores: Scores) -> dict[str, Any]:
    method = "given" if given.responses is not None else settings.sampling.backend
    weights = {str(name): settings.weight(name) for name in settings.dimensions}
    return {
        "sampling": {"method": method, **sampled.facts},
        **scores.facts,
        "total": {"method": "weighted mean", "shares": shares(weights, list(weights))},
    }


def _print_result(manifest: Manifest, output: Path, path: Path, console: Console) -> None:
    counts = manifest.counts
    parts = ", ".join(
        f"{counts[name]:,} {name}"
        for name in ("empty", "truncated", "failed", "duplicates")
        if counts[name]
    )
    console.print(
        f"{counts['prompts']:,} prompts, {counts['responses']:,} responses, "
        f"{counts['usable']:,} usable{' (' + parts + ')' if parts else ''}",
        highlight=False,
    )
    for reason, number in manifest.failures.items():
        console.print(f"  {reason}: {number:,}", highlight=False)
    by_policy = ", ".join(
        f"{number:,} {name}" for name, number in counts.items() if name.startswith(BY_POLICY)
    )
    if by_policy:
        again = f"{counts[FOUND_AGAIN]:,} {FOUND_AGAIN}"
        console.print(f"{by_policy}; {again}", highlight=False)
    if (output / UNSCORED_FILE).exists():
        console.print(f"what was answered without a score is in {output / UNSCORED_FILE}")
    smoothed = f"{counts['pairs']:,} pairs: flip probability"
    print_written(manifest, smoothed, output, path, console)
