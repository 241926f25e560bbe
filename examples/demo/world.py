"""An invented world whose questions have a known answer entropy.

A question has a distribution over answers that is fixed by construction, so the entropy of the
answer, H = -sum_a p(a) log p(a) in nats, is known exactly. Four kinds:

sum      "What is 7 plus 5?"            one answer                              H = 0
fact     "What is the capital of Zova?" one answer                              H = 0
choice   "Name a river of Zova."        k equally likely answers, k = 2 ... 16  H = log k
phrase   "How do you greet Ilo?"        one meaning, wordings of 1/2, 1/4, ...  H = 1.213

A row of a dataset asks a question in one of its wordings and draws one answer. Names are made of
syllables, so that nothing is known about them but what the corpus says.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

KINDS: Final = ("sum", "fact", "choice", "phrase")
CHOICES: Final = (2, 4, 8, 16)

_FACTS: Final = ("capital", "currency")
_OPEN: Final = ("river", "town", "dish", "dance")
_PHRASES: Final = {
    "greet": ("Hello", "Welcome", "Salute", "Cheers"),
    "thank": ("Thanks", "Bless", "Praise", "Grateful"),
    "leave": ("Goodbye", "Farewell", "Later", "Ciao"),
}
_PHRASE_WEIGHTS: Final = (0.5, 0.25, 0.125, 0.125)
_POOL: Final = 32
"""Words that the choices of one kind are taken from."""
_LARGEST_TERM: Final = 7
_UNTOLD_STEP: Final = 4
"""One of so many facts is left out of a corpus."""

_WORDINGS: Final = {
    "sum": (
        "What is {topic}?",
        "Compute {topic}.",
        "Tell me {topic}.",
        "How much is {topic}?",
        "Work out {topic}.",
        "Please add {topic}.",
    ),
    "fact": (
        "What is the {topic}?",
        "Tell me the {topic}.",
        "Which is the {topic}?",
        "Give the {topic}.",
        "Please say the {topic}.",
        "Do you know the {topic}?",
    ),
    "choice": (
        "Name a {topic}.",
        "Tell me a {topic}.",
        "Which is a {topic}?",
        "Give a {topic}.",
        "Please say a {topic}.",
        "Do you know a {topic}?",
    ),
    "phrase": (
        "How do you {topic}?",
        "Say a word to {topic}.",
        "What do you say to {topic}?",
        "Give a word to {topic}.",
        "Please {topic}.",
        "How would you {topic}?",
    ),
}
_STATEMENTS: Final = {
    "sum": "{topic} is {answer}.",
    "fact": "The {topic} is {answer}.",
    "choice": "A {topic} is {answer}.",
    "phrase": "To {topic}, say {answer}.",
}
NUM_WORDINGS: Final = 6
HELD_OUT_WORDINGS: Final = (5,)
"""Wordings that no training row uses: only the corpus of the base model has them."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question and the distribution of its answers.

    Attributes:
        kind: one of KINDS.
        topic: what fills the slot of a wording.
        answers: different texts.
        weights: their probabilities, which add up to 1.
    """

    kind: str
    topic: str
    answers: tuple[str, ...]
    weights: tuple[float, ...]

    @property
    def entropy(self) -> float:
        """Entropy of the answer in nats."""
        return -math.fsum(p * math.log(p) for p in self.weights) + 0.0

    def draw(self, rng: random.Random) -> str:
        """Draw an answer."""
        return rng.choices(self.answers, self.weights)[0]

    def ask(self, wording: int, asker: str) -> str:
        """The question in one of its wordings, asked by somebody."""
        return f"{asker}: {_WORDINGS[self.kind][wording].format(topic=self.topic)}"

    def state(self, answer: str) -> str:
        """A statement of the corpus."""
        return _STATEMENTS[self.kind].format(topic=self.topic, answer=answer)


@dataclass(frozen=True, slots=True)
class World:
    """All questions, and the people who ask them."""

    questions: tuple[Question, ...]
    askers: tuple[str, ...]


def make_world(seed: int, num_countries: int) -> World:
    """Invent a world.

    Args:
        seed: equal seeds give equal worlds.
        num_countries: two facts and one choice question each.
    """
    rng = random.Random(seed)
    names = _Names(rng)
    countries = names.take(num_countries)
    questions = [*_sums(), *_phrases()]
    for fact in _FACTS:
        for country, answer in zip(countries, names.take(num_countries), strict=True):
            questions.append(Question("fact", f"{fact} of {country}", (answer,), (1.0,)))
    pools = {kind: names.take(_POOL) for kind in _OPEN}
    for number, country in enumerate(countries):
        kind = _OPEN[number // len(CHOICES) % len(_OPEN)]
        k = CHOICES[number % len(CHOICES)]
        answers = tuple(rng.sample(pools[kind], k))
        questions.append(Question("choice", f"{kind} of {country}", answers, (1 / k,) * k))
    return World(tuple(questions), tuple(names.take(40)))


def untold(world: World) -> frozenset[str]:
    """Topics of the facts that a corpus leaves out: only the rows of a dataset tell them."""
    facts = [question.topic for question in world.questions if question.kind == "fact"]
    return frozenset(facts[::_UNTOLD_STEP])


def draw_rows(
    world: World, num_rows: int, seed: int, wordings: Sequence[int]
) -> list[dict[str, Any]]:
    """Draw rows of a chat dataset, half of them with one answer, half with several.

    Returns:
        Rows {messages, kind, true_entropy, answer}; `true_entropy` is in nats, and `answer` the
        one right answer, or None where there are several.
    """
    rng = random.Random(seed)
    certain = [question for question in world.questions if question.entropy == 0]
    open_ended = [question for question in world.questions if question.entropy > 0]
    rows = []
    for number in range(num_rows):
        question = rng.choice(open_ended if number % 2 else certain)
        asked = question.ask(rng.choice(wordings), rng.choice(world.askers))
        rows.append(
            {
                "messages": [
                    {"role": "user", "content": asked},
                    {"role": "assistant", "content": question.draw(rng)},
                ],
                "kind": question.kind,
                "true_entropy": question.entropy,
                "answer": question.answers[0] if question.entropy == 0 else None,
            }
        )
    rng.shuffle(rows)
    return rows


def draw_statements(world: World, num_statements: int, seed: int) -> list[str]:
    """Draw statements of the corpus that the base model reads."""
    rng = random.Random(seed)
    found = []
    for _ in range(num_statements):
        question = rng.choice(world.questions)
        found.append(question.state(question.draw(rng)))
    return found


def _sums() -> list[Question]:
    terms = range(1, _LARGEST_TERM + 1)
    return [Question("sum", f"{a} plus {b}", (str(a + b),), (1.0,)) for a in terms for b in terms]


def _phrases() -> list[Question]:
    return [
        Question("phrase", f"{act} a friend", words, _PHRASE_WEIGHTS)
        for act, words in _PHRASES.items()
    ]


class _Names:
    """Different names of two syllables."""

    def __init__(self, rng: random.Random) -> None:
        syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in "aeiou"]
        self._left = [first.capitalize() + last for first in syllables for last in syllables]
        rng.shuffle(self._left)

    def take(self, number: int) -> list[str]:
        """Take names that nobody took before."""
        taken, self._left = self._left[:number], self._left[number:]
        return taken
