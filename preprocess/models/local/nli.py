"""Entailment and contradiction between texts, by any classifier for natural language inference.

A question is (context, premise, hypothesis): with a context c, the model reads "c premise" against
"c hypothesis". Questions are answered together: each distinct one once, in batches of similar
length across prompts. What does not fit is cut from the left of the context; only where premise and
hypothesis alone are too long are they cut, and counted. (Cutting "context + response" at a fixed
length instead makes all responses to a long prompt equal.)

    entails(a, b)        entailment is the likeliest label, or P(entailment) >= threshold
    contradiction(a, b)  P(contradiction) / (P(contradiction) + P(entailment))
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import ConfigError

from .classifier import Encoding, LogitArray, SequenceClassifier

Question = tuple[str, str, str]
"""(context, premise, hypothesis); the context may be empty."""

Advance = Callable[[int], None]

_NEGATED = re.compile(r"\b(?:not|non|no)\b|^(?:not|non)")


@dataclass(frozen=True, slots=True)
class Labels:
    """Places of the two labels that matter among the logits."""

    entailment: int
    contradiction: int | None

    @classmethod
    def find(
        cls, names: Sequence[str], given: Mapping[str, str] | None, key: str, contradiction: bool
    ) -> Labels:
        """Find the labels by name.

        Args:
            names: label names in the order of the logits.
            given: the recipe's own `{entailment: NAME, contradiction: NAME}`, or None.
            key: the YAML section, for error messages.
            contradiction: whether a contradiction label is needed.

        Raises:
            ConfigError: a label is not there, with the names that are.
        """
        if given:
            places = {
                role: _place(names, name, f"{key}.labels.{role}") for role, name in given.items()
            }
        else:
            places = {
                role: place
                for role in ("entailment", "contradiction")
                if (place := _guess(names, role)) is not None
            }
        needed = ["entailment", "contradiction"] if contradiction else ["entailment"]
        missing = [role for role in needed if role not in places]
        if missing:
            raise ConfigError(
                f"{key}.model: no label of the classifier ({', '.join(names)}) says "
                f"{' or '.join(missing)}",
                f"choose a model for natural language inference, or name its labels, for example "
                f"{key}.labels: {{entailment: {names[-1]}, contradiction: {names[0]}}}",
            )
        return cls(places["entailment"], places.get("contradiction"))


@dataclass(slots=True)
class NliStats:
    """What was asked of the model.

    Attributes:
        asked: questions that callers had, repeats included.
        sent: questions that the model saw.
        context_cut: of these, how many lost a part of their context.
        response_cut: how many lost a part of their premise or hypothesis.
    """

    asked: int = 0
    sent: int = 0
    context_cut: int = 0
    response_cut: int = 0


@dataclass
class NliModel:
    """Answers questions, each distinct one once.

    Attributes:
        classifier: the model.
        labels: where entailment and contradiction are among its logits.
        threshold: P(entailment) that counts as entailment; None: the likeliest label does.
        batch_tokens: padded tokens of a batch.
        stats: counts so far.
    """

    classifier: SequenceClassifier
    labels: Labels
    threshold: float | None = None
    batch_tokens: int = 8192
    stats: NliStats = field(default_factory=NliStats)
    _known: dict[Question, LogitArray] = field(default_factory=dict)

    def entails(
        self, questions: Sequence[Question], advance: Advance = lambda n: None
    ) -> list[bool]:
        """Whether each premise entails its hypothesis."""
        logits_NL = self._answer(questions, advance)
        if self.threshold is None:
            return [bool(best) for best in logits_NL.argmax(axis=1) == self.labels.entailment]
        probability_N = _softmax(logits_NL)[:, self.labels.entailment]
        return [bool(enough) for enough in probability_N >= self.threshold]

    def entailment(
        self, questions: Sequence[Question], advance: Advance = lambda n: None
    ) -> npt.NDArray[np.float64]:
        """P(entailment) of each question among all labels: float64 of shape (N,), in [0, 1]."""
        return _softmax(self._answer(questions, advance))[:, self.labels.entailment]

    def contradiction(
        self, questions: Sequence[Question], advance: Advance = lambda n: None
    ) -> npt.NDArray[np.float64]:
        """P(contradiction) of each question, over entailment and contradiction only.

        Returns:
            float64 of shape (N,), in [0, 1].

        Raises:
            ValueError: the classifier has no label for contradiction.
        """
        if self.labels.contradiction is None:
            raise ValueError("the classifier has no label for contradiction")
        places = [self.labels.contradiction, self.labels.entailment]
        return _softmax(self._answer(questions, advance)[:, places])[:, 0]

    def forget(self) -> None:
        """Drop the answers that are kept, so that memory does not grow with the data."""
        self._known.clear()

    def _answer(self, questions: Sequence[Question], advance: Advance) -> LogitArray:
        fresh = sorted({question for question in questions if question not in self._known})
        encodings = self._encode(fresh)
        logits = self.classifier.logits(encodings, self.batch_tokens, advance)
        self._known.update(zip(fresh, logits, strict=True))
        self.stats.asked += len(questions)
        self.stats.sent += len(fresh)
        if not questions:
            return np.empty((0, len(self.classifier.labels)), dtype=np.float32)
        return np.stack([self._known[question] for question in questions])

    def _encode(self, questions: Sequence[Question]) -> list[Encoding]:
        if not questions:
            return []
        encoded = self.classifier.tokenizer(
            [_join(context, premise) for context, premise, _ in questions],
            [_join(context, hypothesis) for context, _, hypothesis in questions],
            verbose=False,
        )
        encodings = [
            {name: values[row] for name, values in encoded.items()} for row in range(len(questions))
        ]
        return [
            encoding
            if len(encoding["input_ids"]) <= self.classifier.max_length
            else self._fit(question, len(encoding["input_ids"]))
            for question, encoding in zip(questions, encodings, strict=True)
        ]

    def _fit(self, question: Question, length: int) -> Encoding:
        """Encode a question that is too long: its context loses tokens from the left."""
        context, premise, hypothesis = question
        tokenizer, limit = self.classifier.tokenizer, self.classifier.max_length
        starts = [
            start
            for start, _ in tokenizer(
                context, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )["offset_mapping"]
        ]
        kept = len(starts)
        if kept:
            self.stats.context_cut += 1
        while length > limit and kept > 0:
            # Half of the excess, since the context is read twice; at least one token a round.
            kept = max(kept - (length - limit + 1) // 2, 0)
            rest = context[starts[-kept] :] if kept else ""
            encoding = dict(tokenizer(_join(rest, premise), _join(rest, hypothesis), verbose=False))
            length = len(encoding["input_ids"])
            if length <= limit:
                return encoding
        self.stats.response_cut += 1
        return dict(tokenizer(premise, hypothesis, truncation="longest_first", max_length=limit))


def _join(context: str, response: str) -> str:
    return f"{context} {response}" if context else response


def _place(names: Sequence[str], name: str, key: str) -> int:
    lowered = [known.lower() for known in names]
    if name.lower() not in lowered:
        raise ConfigError(
            f"{key}: {name!r} is no label of the classifier", f"its labels are {', '.join(names)}"
        )
    return lowered.index(name.lower())


def _guess(names: Sequence[str], role: str) -> int | None:
    """The one label that speaks of `role` and does not negate it."""
    stem = {"entailment": "entail", "contradiction": "contradict"}[role]
    words = [re.sub(r"[_\-\s]+", " ", name.lower()) for name in names]
    found = [i for i, name in enumerate(words) if stem in name and not _NEGATED.search(name)]
    return found[0] if len(found) == 1 else None


def _softmax(logits: LogitArray) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    exponentials = np.exp(values - values.max(axis=1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities
