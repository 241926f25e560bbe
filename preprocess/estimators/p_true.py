"""Uncertainty from the model's own verdict on the response.

    u_i = p(No | q_i) / (p(Yes | q_i) + p(No | q_i))

where q_i shows instruction and response and asks whether the response is right. This is 1 - P(True)
of Kadavath et al., "Language Models (Mostly) Know What They Know" (2022), zero-shot. The two
probabilities are of the whole words as the tokenizer spells them after the prompt, so it needs no
single token for either.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jinja2 import Environment, StrictUndefined

from axolotl_ual.settings.estimators import PTrueConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.plan import Plan
from ..data.sample import Sample, Turn
from ..judge.frame import fence
from ..judge.rubric import TEMPLATES
from ..models.local.causal import LocalModel, nll
from ..models.local.encoding import Encoded, encode
from ..progress import Progress
from .base import Estimation, Estimator, RowScores
from .likelihood import (
    NOT_FINITE,
    load_model,
    model_facts,
    name_model,
    reading_plan,
    rough_tokens,
)

SECTION: Final = "ual.annotate.p_true"
_UNCERTAINTY: Final = "uncertainty"
_TEMPLATE: Final = "p-true-v1"
_ANSWERS: Final = ("Yes", "No")
_WINDOW: Final = 4096
_FRAME_TOKENS: Final = 128
"""Of max_length, what the question takes beside the sample; four bytes a token is a rough guess."""


@dataclass(frozen=True)
class PTrue:
    """Asks a local model whether each response is right.

    Attributes:
        config: the `p_true:` section.
        model: folder or Hub name.
        key: the YAML key that names the model.
    """

    config: PTrueConfig
    model: str
    key: str

    def plan(self, samples: Sequence[Sample]) -> Plan:
        """Tell the model, the rows and a rough number of tokens. Loads nothing."""
        tokens = len(_ANSWERS) * (rough_tokens(samples) + _FRAME_TOKENS * len(samples))
        how = f"p_true under the local model {self.model} (device {self.config.device})"
        return reading_plan(how, len(samples), tokens)

    def check(self) -> None:
        """Nothing is sent, so nothing can be missing before."""

    def scorer(self) -> PTrueScorer:
        """The model, loaded.

        Raises:
            BackendError: the model cannot be loaded or does not fit in memory.
            ConfigError: the device does not exist.
            UALError: torch or transformers is not installed.
        """
        return PTrueScorer(self, *load_model(self.config, self.model, self.key, SECTION))

    def finish(self, scores: RowScores) -> Estimation:
        """A row's verdict is its uncertainty."""
        return Estimation(
            scores.values[_UNCERTAINTY].astype(np.float32),
            scores.failures,
            scores.usage,
            {**scores.facts, **scores.counts},
        )


@dataclass(frozen=True)
class PTrueScorer:
    """Asks a loaded model about rows.

    Attributes:
        settings: of the estimator.
        local: the model.
        max_length: tokens that a sequence may have.
    """

    settings: PTrue
    local: LocalModel
    max_length: int

    def score(self, samples: Sequence[Sample], progress: Progress) -> RowScores:
        """Ask about every sample, some at a time."""
        ask = Questions(self.max_length)
        uncertainty = np.full(len(samples), np.nan)
        found = RowScores(
            values={_UNCERTAINTY: uncertainty},
            facts={
                **model_facts(self.settings.model, self.local, self.max_length),
                "template": _TEMPLATE,
            },
        )
        for start in range(0, len(samples), _WINDOW):
            window = [samples[i] for i in range(start, min(start + _WINDOW, len(samples)))]
            asked = [ask(sample, answer) for sample in window for answer in _ANSWERS]
            encoded = encode(asked, self.local.tokenizer, self.max_length)
            nll_NA = self._likelihoods(encoded).reshape(len(window), len(_ANSWERS))
            found.usage.prompt_tokens += sum(
                len(item.ids) for item in encoded if isinstance(item, Encoded)
            )
            for row, likelihoods_A in enumerate(nll_NA):
                reason = encoded[row * len(_ANSWERS)]
                if np.isfinite(likelihoods_A).all():
                    uncertainty[start + row] = _share_of_no(*likelihoods_A)
                else:
                    found.failures[reason if isinstance(reason, str) else NOT_FINITE] += 1
            progress.advance(len(window))
        found.counts["shortened"] = ask.shortened
        return found

    def _likelihoods(
        self, encoded: Sequence[Encoded | str]
    ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        """Negative log-likelihood of each answer; NaN where it cannot be had."""
        values = np.full(len(encoded), np.nan)
        places = [place for place, item in enumerate(encoded) if isinstance(item, Encoded)]
        sequences = [item for item in encoded if isinstance(item, Encoded)]
        for index, nll_T in self.local.measure(sequences, nll, self.settings.config.batch_tokens):
            values[places[index]] = nll_T.astype(np.float64).sum()
        return values


class Questions:
    """Makes the sample that asks for a verdict on another.

    Args:
        max_length: tokens that fit; the sample in question is shortened to it, head and tail kept.

    Attributes:
        shortened: samples that were too long, each counted once.
    """

    def __init__(self, max_length: int) -> None:
        source = (TEMPLATES / f"{_TEMPLATE}.jinja").read_text(encoding="utf-8")
        environment = Environment(autoescape=False, undefined=StrictUndefined)
        self._template = environment.from_string(source)
        self._budget = max(16, max_length - _FRAME_TOKENS)
        self.shortened = 0

    def __call__(self, sample: Sample, answer: str) -> Sample:
        """Ask about a sample, and give one of the answers."""
        fenced = fence(sample, self._budget)
        self.shortened += fenced.left_out > 0 and answer == _ANSWERS[0]
        shown = {True: "", False: ""}
        for part in fenced.parts:
            gap = f"\n{fenced.marker} GAP\n" if part.left_out else ""
            text = f"{part.head}{gap}{part.tail}"
            shown[part.trained] += f"\n\n{text}" if shown[part.trained] else text
        text = self._template.render(
            marker=fenced.marker, instruction=shown[False], response=shown[True]
        )
        return Sample((Turn("user", text, False), Turn("assistant", answer, True)))


def _share_of_no(nll_yes: float, nll_no: float) -> float:
    # tanh does not overflow at either end.
    return float(0.5 * (1.0 + np.tanh(0.5 * (nll_yes - nll_no))))


def build(annotate: AnnotateConfig, base_model: str | None) -> Estimator:
    """Make the estimator that a recipe asks for.

    Raises:
        ConfigError: neither `p_true.model` nor `base_model` names a model.
    """
    model, key = name_model(annotate.p_true, base_model, SECTION)
    return PTrue(annotate.p_true, model, key)
