"""A model behind an OpenAI-compatible `/v1/chat/completions`.

`ChatBackend.ask` gives the completion of one request, or says why there is none. It waits its turn
at the limiter, tries again where that can help, leaves out parameters that the server does not
take, and ends the run where every further request would fail as well.
"""

from __future__ import annotations

import asyncio
import ipaddress
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Final, Protocol
from urllib.parse import urlsplit

from axolotl_ual.errors import BackendError, ConfigError
from axolotl_ual.settings.server import ServerConfig

from .breaker import Breaker
from .dialect import Chat, Dialect
from .limiter import Limiter
from .pacing import Start
from .replies import Completion, Kind, Verdict, read_reply
from .transport import ConnectionFailed, Transport, resolve_base_url, shown

_FIRST_BACK_OFF: Final = 0.5
_LONGEST_BACK_OFF: Final = 30.0
_TRIES_TO_CONNECT: Final = 3
_AGAIN: Final = (Kind.RETRY, Kind.RATE_LIMITED, Kind.UNREACHABLE)
_REFUSALS_AT_START: Final = 16
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

    def lost(self) -> None:
        """Called after a try whose answer was not had, and may be charged for."""
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


@dataclass(frozen=True, slots=True)
class Server:
    """Where a judge is, and the key to it.

    Attributes:
        base_url: root of the API.
        key_env: environment variable of the key.
        key: the key; never shown, not even in a repr.
        section: the YAML section, for error messages.
    """

    base_url: str
    key_env: str
    key: str | None = field(repr=False)
    section: str = "ual.annotate.judge"

    @property
    def url(self) -> str:
        """The address as it may be shown."""
        return shown(self.base_url)

    def redact(self, text: str) -> str:
        """Take the key out of a text that came from outside."""
        return text.replace(self.key, "***") if self.key else text


def find_server(config: ServerConfig, section: str = "ual.annotate.judge") -> Server:
    """Resolve address and key from settings and environment."""
    key = os.environ.get(config.api_key_env, "").strip() or None
    return Server(resolve_base_url(config.base_url), config.api_key_env, key, section)


def check_key(server: Server) -> None:
    """Tell before the first request that a key is missing or cannot be one.

    Raises:
        ConfigError: the server is not a local one and there is no key.
    """
    if server.key is None and not _is_local(server.base_url):
        raise ConfigError(
            f"{server.section}.api_key_env: the environment variable {server.key_env} is not "
            f"set, and {server.url} wants a key",
            f"export {server.key_env}=..., or name another variable, or set base_url to a server "
            "of your own",
        )
    if server.key is not None and not (server.key.isascii() and server.key.isprintable()):
        raise ConfigError(
            f"{server.section}.api_key_env: {server.key_env} holds characters that no key has",
            "set it again; copying may have added a line break or a quotation mark",
        )


class ChatBackend:
    """Asks one model. Use as an async context manager.

    Args:
        config: of the judge.
        server: where it is.
        say: prints a line for the user.
    """

    def __init__(self, config: ServerConfig, server: Server, say: Callable[[str], None]) -> None:
        self._config = config
        self._server = server
        self._transport = Transport(
            f"{server.base_url}/chat/completions",
            server.key,
            config.timeout,
            config.max_concurrency,
            f"{server.section}.base_url",
        )
        self._limiter = Limiter(
            config.max_concurrency, config.requests_per_minute, config.tokens_per_minute
        )
        self._breaker = Breaker(
            max(32, 2 * config.max_concurrency), config.patience, server.url, say
        )
        self._dialect = Dialect(config.model, lambda line: say(server.redact(line)))
        self._refusals = 0
        self._has_completed = False
        self.counts = Counts()

    async def __aenter__(self) -> ChatBackend:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._transport.__aexit__(kind, error, trace)

    @property
    def gives_logprobs(self) -> bool:
        """Whether the server has not refused to give log-probabilities."""
        return self._dialect.gives_logprobs

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
        tries = 0
        while True:
            dialect = self._dialect.version
            verdict = await self._send(chat)
            if verdict.completion is not None:
                self._count(verdict.completion)
                return verdict.completion
            if verdict.kind is Kind.BAD_REQUEST and (
                self._dialect.version > dialect
                or self._dialect.adapt(chat, verdict.message, verdict.param)
            ):
                continue
            tries += 1
            if verdict.is_lost and account is not None:
                account.lost()
            self._give_up_where_useless(verdict, tries)
            self.counts.retries += 1
            await asyncio.sleep(_back_off(tries, verdict.retry_after))
            if account is not None:
                await account.again()

    async def _send(self, chat: Chat) -> Verdict:
        """One request over HTTP, reported to limiter and breaker."""
        await self._breaker.wait()
        reserved = chat.prompt_tokens + chat.n * chat.max_tokens
        start = await self._limiter.start(reserved)
        used: int | None = None
        self.counts.requests += 1
        try:
            verdict = read_reply(await self._transport.post(self._dialect.body(chat)))
            if verdict.completion is not None:
                tokens = verdict.completion.prompt_tokens + verdict.completion.completion_tokens
                used = tokens or None
        except ConnectionFailed as error:
            kind = Kind.UNREACHABLE if error.unreachable else Kind.RETRY
            verdict = Verdict(kind, error.reason)
        finally:
            self._limiter.finish(reserved, used)
        if verdict.message:
            verdict = replace(verdict, message=self._server.redact(verdict.message))
        self._report(verdict, start)
        return verdict

    def _report(self, verdict: Verdict, start: Start) -> None:
        now = time.monotonic()
        if verdict.kind is Kind.RATE_LIMITED:
            self.counts.rate_limited += 1
            self._limiter.pacing.rejected(start, now, verdict.retry_after)
            self._breaker.failed(verdict.message)
        elif verdict.kind in _AGAIN:
            self._limiter.pacing.failed(start)
            self._breaker.failed(verdict.message)
        else:
            self._limiter.pacing.succeeded(start, now - start.at)
            self._breaker.succeeded()

    def _count(self, completion: Completion) -> None:
        self._has_completed = True
        self.counts.prompt_tokens += completion.prompt_tokens
        self.counts.completion_tokens += completion.completion_tokens
        self.counts.cached_tokens += completion.cached_tokens

    def _give_up_where_useless(self, verdict: Verdict, tries: int) -> None:
        """Raise unless asking once more may help."""
        if verdict.kind is Kind.FATAL:
            raise self._fatal(verdict)
        if verdict.kind is Kind.UNREACHABLE and not self._breaker.has_worked:
            if tries >= _TRIES_TO_CONNECT:
                raise BackendError(
                    f"cannot reach the judge at {self._server.url}: {verdict.message}",
                    f"is the server running, and is {self._server.section}.base_url right? A "
                    "local one looks like http://localhost:8000/v1",
                )
            return
        if verdict.kind is Kind.BAD_REQUEST and not self._has_completed:
            self._refusals += 1
            if self._refusals >= _REFUSALS_AT_START:
                raise BackendError(
                    f"{self._server.url} refuses every request for {self._config.model}: "
                    f"{verdict.message}",
                    f"look at the settings under {self._server.section}; nothing was answered",
                )
        if verdict.kind not in _AGAIN:
            raise NoCompletion(verdict.kind, verdict.message)
        if tries > self._config.max_retries:
            raise NoCompletion(verdict.kind, f"{verdict.message} ({tries} tries)")

    def _fatal(self, verdict: Verdict) -> BackendError:
        server, model = self._server, self._config.model
        if verdict.status in (401, 403):
            held = "the key in" if server.key else "no key: there is nothing in"
            return BackendError(
                f"{server.url} does not accept {held} {server.key_env} ({verdict.message})",
                f"export {server.key_env}=... with a key for this server, or set "
                f"{server.section}.api_key_env to the variable that holds it",
            )
        if verdict.status in (402, 429):
            return BackendError(
                f"the account at {server.url} has no credit left ({verdict.message})",
                "add credit and run the same command again: what was answered is in the cache",
            )
        if verdict.status in (404, 405):
            return BackendError(
                f"{server.url} does not serve {model} ({verdict.message})",
                f"look at {server.section}.model and base_url, which ends in /v1 on most servers",
            )
        return BackendError(
            f"{server.url} redirects elsewhere ({verdict.message})",
            f"set {server.section}.base_url to where it redirects to; a key is not sent along",
        )


def _is_local(base_url: str) -> bool:
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host.endswith((".local", ".internal", ".localhost")):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        # A name without a dot is of the local network or of a container.
        return "." not in host


def _back_off(tries: int, retry_after: float | None) -> float:
    """Seconds until the next try: what the server asked for, else doubling; with jitter."""
    if retry_after is not None:
        return retry_after + random.uniform(0.0, 0.1 + 0.1 * retry_after)
    return min(_LONGEST_BACK_OFF, _FIRST_BACK_OFF * 2.0 ** (tries - 1)) * random.uniform(0.5, 1.5)
