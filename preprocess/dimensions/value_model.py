"""Value uncertainty by a sequence classifier or a reward model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.pairs import ClassifierConfig
from axolotl_ual.settings.server import shaping

from ..calls.ask import Session
from ..calls.plan import Plan
from ..data.responses import ResponseSet
from ..models.local.classifier import Encoding, SequenceClassifier
from ..sampling.base import Unsampled
from ..sampling.local import identity
from .base import DimensionScores, Show, Usable
from .blocks import score_in_blocks
from .review import Reviewed, distinct_responses
from .value import from_labels, from_rewards

SECTION: Final = "ual.pairs.value.classifier"


@dataclass(frozen=True)
class ValueByClassifier:
    """Value uncertainty by a model on this machine.

    Attributes:
        config: the recipe's `ual.pairs.value.classifier`.
        session: of the command; its cache keeps finished blocks.
    """

    name = "value"
    compares_evidence = False
    config: ClassifierConfig
    session: Session

    def check(self) -> None:
        """Nothing is sent."""

    def plan(self, data: ResponseSet, unsampled: Unsampled | None, scorings: int) -> Plan:
        """One line."""
        return Plan([f"{self.name}: classifier, on this machine"])

    def score(self, usable: Usable, repeat: int, show: Show) -> DimensionScores:
        """Classify each distinct response."""
        model = {**shaping(self.config), "model": identity(self.config.model)}
        loaded = cache(lambda: ValueClassifier.load(self.config))
        distinct, of = distinct_responses(usable.data, usable.rows)
        with show(f"{self.name} (classifier)", len(distinct)) as progress:
            found = score_in_blocks(
                self.session.cache,
                {"kind": "value-block", "classifier": model},
                distinct,
                lambda part: loaded().score(part),
                progress,
            )
        scores = DimensionScores(usable.none())
        scores.facts = {"method": "classifier", "model": self.config.model}
        scores.uncertainty[usable.rows] = [found[place] for place in of]
        return scores


@dataclass(frozen=True)
class ValueClassifier:
    """A loaded classifier and how its logits are read.

    Attributes:
        config: its section.
        classifier: the model.
    """

    config: ClassifierConfig
    classifier: SequenceClassifier

    @classmethod
    def load(cls, config: ClassifierConfig) -> ValueClassifier:
        """Load the model and check that it fits its section.

        Raises:
            BackendError: the model is not there or cannot be loaded.
            ConfigError: a label does not exist, or the model has several logits for a reward.
        """
        classifier = SequenceClassifier.load(
            config.model,
            key=SECTION,
            max_length=config.max_length,
            device=config.device,
            dtype=config.dtype,
        )
        names = classifier.labels
        unknown = sorted(set(config.labels or {}) - set(names))
        if unknown:
            raise ConfigError(
                f"{SECTION}.labels: {', '.join(unknown)}: no label of {config.model}",
                f"its labels are {', '.join(names)}",
            )
        if config.sigmoid is not None and len(names) != 1:
            raise ConfigError(
                f"{SECTION}.sigmoid: {config.model} gives {len(names)} logits, not one reward",
                f"give `labels:` instead, with a departure for some of {', '.join(names)}",
            )
        if config.reads == "chat" and classifier.tokenizer.chat_template is None:
            raise ConfigError(
                f"{SECTION}.reads: chat: {config.model} has no chat template",
                "use response or pair",
            )
        return cls(config, classifier)

    def score(self, responses: Sequence[Reviewed]) -> list[float]:
        """u_v of each response."""
        encodings = [self._encode(response) for response in responses]
        logits_NL = self.classifier.logits(encodings, self.config.batch_tokens).astype(np.float64)
        if self.config.sigmoid is not None:
            curve = self.config.sigmoid
            values = from_rewards(logits_NL[:, 0], curve.centre, curve.scale)
            return [float(value) for value in values]
        together = self.classifier.model.config.problem_type == "multi_label_classification"
        departure = self.config.labels or {}
        values = from_labels(logits_NL, self.classifier.labels, departure, together)
        return [float(value) for value in values]

    def _encode(self, response: Reviewed) -> Encoding:
        """Encode a response; what is too long loses its prompt first, then its own end."""
        tokenizer, limit = self.classifier.tokenizer, self.classifier.max_length
        if self.config.reads == "pair":
            return dict(
                tokenizer(
                    response.prompt.question,
                    response.text,
                    truncation="only_first" if self._fits(response.text) else "longest_first",
                    max_length=limit,
                )
            )
        if self.config.reads == "response":
            return dict(tokenizer(response.text, truncation=True, max_length=limit))
        messages = [
            *response.prompt.as_dicts(),
            {"role": "assistant", "content": response.text},
        ]
        text = tokenizer.apply_chat_template(messages, tokenize=False)
        encoded = tokenizer(text, add_special_tokens=False, verbose=False)
        return {name: list(values)[-limit:] for name, values in encoded.items()}

    def _fits(self, text: str) -> bool:
        tokenizer = self.classifier.tokenizer
        own = len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
        special = tokenizer.num_special_tokens_to_add(pair=True)
        return bool(own + special < self.classifier.max_length)


def build(config: ClassifierConfig | None, session: Session) -> ValueByClassifier:
    """Make the dimension.

    Raises:
        ConfigError: the section is missing.
    """
    if config is None:
        raise ConfigError(f"{SECTION}: `method: classifier` needs this section")
    return ValueByClassifier(config, session)
