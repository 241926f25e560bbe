"""A model behind an OpenAI-compatible `/v1/chat/completions`.

`ChatBackend.ask` gives the completion of one request, or says why there is none. The first request
goes alone. Each waits its turn at the limiter, is tried again where that can help, and leaves out
parameters that the server does not take; the run ends where every further request would fail too.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Final, Protocol

from axolotl_ual.errors import UALError
from axolotl_ual.settings.server import ServerConfig

from . import endings
from .address import Server
from .completions import Completion
from .content import said
from .context import ask_context
from .cut_prompts import SMALLEST_CONTEXT, CutPrompts
from .dialect import Chat, Dialect
from .gate import Gate
from .limiter import Limiter, limiter_of
from .pacing import Start
from .patience import AloneUnanswered, Patience
from .replies import read_reply
from .sight import Sight
from .track_record import TrackRecord
from .transport import ConnectionFailed, Transport
from .verdicts import Kind, Verdict

_FIRST_BACK_OFF: Final = 0.5
_LONGEST_BACK_OFF: Final = 30.0
_TRIES_AT_START: Final = 3
"""Tries to connect, and answers that are none, before a server has given one."""
_AGAIN: Final = (Kind.RETRY, Kind.RATE_LIMITED, Kind.UNREACHABLE)
_LAST_ANSWERS: Final = 30.0
"""Seconds for answers that are in flight when a run ends."""
_LOOKS_AGAIN: Final = 0.02
_FEW: Final = 8
"""Requests in flight until an answer was of use."""
_FORBIDDEN_AT_START: Final = 3
"""Rows that a server may forbid before it has answered one; a firewall may dislike the first."""
_FORBIDDEN: Final = 32
"""Rows that it may forbid one after the other when it has answered others."""
_NOT_FOUND: Final = 8
"""The same for a model that is not there, where one of several replicas may lack it."""
_REFUSALS_AT_START: Final = 4
"""Requests that a server may call bad before it has accepted one."""


class NoCompletion(Exception):
    """One request has no completion; others may.

    Args:
        kind: REFUSED, TOO_LONG, BAD_REQUEST or, after all tries, what was tried again.
        message: what the server said.
    """

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message


class Account(Protocol):
    """Pays for the tries of one request."""

    async def again(self) -> None:
        """Called before another try; may raise where it cannot be paid for."""
        ...

    def lost(self, charged: Completion | None) -> None:
        """Called after a try whose answer was not had, and may be charged for.

        Args:
            charged: what it took, where the server says so.
        """
        ...


@dataclass(slots=True)
class Counts:
    """What was sent, and what it took.

    Attributes:
        requests: sent over HTTP, retries included.
        retries: of these, those that were sent again.
        rate_limited: answers with status 429.
        prompt_tokens: of all completions.
        completion_tokens: likewise.
        cached_tokens: of the prompts, those that the server had in its cache.
    """

    requests: int = 0
    retries: int = 0
    rate_limited: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def add(self, other: Counts) -> None:
        """Add what was counted before."""
        for name in self.__slots__:
            setattr(self, name, getattr(self, name) + getattr(other, name))


class ChatBackend:
    """Asks one model. Use as an async context manager.

    Args:
        config: of the judge.
        server: where it is.
        say: prints a line for the user.
        limiter: the gate that requests pass; by default one of its own.
        record: whether the server has answered; by default what is seen here alone.

    Attributes:
        counts: what was sent, and what it took.
        limits: headers of the last reply that speak of limits, by name.
    """

    def __init__(
        self,
        config: ServerConfig,
        server: Server,
        say: Callable[[str], None],
        limiter: Limiter | None = None,
        record: TrackRecord | None = None,
    ) -> None:
        def tell(line: str) -> None:
            say(server.redact(line))

        self._config = config
        self._server = server
        self._say = tell
        self._transport = Transport(
            server.chat_url,
            server.all_headers,
            config.timeout,
            config.max_concurrency,
            server.section,
            server.ca_file,
        )
        self._limiter = limiter or limiter_of(config, server.section)
        threshold = max(32, 2 * config.max_concurrency)
        self._record = record or TrackRecord()
        self._patience = Patience(
            config.patience, threshold, server.url, tell, self._limiter.abort, self._record
        )
        self._watch: asyncio.Task[None] | None = None
        self._dialect = Dialect(config, tell)
        self._gate = Gate()
        self._refusals = self._faults = self._forbidden = 0
        self._prompts = CutPrompts()
        self._sight = Sight()
        self._has_asked_context = self._has_told_of_cuts = False
        self._asking_context = asyncio.Lock()
        self._ended: UALError | None = None
        self._models: dict[str, None] = {}
        self._fingerprints: dict[str, None] = {}
        self.limits: dict[str, str] = {}
        self.counts = Counts()

    async def __aenter__(self) -> ChatBackend:
        await self._transport.__aenter__()
        self._watch = asyncio.create_task(self._patience.watch())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._watch is not None:
            self._watch.cancel()
        await self._transport.__aexit__(kind, error, trace)

    @property
    def gives_logprobs(self) -> bool:
        """Whether the server has not refused to give log-probabilities."""
        return self._dialect.gives_logprobs

    @property
    def facts(self) -> dict[str, list[str]]:
        """What was sent otherwise than asked for and who answered, for the manifest."""
        facts: dict[str, list[str]] = {}
        if self._models:
            facts["served_model"] = list(self._models)
        if self._fingerprints:
            facts["system_fingerprint"] = list(self._fingerprints)
        if self._dialect.changes:
            facts["changed_requests"] = self._dialect.changes
        return facts

    def confirm(self) -> None:
        """An answer was of use: as many may be in flight as the recipe allows."""
        self._gate.widen()

    def body(self, chat: Chat) -> bytes:
        """The JSON of a request, as this server takes it."""
        return self._dialect.body(chat)

    async def ask(self, chat: Chat, account: Account | None = None) -> Completion:
        """Ask until there is an answer.

        Args:
            chat: the request.
            account: hears of what may be charged beside the answer.

        Raises:
            NoCompletion: there is none for this request.
            BackendError: there would be none for any other either.
        """
        self._patience.began()
        try:
            await self._gate.enter()
            try:
                return await self._ask(chat, account)
            finally:
                self._gate.leave()
        except AloneUnanswered as alone:
            raise NoCompletion(Kind.RETRY, f"{alone} (`patience` is over)") from None
        finally:
            self._patience.ended()

    async def _ask(self, chat: Chat, account: Account | None) -> Completion:
        tries = 0
        while True:
            dialect = self._dialect.version
            verdict = await self._send(chat)
            if self._sight.is_refused(chat, verdict):
                raise endings.takes_no_images(self._server, self._config.model, verdict)
            if verdict.completion is not None:
                return await self._completed(chat, verdict.completion)
            if verdict.kind is Kind.BAD_REQUEST and (
                self._dialect.version > dialect
                or self._dialect.adapt(chat, verdict.message, verdict.param)
            ):
                continue
            tries += 1
            if verdict.is_lost and account is not None:
                account.lost(verdict.charged)
            if self._sight.gives_up(chat, verdict):
                raise endings.takes_no_images(self._server, self._config.model, verdict)
            self._give_up_where_useless(verdict, tries)
            # What breaks the server may be this one request: after some tries another one goes.
            self._gate.widen(1 + tries // _TRIES_AT_START)
            self.counts.retries += 1
            await self._patience.sleep(_back_off(tries, verdict.retry_after), verdict.message)
            if account is not None:
                await account.again()

    async def end(self, error: UALError) -> None:
        """Send nothing more, and wait a while for what is in flight: it is paid for.

        Args:
            error: what every further request ends with.
        """
        self._ended = error
        self._limiter.abort(error)
        until = time.monotonic() + min(_LAST_ANSWERS, self._config.timeout)
        while self._patience.in_flight and time.monotonic() < until:
            await asyncio.sleep(_LOOKS_AGAIN)

    async def _send(self, chat: Chat) -> Verdict:
        """One request over HTTP, reported to those who pace requests and who lose patience."""
        await self._patience.wait()
        reserved = chat.prompt_tokens + chat.n * chat.max_tokens
        start = await self._limiter.start(reserved)
        if self._ended is not None:
            self._limiter.finish(reserved)
            raise self._ended
        used: int | None = None
        self.counts.requests += 1
        self._patience.sent()
        try:
            reply = await self._transport.post(self._dialect.body(chat))
            self.limits = {n: v for n, v in reply.headers.items() if "ratelimit" in n}
            verdict = read_reply(reply)
            if verdict.completion is not None:
                tokens = verdict.completion.prompt_tokens + verdict.completion.completion_tokens
                used = tokens or None
        except ConnectionFailed as error:
            kind = Kind.UNREACHABLE if error.unreachable else Kind.RETRY
            verdict = Verdict(kind, error.reason)
        finally:
            self._patience.came_back()
            self._limiter.finish(reserved, used)
        if verdict.message:
            verdict = replace(verdict, message=self._server.redact(verdict.message))
        if verdict.completion is None:
            await self._record.recall()
        self._report(verdict, start)
        return verdict

    def _report(self, verdict: Verdict, start: Start) -> None:
        now = time.monotonic()
        pacing = self._limiter.pacing
        if verdict.kind is Kind.RATE_LIMITED:
            self.counts.rate_limited += 1
            pacing.rejected(start, now, verdict.retry_after)
            self._patience.tell_wait(self._limiter.pause(), verdict.message)
            self._patience.failed(verdict.message, verdict.retry_after)
        elif verdict.kind in _AGAIN:
            pacing.failed(start)
            self._patience.failed(verdict.message, verdict.retry_after)
        else:
            pacing.succeeded(start, now - start.at)
            self._patience.succeeded()

    async def _completed(self, chat: Chat, completion: Completion) -> Completion:
        self._record.completed()
        self._forbidden = 0
        self._gate.widen(_FEW)
        self.counts.prompt_tokens += completion.prompt_tokens
        self.counts.completion_tokens += completion.completion_tokens
        self.counts.cached_tokens += completion.cached_tokens
        if completion.finish_reason == "tool_calls" and not chat.tools:
            completion = replace(completion, content="", tool_calls=())
        if completion.model is not None and len(self._models) < 8:
            self._note_model(completion.model)
        if completion.fingerprint is not None and len(self._fingerprints) < 8:
            self._fingerprints.setdefault(completion.fingerprint)
        if completion.prompt_tokens >= SMALLEST_CONTEXT:
            await self._ask_context()
        if not self._prompts.is_cut(chat.messages, completion.prompt_tokens, chat.max_tokens):
            return completion
        if not self._has_told_of_cuts:
            size = sum(len(said(message)) for message in chat.messages)
            self._say(
                f"{self._server.url} read {completion.prompt_tokens:,} tokens of a prompt of "
                f"{size:,} characters: it cuts prompts to its context and does not say so; such "
                "answers are not used. Give it a larger context (Ollama: num_ctx), or lower "
                "max_sample_tokens"
            )
        self._has_told_of_cuts = True
        return replace(completion, prompt_cut=True)

    @property
    def context(self) -> int | None:
        """Tokens that the server says it takes, as far as it was asked."""
        return self._prompts.context

    async def _ask_context(self) -> None:
        """Ask once how much the server takes: behind an answer, when its model is loaded."""
        async with self._asking_context:
            if not self._has_asked_context:
                self._has_asked_context = True
                told = await ask_context(self._server, self._config.model)
                self._prompts.context = told.context

    def _note_model(self, name: str) -> None:
        asked, served = _plain_name(self._config.model), _plain_name(name)
        if name not in self._models and asked not in served and served not in asked:
            self._say(f"{self._server.url} answers as {name}, where {self._config.model} was asked")
        self._models.setdefault(name)

    def _may_be_the_row(self, verdict: Verdict) -> bool:
        """Whether other rows may be answered: one of them is forbidden, or not by every replica."""
        if verdict.unpaid or verdict.status not in (403, 404):
            return False
        self._forbidden += 1
        if verdict.status == 404:
            return self._record.has_completed and self._forbidden < _NOT_FOUND
        return self._forbidden < (_FORBIDDEN if self._record.has_completed else _FORBIDDEN_AT_START)

    def _give_up_where_useless(self, verdict: Verdict, tries: int) -> None:
        """Raise unless asking once more may help."""
        model = self._config.model
        if verdict.kind is Kind.FATAL and not self._may_be_the_row(verdict):
            raise endings.fatal(self._server, model, verdict)
        if verdict.status == 404 and tries <= self._config.max_retries:
            return
        if verdict.kind is Kind.UNREACHABLE and not self._record.has_worked:
            if tries >= _TRIES_AT_START:
                raise endings.unreachable(self._server, verdict)
            return
        if not self._record.has_completed:
            self._refusals += verdict.kind is Kind.BAD_REQUEST
            self._faults += verdict.kind is Kind.RETRY and verdict.in_answer
            if self._refusals >= _REFUSALS_AT_START:
                raise endings.refuses_all(self._server, model, verdict)
            if self._faults >= _TRIES_AT_START:
                raise endings.no_answers(self._server, model, verdict)
        if verdict.kind not in _AGAIN:
            raise NoCompletion(verdict.kind, verdict.message)
        may_be_starting = verdict.is_about_the_server and not self._record.has_worked
        if tries > self._config.max_retries and not may_be_starting:
            raise NoCompletion(verdict.kind, f"{verdict.message} ({tries} tries)")


def _plain_name(model: str) -> str:
    """A model without its owner, in small letters and digits."""
    return re.sub(r"[^a-z0-9]", "", model.lower().rpartition("/")[2])


def _back_off(tries: int, retry_after: float | None) -> float:
    """Seconds until the next try: what the server asked for, else doubling; with jitter."""
    if retry_after is not None:
        return retry_after + random.uniform(0.0, min(5.0, 0.1 + 0.1 * retry_after))
    return min(_LONGEST_BACK_OFF, _FIRST_BACK_OFF * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.5)
