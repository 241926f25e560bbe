"""`consistency`, step by step: responses, repeated scorings, and a table of how far they agree."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.pairs import PairsConfig

from ..calls.ask import Session, open_session
from ..calls.budget import Budget, total_usage, usage_line
from ..calls.plan import Plan, joined
from ..data.recipe import Recipe, load_recipe
from ..data.responses import Response, ResponseSet, read_responses
from ..dimensions.base import Dimension, Usable
from ..dimensions.scores import build_dimensions, score_responses
from ..labels.agreement import Agreement, agreement, report_lines
from ..output.pairs import RESPONSES_FILE
from ..progress import show_progress
from ..sampling.base import Sampler
from .closing import print_plan
from .pairs import check_paying, find_sampler, pairs_settings

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ConsistencyOptions:
    """What the command line says.

    Attributes:
        from_responses: the responses; None: those of the recipe's pairs.
        repeats: number of scorings, at least 2.
        limit: the first prompts only.
        against: another checkpoint (folder, or name on the server) to draw evidence from.
        against_adapter: an adapter for it.
        dry_run: tell what would be done, and send nothing.
        max_cost: USD that may be spent in this run.
        retry_failed: ask again where an answer was kept that gave no score.
    """

    from_responses: Path | None = None
    repeats: int = 3
    limit: int | None = None
    against: str | None = None
    against_adapter: str | None = None
    dry_run: bool = False
    max_cost: float | None = None
    retry_failed: bool = False


def measure_consistency(
    path: Path, options: ConsistencyOptions, console: Console
) -> dict[str, list[tuple[str, Agreement]]]:
    """Score the same responses several times and print how far the scores agree.

    Args:
        path: the recipe.
        options: of the command line.
        console: for progress and the tables.

    Returns:
        Agreement by dimension, between repeats and, where asked for, between checkpoints; nothing
        for a dry run.

    Raises:
        UALError: what is wrong and what to do.
    """
    recipe = load_recipe(path, for_pairs=True)
    settings = pairs_settings(recipe)
    data = _usable(_responses(settings, options), settings)
    prompt = data.prompt_of()
    other = None
    if options.against or options.against_adapter:
        other = _checkpoint(settings, options.against, options.against_adapter)
    found: dict[str, list[tuple[str, Agreement]]] = {}
    budget, retry_failed = Budget(options.max_cost), options.retry_failed
    with open_session(settings.cache, budget, retry_failed=retry_failed, unscored=None) as session:
        dimensions = build_dimensions(settings, session)
        scorer = _Scorer(recipe, settings, data, dimensions, session, console)
        if options.dry_run:
            title = f"{path}: would score {len(data.flat()):,} responses {options.repeats} times"
            print_plan([title], scorer.plan(other, options.repeats), console)
            return {}
        scorer.check(other)
        scorings = [
            {**scorer.by_evidence(settings, number), **scorer.again(number)}
            for number in range(options.repeats)
        ]
        found["repeats"] = _compare(scorings, prompt)
        if other is not None:
            pair = [scorings[0], scorer.by_evidence(other, 0)]
            found["checkpoints"] = _compare(pair, prompt)
    _print(found, data, options, console)
    usage = total_usage(scorer.usages)
    if usage.requests or usage.cached:
        console.print(usage_line(usage), highlight=False)
    return found


@dataclass(frozen=True)
class _Scorer:
    recipe: Recipe
    settings: PairsConfig
    data: ResponseSet
    dimensions: list[Dimension]
    session: Session
    console: Console
    usages: list[ManifestUsage] = field(default_factory=list)

    def plan(self, other: PairsConfig | None, repeats: int) -> Plan:
        """What all scorings would ask."""
        plans = []
        for settings, number, name in self._drawings(other, repeats):
            outlook = self._sampler(settings, number).plan(self.data.prompts)
            plans.append(outlook.plan(f"{name}: "))
        plans += [dimension.plan(self.data, None, repeats) for dimension in self.dimensions]
        return joined(plans)

    def check(self, other: PairsConfig | None) -> None:
        """Find what is missing before anything is sent.

        Raises:
            ConfigError: a key, or a price where spending is limited.
        """
        samplers = [
            self._sampler(settings, number) for settings, number, _ in self._drawings(other, 1)
        ]
        check_paying([*samplers, *self.dimensions])

    def by_evidence(self, settings: PairsConfig, number: int) -> dict[str, FloatArray]:
        """Uncertainty against freshly drawn responses, where a dimension compares with any."""
        if not self._compared:
            return {}
        sampler = self._sampler(settings, number)
        with show_progress(
            self.console, f"evidence {number + 1}", len(self.data.prompts)
        ) as progress:
            sampled = sampler.sample(self.data.prompts, progress)
        self.usages.append(sampled.usage)
        members = _beside_evidence(self.data, sampled.responses, settings)
        first = np.cumsum([0, *(len(group) for group in members.responses)])[:-1]
        scores = self._score(self._compared, members, number)
        return {name: values[first] for name, values in scores.items()}

    def again(self, number: int) -> dict[str, FloatArray]:
        """What judges and classifiers say of the responses themselves, once more."""
        alone = [dimension for dimension in self.dimensions if not dimension.compares_evidence]
        return self._score(alone, self.data, number)

    @property
    def _compared(self) -> list[Dimension]:
        return [dimension for dimension in self.dimensions if dimension.compares_evidence]

    def _drawings(
        self, other: PairsConfig | None, repeats: int
    ) -> Iterator[tuple[PairsConfig, int, str]]:
        """Settings, number and name of each draw of evidence."""
        if self._compared:
            for number in range(repeats):
                yield self.settings, number, f"evidence {number + 1}"
            if other is not None:
                yield other, 0, "evidence of the other checkpoint"

    def _sampler(self, settings: PairsConfig, number: int) -> Sampler:
        seeded = settings.model_copy(update={"seed": settings.seed + 1 + number})
        return find_sampler(self.recipe, seeded, self.session)

    def _score(
        self, dimensions: list[Dimension], data: ResponseSet, number: int
    ) -> dict[str, FloatArray]:
        usable = Usable(data, self.settings.sampling.truncated == "keep")
        show = functools.partial(show_progress, self.console)
        scores = score_responses(dimensions, usable, show, number)
        self.usages.append(scores.usage)
        return scores.dimensions


def _responses(settings: PairsConfig, options: ConsistencyOptions) -> ResponseSet:
    path = options.from_responses or Path(settings.output) / RESPONSES_FILE
    if not path.is_file():
        raise ConfigError(
            f"{path}: there are no responses to score again",
            "run `axolotl-ual pairs` first, or give responses with --from-responses",
        )
    data = read_responses(path)
    limit = options.limit or len(data.prompts)
    return ResponseSet(data.prompts[:limit], data.responses[:limit])


def _usable(data: ResponseSet, settings: PairsConfig) -> ResponseSet:
    """The usable responses, and the prompts that have any."""
    usable = iter(data.usable(settings.sampling.truncated == "keep"))
    groups = [[response for response in group if next(usable)] for group in data.responses]
    kept = [place for place, group in enumerate(groups) if group]
    if not kept:
        raise ConfigError(
            "none of the responses can be scored: all are empty, truncated or failed",
            "set ual.pairs.sampling.truncated: keep, or sample again",
        )
    return ResponseSet([data.prompts[place] for place in kept], [groups[place] for place in kept])


def _beside_evidence(
    data: ResponseSet, evidence: list[list[Response]], settings: PairsConfig
) -> ResponseSet:
    """Each response as the first of a group of its own, with the prompt's evidence behind it."""
    prompts, groups = [], []
    for prompt, group, drawn in zip(data.prompts, data.responses, evidence, strict=True):
        for response in group:
            prompts.append(prompt)
            groups.append([response, *drawn[: settings.sampling.n - 1]])
    return ResponseSet(prompts, groups)


def _checkpoint(settings: PairsConfig, model: str | None, adapter: str | None) -> PairsConfig:
    """The settings with another model to draw evidence from."""
    sampling = settings.sampling
    if sampling.backend == "api" and sampling.api is not None:
        if model is None:
            raise ConfigError(
                "--against-adapter: a server's model takes no adapter from here",
                "name the adapted model, as the server knows it, with --against",
            )
        changed = sampling.model_copy(
            update={"api": sampling.api.model_copy(update={"model": model})}
        )
    else:
        named: dict[str, Any] = {"adapter": adapter, **({"model": model} if model else {})}
        changed = sampling.model_copy(update={"local": sampling.local.model_copy(update=named)})
    return settings.model_copy(update={"sampling": changed})


def _compare(
    scorings: list[dict[str, FloatArray]], prompt: npt.NDArray[np.int64]
) -> list[tuple[str, Agreement]]:
    return [
        (name, agreement(np.stack([scoring[name] for scoring in scorings]), prompt))
        for name in scorings[0]
        if all(name in scoring for scoring in scorings)
    ]


def _print(
    found: dict[str, list[tuple[str, Agreement]]],
    data: ResponseSet,
    options: ConsistencyOptions,
    console: Console,
) -> None:
    console.print(
        f"{len(data.flat()):,} responses to {len(data.prompts):,} prompts", highlight=False
    )
    titles = {
        "repeats": f"between {options.repeats} repeats",
        "checkpoints": f"between checkpoints: the recipe's and {options.against or 'base'}"
        + (f" with {options.against_adapter}" if options.against_adapter else ""),
    }
    for name, agreements in found.items():
        console.print(f"\n{titles[name]}", highlight=False)
        for line in report_lines(agreements):
            console.print(line, highlight=False)
