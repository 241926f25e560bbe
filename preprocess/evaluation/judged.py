"""What a judge makes of generated responses: which of two it prefers, and how it rates each.

Every pair is shown in both orders and the two preferences are averaged, so that a judge that always
takes what it reads first gives 1/2 (see `axolotl_ual.evaluation.win_rate`). Equal texts are a tie
that nobody needs to be asked about. A rating is 1 less the departure from a principle that the
dimension `value` of preference pairs asks for.

Answers go through the asker of the judge engine: its cache, its limits, its budget. A response that
got no answer in one of the orders counts in no win rate; such responses are counted by reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import UALError
from axolotl_ual.evaluation.predictions import Measure, ratio
from axolotl_ual.evaluation.win_rate import both_orders, length_controlled
from axolotl_ual.settings.pairs import PairsJudgeConfig

from ..calls.ask import Asker
from ..calls.budget import Meter
from ..calls.cache import Answer
from ..calls.task import Question, Questions, Reading, Unparsable
from ..data.prompt import Prompt
from ..data.sample import Sample, Turn
from ..dimensions.principles import principle_tasks
from ..dimensions.review import Reviewed, reading, review, template
from ..judge.frame import Fenced, framed_chat
from ..judge.parse import find_object, whole
from ..models.server.dialect import Chat
from ..models.server.replies import Completion
from .measuring import Measured
from .runs import Run

SECTION: Final = "ual.evaluate.judge"
_SCORES: Final = {"a": 1.0, "b": 0.0, "tie": 0.5}
_LIKELY_TOKENS: Final = 8
_LEAST: Final = 5
"""Comparisons that a length-controlled win rate needs."""

WIN_RATE: Final = ratio("win_rate", "Win rate", "preferred", "compared", "higher")
LENGTH_CONTROLLED: Final = ratio(
    "length_controlled_win_rate",
    "Length-controlled win rate",
    "preferred_at_equal_length",
    "compared",
    "higher",
)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Shown:
    """Two responses to one prompt, in the order in which they are shown."""

    prompt: Prompt
    first: str
    second: str


@dataclass(frozen=True)
class Pairwise:
    """The task: which of two responses is better? A score of 1 is the one that is shown first.

    Attributes:
        config: of the judge.
    """

    config: PairsJudgeConfig

    @cached_property
    def instructions(self) -> str:
        """The system message."""
        return template("pairwise-v1").instructions(reading())

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What shapes an answer besides the responses."""
        return {
            "kind": "pairwise",
            "instructions": hashlib.sha256(self.instructions.encode()).hexdigest(),
            "model": self.config.model,
            "temperature": self.config.temperature,
            "max_sample_tokens": self.config.max_sample_tokens,
            **self.config.answer_shaping,
        }

    @property
    def needs_logprobs(self) -> bool:
        """A preference is stated."""
        return False

    @property
    def max_tokens(self) -> int:
        """As the recipe says."""
        return self.config.max_tokens

    @property
    def reminder(self) -> str:
        """The form of an answer, once more."""
        return (
            'Answer with one JSON object and nothing else: {"preferred": "A"}, {"preferred": "B"} '
            'or {"preferred": "tie"}.'
        )

    def sample(self, item: Shown) -> Sample:
        """The dialogue with both responses marked."""
        shown = (Turn("A", item.first, trained=True), Turn("B", item.second, trained=True))
        return Sample((*item.prompt.sample().turns, *shown))

    def chat(self, item: Shown, repeat: int) -> Chat:
        """The request."""
        return framed_chat(
            self.config,
            self.instructions,
            _frame,
            self.sample(item),
            repeat,
            max_tokens=self.max_tokens,
        )

    def read(self, completion: Completion) -> Reading:
        """Read the preference."""
        said = find_object(whole(completion), "preferred")["preferred"]
        score = _SCORES.get(said.strip().lower()) if isinstance(said, str) else None
        if score is None:
            raise Unparsable("`preferred` is none of A, B and tie")
        return Reading(score)

    def read_stated(self, completion: Completion) -> Reading:
        """`read` needs no log-probabilities."""
        return self.read(completion)

    def likely_tokens(self, item: Shown) -> float:
        """A short object."""
        return _LIKELY_TOKENS


def _frame(fenced: Fenced) -> str:
    return str(template("frame-v1").sample(fenced.marker, fenced.parts))


@dataclass(slots=True)
class Judged:
    """What the judge said of one run.

    Attributes:
        sums: by quantity, over the rows that responses were generated for.
        measures: those that the sums give.
        reasons: responses without an answer, by reason.
    """

    sums: dict[str, Floats] = field(default_factory=dict)
    measures: list[Measure] = field(default_factory=list)
    reasons: Counter[str] = field(default_factory=Counter)


Ask = Callable[[Run, Sequence[Prompt], Sequence[str], Sequence[str]], list[Judged]]
"""Asks the judge about a run: its prompts, responses, and those of the baseline."""


def compare_responses(
    asker: Asker,
    config: PairsJudgeConfig,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    baseline: Sequence[str],
    meter: Meter,
) -> Judged:
    """Win rates over a baseline.

    Args:
        asker: of the judge.
        config: of the judge.
        prompts: of N rows.
        responses: of the run.
        baseline: of the run that it is compared with.
        meter: of this work; its progress advances by two for each row.

    Raises:
        BackendError: the judge cannot be used at all.
        LimitError: as much as may be spent was spent.
    """
    judged = Judged()
    scores = np.full((len(prompts), 2), 0.5)
    task = Pairwise(config)

    def make() -> Iterator[Question]:
        for row, (prompt, own, other) in enumerate(zip(prompts, responses, baseline, strict=True)):
            if own != other:
                yield Question(task, Shown(prompt, own, other), 0, [2 * row])
                yield Question(task, Shown(prompt, other, own), 0, [2 * row + 1])

    def on_answer(place: int, answer: Answer) -> None:
        row, order = divmod(place, 2)
        scores[row, order] = np.nan if answer.score is None else answer.score
        if answer.score is None:
            judged.reasons[answer.outcome.value] += 1
        meter.count()
        meter.progress.advance(1)

    same = sum(own == other for own, other in zip(responses, baseline, strict=True))
    meter.progress.advance(2 * same)
    asker.run(
        Questions([task], make),
        on_answer,
        meter,
        lambda place: {"row": place // 2, "order": place % 2},
    )
    preference = both_orders(scores[:, 0], scores[:, 1])
    known = ~np.isnan(preference)
    judged.sums = {
        "compared": known.astype(np.float64),
        "preferred": np.where(known, preference, 0.0),
    }
    judged.measures.append(WIN_RATE)
    if known.sum() >= _LEAST:
        own, other = (
            np.array([len(text) for text in texts], dtype=np.float64)
            for texts in (responses, baseline)
        )
        controlled = np.zeros(len(prompts))
        controlled[known] = length_controlled(preference[known], own[known], other[known])
        judged.sums["preferred_at_equal_length"] = controlled
        judged.measures.append(LENGTH_CONTROLLED)
    return judged


def rate_responses(
    asker: Asker,
    config: PairsJudgeConfig,
    principles: dict[str, str],
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    meter: Meter,
) -> Judged:
    """How far each response keeps to each principle, in [0, 1].

    Args:
        asker: of the judge.
        config: of the judge.
        principles: name to text.
        prompts: of N rows.
        responses: of the run.
        meter: of this work; its progress advances by one for each rating of a distinct response.

    Raises:
        BackendError: the judge cannot be used at all.
        LimitError: as much as may be spent was spent.
    """
    judged = Judged()
    tasks = principle_tasks(config, principles)
    items = [Reviewed(prompt, text) for prompt, text in zip(prompts, responses, strict=True)]
    distinct = list(dict.fromkeys(items))
    answers = review(asker, tasks, distinct, range(1), meter, lambda n: {"response": n})
    place = {item: number for number, item in enumerate(distinct)}
    for name, given in zip(principles, answers, strict=True):
        departure = np.array(
            [np.nan if (s := given[place[item]][0].score) is None else s for item in items],
            dtype=np.float64,
        )
        known = ~np.isnan(departure)
        judged.sums[name] = np.where(known, 1.0 - departure, 0.0)
        judged.sums[f"rated {name}"] = known.astype(np.float64)
        judged.measures.append(ratio(name, name.capitalize(), name, f"rated {name}", "higher"))
        judged.reasons.update(a[0].outcome.value for a in given if a[0].score is None)
    return judged


SENTIMENT: Final = ratio("sentiment", "Sentiment (VADER)", "sentiment", "said", None)


def score_sentiment(responses: Sequence[str]) -> Judged:
    """VADER's compound sentiment of each response, in [-1, 1] (Hutto and Gilbert 2014).

    Raises:
        UALError: vaderSentiment is not installed.
    """
    try:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer
    except ImportError:
        raise UALError(
            "ual.evaluate.sentiment: vaderSentiment is not installed",
            "pip install 'axolotl-ual[evaluate]'",
        ) from None
    analyzer = SentimentIntensityAnalyzer()
    values = [float(analyzer.polarity_scores(text)["compound"]) for text in responses]
    sums = {"sentiment": np.array(values), "said": np.ones(len(values))}
    return Judged(sums, [SENTIMENT])


def judge_runs(
    measured: Measured, prompts: Sequence[Prompt], against: str, ask: Ask | None, sentiment: bool
) -> tuple[list[Measure], Counter[str]]:
    """Add to the sums of every run what a judge and VADER make of its responses.

    Args:
        measured: the runs, with responses to the generated rows.
        prompts: of those rows.
        against: the arm that responses are compared with; a run is compared with the run of it that
            has the same seed, else with its first.
        ask: the judge, or None.
        sentiment: whether to score the sentiment.

    Returns:
        The measures that every run has, and responses without an answer by reason.

    Raises:
        BackendError: the judge cannot be used at all.
        LimitError: as much as may be spent was spent.
    """
    by_run: list[dict[str, Measure]] = []
    reasons: Counter[str] = Counter()
    texts = [[response.text for response in said] for said in measured.responses]
    for number, run in enumerate(measured.runs):
        parts: list[Judged] = []
        if ask is not None:
            baseline = _baseline(measured, texts, run, against)
            parts += ask(run, prompts, texts[number], baseline)
        if sentiment:
            parts.append(score_sentiment(texts[number]))
        by_run.append({m.name: m for part in parts for m in part.measures})
        for part in parts:
            reasons.update(part.reasons)
            measured.sums[number].update(
                (name, _over_all(values, measured)) for name, values in part.sums.items()
            )
    shared = set.intersection(*(set(found) for found in by_run))
    return [measure for name, measure in by_run[0].items() if name in shared], reasons


def _baseline(
    measured: Measured, texts: Sequence[Sequence[str]], run: Run, against: str
) -> Sequence[str]:
    places = [n for n, other in enumerate(measured.runs) if other.arm == against]
    same = [n for n in places if measured.runs[n].seed == run.seed]
    return texts[(same or places)[0]]


def _over_all(values: Floats, measured: Measured) -> Floats:
    """Values of the generated rows as values of all rows, 0 elsewhere."""
    everywhere = np.zeros(len(measured.sums[0]["tokens"]))
    everywhere[measured.generated] = values
    return everywhere
