"""HTTP by aiohttp: one connection pool, one deadline a request.

The openai client's transport is what limits its throughput, so the hot path goes around it; what a
server says is read in `replies.py`.
"""

from __future__ import annotations

import asyncio
import os
import urllib.request
from dataclasses import dataclass
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from aiohttp import hdrs
from yarl import URL

from axolotl_ual import __version__
from axolotl_ual.errors import BackendError

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
"""The openai client's default."""
_OTHER_FILES: Final = 256
"""Files that are open beside the connections."""
_MOST_BYTES: Final = 16 << 20
"""An answer beyond this is not an answer."""


class ConnectionFailed(Exception):
    """No answer came.

    Args:
        reason: in a few words, without secrets.
        unreachable: the connection could not be made at all.
    """

    def __init__(self, reason: str, *, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.unreachable = unreachable


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back over HTTP."""

    status: int
    retry_after: str | None
    body: bytes


def resolve_base_url(base_url: str | None) -> str:
    """The server's root: the setting, else OPENAI_BASE_URL, else OpenAI."""
    return (base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL).rstrip("/")


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


class Transport:
    """Posts JSON to one URL. Use as an async context manager.

    Args:
        url: where to.
        api_key: for the Authorization header, or None.
        timeout: seconds until the whole answer must be there.
        connections: the most that are open at a time.
        section: the YAML key of the URL, for error messages.

    Raises:
        BackendError: the URL is not one.
    """

    def __init__(
        self, url: str, api_key: str | None, timeout: float, connections: int, section: str
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BackendError(
                f"{section}: {shown(url)!r} is not an http or https URL",
                "write it with its scheme and its /v1, for example http://localhost:8000/v1",
            )
        self._url = URL(url)
        self._headers = {
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.ACCEPT: "application/json",
            hdrs.USER_AGENT: f"axolotl-ual/{__version__}",
        }
        if api_key:
            self._headers[hdrs.AUTHORIZATION] = f"Bearer {api_key}"
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._connections = connections
        self._proxy = _proxy(parts.scheme, parts.hostname)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Transport:
        _allow_files(self._connections)
        # The proxy is found here and not by trust_env, which would read ~/.netrc as well.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=self._timeout,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def post(self, body: bytes) -> Reply:
        """Send a request and read the whole answer.

        Raises:
            ConnectionFailed: no answer came within the deadline.
        """
        assert self._session is not None
        try:
            async with self._session.post(
                self._url, data=body, proxy=self._proxy, allow_redirects=False
            ) as response:
                content = await response.content.read(_MOST_BYTES)
                while not response.content.at_eof() and len(content) < _MOST_BYTES:
                    content += await response.content.read(_MOST_BYTES - len(content))
                return Reply(response.status, response.headers.get(hdrs.RETRY_AFTER), content)
        except (asyncio.TimeoutError, aiohttp.ServerTimeoutError):
            raise ConnectionFailed(f"no answer within {self._timeout.total:g} s") from None
        except aiohttp.ClientConnectorError as error:
            raise ConnectionFailed(_reason(error), unreachable=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionFailed(f"connection lost ({_reason(error)})") from None


def _reason(error: Exception) -> str:
    if isinstance(error, aiohttp.ClientConnectorError):
        return str(error.os_error) or type(error.os_error).__name__
    return str(error) or type(error).__name__


def _allow_files(connections: int) -> None:
    """Raise the soft limit of open files where the connections would not fit under it."""
    try:
        import resource
    except ImportError:  # There is no such limit on Windows.
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + _OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def _proxy(scheme: str, host: str) -> str | None:
    if urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(scheme)
