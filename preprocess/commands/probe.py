"""`axolotl-ual probe`: three requests to each server of a recipe, and what they show of it.

The first asks for the list of models, the second has one sample judged, or a question answered, by
the form that the recipe asks for, the third asks for log-probabilities.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

from rich.console import Console
from rich.table import Table

from axolotl_ual.errors import ConfigError, UALError
from axolotl_ual.settings.estimators import JudgeConfig
from axolotl_ual.settings.pairs import PRINCIPLES, PairsJudgeConfig
from axolotl_ual.settings.server import ServerConfig
from axolotl_ual.settings.ual import UALConfig, parse_ual

from ..calls.task import NoLogprobs, Reading, Unparsable
from ..data.prompt import Prompt
from ..data.recipe import read_yaml
from ..data.sample import Sample, Turn
from ..dimensions.principles import principle_tasks
from ..dimensions.review import Reviewed
from ..judge.rubric import load_rubric
from ..judge.uncertainty import Uncertainty
from ..models.server.client import ChatBackend, NoCompletion
from ..models.server.completions import Completion
from ..models.server.context import ask_context
from ..models.server.dialect import Chat
from ..models.server.endpoint import Endpoint, find_endpoint

_SAMPLE: Final = Sample(
    (
        Turn("user", "Which is the largest planet of the solar system?", False),
        Turn("assistant", "Jupiter is the largest planet of the solar system.", True),
    )
)
_PATIENCE: Final = 30.0
_SHOWN: Final = 160
_MOST_NAMES: Final = 5
_ROWS: Final = (
    "reachable", "model that answers", "answer by schema", "log-probabilities", "thinking",
    "limits it names", "context length", "price", "one sample", "changed requests",
)  # fmt: skip


@dataclass(slots=True)
class Probed:
    """What three requests showed of one server.

    Attributes:
        section: of the YAML.
        found: by the names of the table's rows.
        replied: whether anything came back over HTTP.
        works: whether it gave an answer of use.
    """

    section: str
    found: dict[str, str] = field(default_factory=dict)
    replied: bool = False
    works: bool = False


def probe(path: Path, console: Console) -> bool:
    """Probe every server of a recipe and print a table.

    Returns:
        Whether all of them gave an answer of use.

    Raises:
        ConfigError: the recipe asks no server.
    """
    sections = list(servers(parse_ual(read_yaml(path).get("ual"), where=f"{path}: ual")))
    if not sections:
        raise ConfigError(
            f"{path}: ual: asks no server: there is nothing to probe",
            "servers are asked by `estimator: judge`, `panel`, `self_consistency`, and by `pairs`",
        )

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    probed = [asyncio.run(_probe(section, config, say)) for section, config in sections]
    table = Table(show_lines=True)
    table.add_column("")
    for one in probed:
        table.add_column(one.section, overflow="fold")
    for name in _ROWS:
        if any(name in one.found for one in probed):
            table.add_row(name, *(one.found.get(name, "") for one in probed))
    console.print(table, markup=False, highlight=False)
    return all(one.works for one in probed)


def servers(ual: UALConfig) -> Iterator[tuple[str, ServerConfig]]:
    """Every section of a recipe that names a server, and what it says."""
    annotate, pairs = ual.annotate, ual.pairs
    if annotate is not None:
        names = annotate.estimators
        if "judge" in names and annotate.judge is not None:
            yield "ual.annotate.judge", annotate.judge
        if "panel" in names and annotate.panel is not None:
            for place, judge in enumerate(annotate.panel.judges):
                yield f"ual.annotate.panel.judges.{place}", judge
        if "self_consistency" in names and annotate.self_consistency is not None:
            yield "ual.annotate.self_consistency", annotate.self_consistency
    if pairs is not None:
        if pairs.sampling.backend == "api" and pairs.sampling.api is not None:
            yield "ual.pairs.sampling.api", pairs.sampling.api
        if pairs.judged and pairs.judge is not None:
            yield "ual.pairs.judge", pairs.judge


async def _probe(section: str, config: ServerConfig, say: Callable[[str], None]) -> Probed:
    probed = Probed(section)
    config = config.model_copy(
        update={"patience": min(config.patience, _PATIENCE), "max_retries": 1}
    )
    try:
        endpoint = find_endpoint(config, section)
        endpoint.check(None)
        await _ask(endpoint, probed, say)
    except UALError as error:
        probed.works = False
        probed.found.setdefault("reachable", "yes, and gives no answer" if probed.replied else "no")
        probed.found["one sample"] = str(error)
    return probed


async def _ask(endpoint: Endpoint, probed: Probed, say: Callable[[str], None]) -> None:
    found, config = probed.found, endpoint.config
    price = endpoint.price
    found["price"] = "not known"
    if price is not None:
        found["price"] = f"{price.input * 1e6:g} and {price.output * 1e6:g} USD for 1M tokens"
    told = await ask_context(endpoint.server, config.model)
    probed.replied = told.replied
    async with ChatBackend(config, endpoint.server, say) as backend:
        question = _question(config)
        completion = await _completion(backend, question.chat, found)
        # Some servers know it when the model is loaded.
        context = backend.context or told.context
        found["context length"] = f"{context:,} tokens" if context else "not told"
        if completion is None:
            return
        found["reachable"] = f"yes, {endpoint.server.url}"
        found["model that answers"] = (completion.model or "not told") + _offered(
            told.models, config
        )
        found["thinking"] = _thinking(completion)
        probed.works, found["one sample"] = _worth(question, completion)
        changed = backend.facts.get("changed_requests", [])
        if question.chat.response_format is not None:
            steps = [line for line in changed if "JSON" in line]
            kept = "taken" if probed.works else "taken, and not kept to"
            found["answer by schema"] = steps[-1] if steps else kept
        found["log-probabilities"] = await _logprobs(backend, config)
        found["limits it names"] = ", ".join(
            f"{name}: {value}" for name, value in backend.limits.items()
        )
        if everything := backend.facts.get("changed_requests"):
            found["changed requests"] = "; ".join(everything)


class _Question(NamedTuple):
    """What a recipe would ask about the sample: how an answer is read, or None to show it."""

    chat: Chat
    read: Callable[[Completion], Reading] | None = None


def _question(config: ServerConfig) -> _Question:
    if isinstance(config, JudgeConfig):
        rubric = load_rubric(config.rubric, reason=bool(config.reason))
        task = Uncertainty(config, rubric, "verbalized")
        return _Question(task.chat(_SAMPLE, 0), task.read)
    asked, answer = _SAMPLE.turns
    if isinstance(config, PairsJudgeConfig):
        (rating,) = principle_tasks(config, PRINCIPLES, together=True)
        reviewed = Reviewed(Prompt((("user", asked.text),)), answer.text)
        return _Question(rating.chat(reviewed, 0), rating.read)
    messages = [{"role": "user", "content": asked.text}]
    tokens = getattr(config, "max_tokens", 256)
    return _Question(Chat(messages, max_tokens=tokens, temperature=0.0))


async def _completion(backend: ChatBackend, chat: Chat, found: dict[str, str]) -> Completion | None:
    try:
        return await backend.ask(chat)
    except NoCompletion as nothing:
        found["reachable"] = "yes, and gives no answer"
        found["one sample"] = nothing.message
        return None


async def _logprobs(backend: ChatBackend, config: ServerConfig) -> str:
    messages = [
        {"role": "user", "content": "Answer with one digit from 0 to 9: how much is 3 + 4?"}
    ]
    tokens = getattr(config, "max_tokens", 64)
    chat = Chat(messages, max_tokens=tokens, temperature=0.0, top_logprobs=20)
    try:
        completion = await backend.ask(chat)
    except NoCompletion as nothing:
        return nothing.message
    if not completion.logprobs:
        return "none"
    most = max(len(token.get("top_logprobs") or []) for token in completion.logprobs)
    return f"yes, the {most} likeliest tokens" if most else "of the tokens themselves only"


def _thinking(completion: Completion) -> str:
    if completion.thinking:
        return f"yes, {len(completion.thinking):,} characters before the answer"
    return "none was shown"


def _worth(question: _Question, completion: Completion) -> tuple[bool, str]:
    """Whether an answer is of use, and what it is."""
    shown = repr(completion.content[:_SHOWN])
    if question.read is None:
        return bool(completion.content) and not completion.cut, shown
    try:
        reading = question.read(completion)
    except (Unparsable, NoLogprobs) as error:
        more = f"; raise max_tokens: {question.chat.max_tokens}" if completion.cut else ""
        return False, f"no score ({error}{more}): {shown}"
    return True, f"{reading.score:.2f} for a plain fact that is right: {shown}"


def _offered(listed: list[Any], config: ServerConfig) -> str:
    """The models of a list that does not have the one that was asked for."""
    names = [str(entry["id"]) for entry in listed if isinstance(entry, dict) and "id" in entry]
    if not names or config.model in names:
        return ""
    more = ", ..." if len(names) > _MOST_NAMES else ""
    return f"; the server lists {', '.join(names[:_MOST_NAMES])}{more} and not {config.model}"
