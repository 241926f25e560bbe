"""The dimensions of uncertainty of sampled responses, each by the method that the recipe names.

Local models score prompts in blocks of a fixed size. A finished block is kept in the durable cache,
so that a run that was interrupted goes on behind it and ends in the same bytes. A dimension that
fails for a response leaves NaN and a counted reason.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import ManifestUsage
from axolotl_ual.settings.pairs import PairsConfig
from axolotl_ual.settings.server import shaping

from ..calls.ask import Session
from ..calls.budget import total_usage
from ..data.responses import ResponseSet
from ..data.sample import Sample, Turn
from ..models.local.classifier import SequenceClassifier
from ..models.local.embedder import Embedder
from ..models.local.nli import Labels, NliModel
from ..sampling.local import identity
from .claims import factual_scores
from .judged import Judged
from .local import Group, Semantic, factual_by_consistency, semantic_by_embedding, semantic_by_nli
from .principles import value_scores
from .review import Answers, Reviewed, distinct_responses
from .semantic import among_sampled
from .value_model import ValueClassifier

FloatArray = npt.NDArray[np.float64]

NLI: Final = "ual.pairs.nli"
EMBEDDING: Final = "ual.pairs.semantic.embedding"
SINGLE: Final = "single usable response"
BLOCK: Final = 64
"""Prompts that local models score at a time: what a kill can lose."""


@dataclass(slots=True)
class Scores:
    """What is known about N responses of P prompts.

    Attributes:
        dimensions: name -> float64 of shape (N,), NaN where there is none.
        columns: further float64 columns of shape (N,).
        clusters: int64 of shape (N,), -1 where there is none.
        entropy: semantic entropy of each prompt, shape (P,), NaN where there is none.
        weighted_entropy: the likelihood-weighted one.
        failures: usable responses without a score, by "dimension: reason".
        usage: of all judges.
        facts: for the manifest.
    """

    dimensions: dict[str, FloatArray] = field(default_factory=dict)
    columns: dict[str, FloatArray] = field(default_factory=dict)
    clusters: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    entropy: FloatArray = field(default_factory=lambda: np.empty(0))
    weighted_entropy: FloatArray = field(default_factory=lambda: np.empty(0))
    failures: Counter[str] = field(default_factory=Counter)
    usage: ManifestUsage = field(default_factory=ManifestUsage)
    facts: dict[str, Any] = field(default_factory=dict)


class ShowProgress(Protocol):
    """Opens a progress display for a number of items."""

    def __call__(self, label: str, total: int) -> Any:
        """A context manager that gives a Progress."""
        ...


@dataclass
class Dimensions:
    """Scores responses as a recipe says.

    Attributes:
        pairs: the recipe's `ual.pairs`.
        session: of the command.
        show: opens progress displays.
        judged: the judge, where one is asked.
        repeat: number of an intended repeat of judged ratings.
    """

    pairs: PairsConfig
    session: Session
    show: ShowProgress
    repeat: int = 0
    _nli: NliModel | None = None

    def __post_init__(self) -> None:
        self.judged = Judged(self.pairs, self.session)

    def score(self, data: ResponseSet) -> Scores:
        """Score every usable response in every dimension that is on.

        Raises:
            BackendError: a judge or a model cannot be used at all.
            ConfigError: a model does not fit its section.
        """
        usable = data.usable(self.pairs.sampling.truncated == "keep")
        places = _places(data, usable)
        scores = Scores(
            clusters=np.full(len(usable), -1, dtype=np.int64),
            entropy=np.full(len(data.prompts), np.nan),
            weighted_entropy=np.full(len(data.prompts), np.nan),
        )
        steps = {"semantic": self._semantic, "factual": self._factual, "value": self._value}
        for name in self.pairs.dimensions:
            scores.dimensions[name] = np.full(len(usable), np.nan)
            steps[name](data, places, scores)
        return scores

    def _semantic(self, data: ResponseSet, places: Places, scores: Scores) -> None:
        settings = self.pairs.semantic
        if settings.method == "nli":
            about = {"nli": self._nli_identity(), "unit": settings.unit}
            scorer = self._semantic_nli
        else:
            embedding = settings.embedding
            about = {
                "embedding": {**shaping(embedding), "model": identity(embedding.model)},
                "unit": settings.unit,
            }
            scorer = self._semantic_embedding
        groups = _groups(data, places)
        found = self._in_blocks("semantic", about, groups, scorer)
        for (prompt, rows), raw in zip(places, found, strict=True):
            semantic = _semantic(raw)
            scores.dimensions["semantic"][rows] = among_sampled(
                semantic.uncertainty, len(data.responses[prompt])
            )
            if semantic.clusters:
                scores.clusters[rows] = semantic.clusters
            scores.entropy[prompt] = semantic.entropy
            scores.weighted_entropy[prompt] = semantic.weighted_entropy
        scores.facts["semantic"] = self._method("semantic", settings.method)

    def _semantic_nli(self, groups: Sequence[Group]) -> list[Any]:
        nli = self._load_nli()
        return [asdict(s) for s in semantic_by_nli(groups, nli, self.pairs.semantic.unit)]

    def _semantic_embedding(self, groups: Sequence[Group]) -> list[Any]:
        settings = self.pairs.semantic.embedding
        found = semantic_by_embedding(
            groups,
            self._load_embedder(),
            settings.similarity,
            settings.linkage,
            self.pairs.semantic.unit,
        )
        return [asdict(semantic) for semantic in found]

    def _factual(self, data: ResponseSet, places: Places, scores: Scores) -> None:
        values = scores.dimensions["factual"]
        if self.pairs.factual.method == "judge":
            rows, distinct, of = _distinct(data, places)
            found, reasons = factual_scores(self._ask("factual", data, rows, distinct, of, scores))
            values[rows] = [found[place] for place in of]
            _count(scores, "factual", (reasons[place] for place in of if place in reasons))
        else:
            groups = _groups(data, places)
            about = {"nli": self._nli_identity()}
            blocks = self._in_blocks("factual", about, groups, self._factual_nli)
            for (_, rows), raw in zip(places, blocks, strict=True):
                values[rows] = [math.nan if value is None else value for value in raw]
                _count(scores, "factual", (SINGLE for value in raw if value is None))
        scores.facts.setdefault("factual", {}).update(
            self._method("factual", self.pairs.factual.method)
        )

    def _factual_nli(self, groups: Sequence[Group]) -> list[Any]:
        return list(factual_by_consistency(groups, self._load_nli()))

    def _value(self, data: ResponseSet, places: Places, scores: Scores) -> None:
        rows, distinct, of = _distinct(data, places)
        values = scores.dimensions["value"]
        if self.pairs.value.method == "judge":
            answers = self._ask("value", data, rows, distinct, of, scores)
            self._value_by_judge(answers, rows, of, scores)
        elif self.pairs.value.classifier is not None:
            config = self.pairs.value.classifier
            about = {"classifier": {**shaping(config), "model": identity(config.model)}}
            loaded: list[ValueClassifier] = []

            def score(part: Sequence[Reviewed]) -> list[Any]:
                if not loaded:
                    loaded.append(ValueClassifier.load(config))
                return list(loaded[0].score(part))

            found = self._in_blocks("value", about, distinct, score)
            values[rows] = [found[place] for place in of]
        scores.facts.setdefault("value", {}).update(self._method("value", self.pairs.value.method))

    def _value_by_judge(
        self,
        answers: Answers,
        rows: npt.NDArray[np.int64],
        of: list[int],
        scores: Scores,
    ) -> None:
        found, reasons = value_scores(answers)
        spread = np.full((2, len(scores.dimensions["value"])), np.nan)
        for row, place in zip(rows, of, strict=True):
            score = found[place]
            if score is not None:
                scores.dimensions["value"][row] = score.uncertainty
                spread[:, row] = score.spread_principles, score.spread_repeats
        scores.columns["value_spread_principles"] = spread[0]
        scores.columns["value_spread_repeats"] = spread[1]
        _count(scores, "value", (reasons[place] for place in of if place in reasons))

    def _ask(
        self,
        name: str,
        data: ResponseSet,
        rows: npt.NDArray[np.int64],
        distinct: list[Reviewed],
        of: list[int],
        scores: Scores,
    ) -> Answers:
        """What the judge says of distinct responses."""
        shown = dict(zip(reversed(of), reversed(rows.tolist()), strict=True))
        prompt_of, numbers = data.prompt_of(), data.numbers()

        def place(response: int) -> dict[str, Any]:
            row = shown[response]
            return {"prompt_id": int(prompt_of[row]), "response_id": numbers[row]}

        with self.show(f"{name} (judge)", self.judged.total(name, distinct)) as progress:
            answers, meter = self.judged.ask(name, distinct, self.repeat, progress, place)
        scores.usage = total_usage([scores.usage, meter.usage()])
        scores.facts[name] = {key: count for key, count in meter.shown.items() if count}
        return answers

    def _in_blocks(
        self,
        name: str,
        about: dict[str, Any],
        items: Sequence[Any],
        score: Callable[[Sequence[Any]], list[Any]],
    ) -> list[Any]:
        """Score items block by block, each block once: JSON values, one for each item."""
        values = self.session.cache.values({"kind": f"{name}-block", **about})
        results: list[Any] = []
        with self.show(f"{name} ({getattr(self.pairs, name).method})", len(items)) as progress:
            for start in range(0, len(items), BLOCK):
                block = items[start : start + BLOCK]
                text = json.dumps([asdict(item) for item in block], sort_keys=True)
                sample = Sample((Turn(None, text, trained=False),))
                (known,) = values.find([sample])
                if known is None:
                    values.put([(sample, score(block))])
                    (known,) = values.find([sample])
                    if self._nli is not None:
                        self._nli.forget()
                results.extend(known)
                progress.advance(len(block))
        return results

    def _method(self, name: str, method: str) -> dict[str, Any]:
        facts: dict[str, Any] = {"method": method}
        if method in ("nli", "consistency"):
            facts["model"] = self.pairs.nli.model
            if self._nli is not None:
                facts["cut"] = {
                    "context": self._nli.stats.context_cut,
                    "response": self._nli.stats.response_cut,
                }
        elif method == "embedding":
            facts["model"] = self.pairs.semantic.embedding.model
        elif method == "judge" and self.pairs.judge is not None:
            facts["model"] = self.pairs.judge.model
        elif method == "classifier" and self.pairs.value.classifier is not None:
            facts["model"] = self.pairs.value.classifier.model
        return facts

    def _nli_identity(self) -> dict[str, Any]:
        return {**shaping(self.pairs.nli), "model": identity(self.pairs.nli.model)}

    def _load_nli(self) -> NliModel:
        if self._nli is None:
            config = self.pairs.nli
            classifier = SequenceClassifier.load(
                config.model,
                key=NLI,
                max_length=config.max_length,
                device=config.device,
                dtype=config.dtype,
            )
            given = {str(role): name for role, name in (config.labels or {}).items()}
            contradiction = self.pairs.factual.method == "consistency"
            labels = Labels.find(classifier.labels, given, NLI, contradiction)
            self._nli = NliModel(classifier, labels, config.threshold, config.batch_tokens)
        return self._nli

    def _load_embedder(self) -> Embedder:
        config = self.pairs.semantic.embedding
        return Embedder.load(
            config.model, key=EMBEDDING, device=config.device, batch_size=config.batch_size
        )


Places = list[tuple[int, npt.NDArray[np.int64]]]
"""Prompts with usable responses, and the places of those among all responses."""


def _places(data: ResponseSet, usable: npt.NDArray[np.bool_]) -> Places:
    ends = np.cumsum([len(group) for group in data.responses])
    starts = np.concatenate(([0], ends[:-1])) if len(ends) else ends
    found = []
    for prompt, (start, end) in enumerate(zip(starts, ends, strict=True)):
        rows = np.arange(start, end)[usable[start:end]]
        if rows.size:
            found.append((prompt, rows))
    return found


def _groups(data: ResponseSet, places: Places) -> list[Group]:
    flat = data.flat()
    groups = []
    for prompt, rows in places:
        chosen = [flat[row] for row in rows]
        groups.append(
            Group(
                data.prompts[prompt].question,
                tuple(response.text for response in chosen),
                tuple(math.nan if r.logprob_mean is None else r.logprob_mean for r in chosen),
            )
        )
    return groups


def _semantic(raw: dict[str, Any]) -> Semantic:
    weighted = raw["weighted_entropy"]
    return Semantic(**{**raw, "weighted_entropy": math.nan if weighted is None else weighted})


def _distinct(
    data: ResponseSet, places: Places
) -> tuple[npt.NDArray[np.int64], list[Reviewed], list[int]]:
    """Places of the usable responses, the distinct ones of them, and which each one is."""
    rows = np.concatenate([rows for _, rows in places]) if places else np.empty(0, np.int64)
    return rows, *distinct_responses(data, rows)


def _count(scores: Scores, dimension: str, outcomes: Iterable[str]) -> None:
    scores.failures.update(f"{dimension}: {outcome}" for outcome in outcomes)
