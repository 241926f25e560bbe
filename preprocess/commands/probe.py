"""`axolotl-ual probe`: three requests to each server of a recipe, and what they show of it.

The first asks for the list of models, the second has one sample judged, or a question answered, by
the form that the recipe asks for, the third asks for log-probabilities.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from axolotl_ual.errors import ConfigError, UALError
from axolotl_ual.settings.estimators import JudgeConfig
from axolotl_ual.settings.server import ServerConfig
from axolotl_ual.settings.ual import UALConfig

from ..calls.task import NoLogprobs, Unparsable
from ..data.recipe import load_recipe
from ..data.sample import Sample, Turn
from ..judge.rubric import load_rubric
from ..judge.uncertainty import Uncertainty
from ..models.server.client import ChatBackend, NoCompletion
from ..models.server.completions import Completion
from ..models.server.dialect import Chat
from ..models.server.endpoint import Endpoint, find_endpoint
from ..models.server.transport import ConnectionFailed, Reply, Transport

_SAMPLE: Final = Sample(
    (
        Turn("user", "Which is the largest planet of the solar system?", False),
        Turn("assistant", "Jupiter is the largest planet of the solar system.", True),
    )
)
_PATIENCE: Final = 30.0
_SHOWN: Final = 160
_CONTEXT_KEYS: Final = ("max_model_len", "context_length", "context_window", "n_ctx", "n_ctx_train")
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
        works: whether it answered.
    """

    section: str
    found: dict[str, str] = field(default_factory=dict)
    works: bool = False


def probe(path: Path, console: Console) -> bool:
    """Probe every server of a recipe and print a table.

    Returns:
        Whether all of them answered.

    Raises:
        ConfigError: the recipe asks no server.
    """
    sections = list(servers(load_recipe(path).ual))
    if not sections:
        raise ConfigError(
            f"{path}: ual: asks no server: there is nothing to probe",
            "servers are asked by `estimator: judge`, `panel`, `self_consistency`, and by `pairs`",
        )
    probed = [asyncio.run(_probe(section, config)) for section, config in sections]
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


async def _probe(section: str, config: ServerConfig) -> Probed:
    probed = Probed(section)
    config = config.model_copy(
        update={"patience": min(config.patience, _PATIENCE), "max_retries": 1}
    )
    try:
        endpoint = find_endpoint(config, section)
        endpoint.check(None)
        await _ask(endpoint, probed)
    except UALError as error:
        probed.found.setdefault("reachable", "no" if not probed.works else "yes")
        probed.found["one sample"] = str(error)
    return probed


async def _ask(endpoint: Endpoint, probed: Probed) -> None:
    found, config = probed.found, endpoint.config
    price = endpoint.price
    found["price"] = "not known"
    if price is not None:
        found["price"] = f"{price.input * 1e6:g} and {price.output * 1e6:g} USD for 1M tokens"
    listed = await _models(endpoint)
    found["context length"] = _context(listed, config.model) or "not told"
    lines: list[str] = []
    async with ChatBackend(config, endpoint.server, lines.append) as backend:
        completion = await _completion(backend, _first_chat(config), found)
        if completion is None:
            return
        probed.works = True
        found["reachable"] = f"yes, {endpoint.server.url}"
        found["model that answers"] = completion.model or "not told"
        found["thinking"] = _thinking(completion)
        if isinstance(config, JudgeConfig):
            found["one sample"] = _judged(config, completion)
        else:
            found["one sample"] = repr(completion.content[:_SHOWN])
        if isinstance(config, JudgeConfig):
            steps = [line for line in backend.facts.get("changed_requests", []) if "JSON" in line]
            found["answer by schema"] = steps[-1] if steps else "taken"
        found["log-probabilities"] = await _logprobs(backend, config)
        found["limits it names"] = ", ".join(
            f"{name}: {value}" for name, value in backend.limits.items()
        )
        if changed := backend.facts.get("changed_requests"):
            found["changed requests"] = "; ".join(changed)


def _first_chat(config: ServerConfig) -> Chat:
    """What the recipe would ask, about one sample."""
    if isinstance(config, JudgeConfig):
        rubric = load_rubric(config.rubric, reason=bool(config.reason))
        return Uncertainty(config, rubric, "verbalized").chat(_SAMPLE, 0)
    messages = [{"role": "user", "content": _SAMPLE.turns[0].text}]
    return Chat(messages, max_tokens=getattr(config, "max_tokens", 256), temperature=0.0)


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


def _judged(config: JudgeConfig, completion: Completion) -> str:
    rubric = load_rubric(config.rubric, reason=bool(config.reason))
    shown = repr(completion.content[:_SHOWN])
    try:
        reading = Uncertainty(config, rubric, "verbalized").read(completion)
    except (Unparsable, NoLogprobs) as error:
        return f"no score ({error}): {shown}"
    return f"uncertainty {reading.score:.2f} of a plain fact: {shown}"


async def _models(endpoint: Endpoint) -> list[Any]:
    """The list of models; empty where there is none."""
    server, config = endpoint.server, endpoint.config
    transport = Transport(
        server.at("/models"), server.all_headers, config.timeout, 1, server.section, server.ca_file
    )
    try:
        async with transport:
            reply: Reply = await transport.get()
        listed = orjson.loads(reply.body)["data"]
    except (ConnectionFailed, orjson.JSONDecodeError, KeyError, TypeError):
        return []
    return listed if isinstance(listed, list) else []


def _context(listed: list[Any], model: str) -> str:
    for entry in listed:
        if isinstance(entry, dict) and (entry.get("id") == model or len(listed) == 1):
            for part in (entry, entry.get("meta"), entry.get("top_provider")):
                for key in _CONTEXT_KEYS:
                    if isinstance(part, dict) and isinstance(part.get(key), int):
                        return f"{part[key]:,} tokens"
    return ""
