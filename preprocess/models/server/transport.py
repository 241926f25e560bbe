"""HTTP by aiohttp: one connection pool, one deadline a request.

The openai client's transport is what limits its throughput, so the hot path goes around it; what a
server says is read in `replies.py`.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from aiohttp import hdrs
from yarl import URL

from axolotl_ual import __version__
from axolotl_ual.errors import BackendError

from .trust import Trust

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
    """What came back over HTTP.

    Attributes:
        status: of HTTP.
        body: as it came.
        headers: by lower-case name.
    """

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content_type(self) -> str:
        """What the body is said to be."""
        return self.headers.get("content-type", "")


def shown(url: str) -> str:
    """A URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit((parts.scheme, host, parts.path, "", ""))


class Transport:
    """Posts JSON to one URL. Use as an async context manager.

    Args:
        url: where to.
        headers: beside those of JSON, the key among them.
        timeout: seconds until the whole answer must be there.
        connections: the most that are open at a time.
        section: the YAML section of the server, for error messages.
        ca_file: certificates of authorities, or None for those of the environment.

    Raises:
        BackendError: the URL is not one, or the certificates cannot be read.
    """

    def __init__(
        self,
        url: str,
        headers: Mapping[str, str],
        timeout: float,
        connections: int,
        section: str,
        ca_file: str | None = None,
    ) -> None:
        parts = urlsplit(url)
        if not _is_http(url) or not parts.hostname:
            raise BackendError(
                f"{section}.base_url: {shown(url)!r} is not an http or https URL",
                "write it with its scheme and its /v1, for example http://localhost:8000/v1",
            )
        if parts.username is not None and hdrs.AUTHORIZATION in headers:
            raise BackendError(
                f"{section}.base_url: {shown(url)} is given with a user, and there is a key as "
                "well; a request can carry only one of them",
                f"take the user out, or set {section}.api_key_env to a variable that is not set",
            )
        self._url = URL(url)
        self._headers = {
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.ACCEPT: "application/json",
            hdrs.USER_AGENT: f"axolotl-ual/{__version__}",
            **headers,
        }
        self._trust = Trust(ca_file, section) if parts.scheme == "https" else None
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._connections = connections
        self._proxy = _proxy(parts.scheme, parts.hostname)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Transport:
        _allow_files(self._connections)
        # The proxy is found here and not by trust_env, which would read ~/.netrc as well.
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._connections,
                ttl_dns_cache=300,
                ssl=True if self._trust is None else self._trust.context,
            ),
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
            BackendError: the server's certificate is not trusted.
        """
        return await self._send(hdrs.METH_POST, body)

    async def get(self) -> Reply:
        """Read what is at the URL; raises what `post` raises."""
        return await self._send(hdrs.METH_GET, None)

    async def _send(self, method: str, body: bytes | None) -> Reply:
        assert self._session is not None
        try:
            async with self._session.request(
                method, self._url, data=body, proxy=self._proxy, allow_redirects=False
            ) as response:
                content = await response.content.read(_MOST_BYTES)
                while not response.content.at_eof() and len(content) < _MOST_BYTES:
                    content += await response.content.read(_MOST_BYTES - len(content))
                headers = {name.lower(): value for name, value in response.headers.items()}
                return Reply(response.status, content, headers)
        except (asyncio.TimeoutError, aiohttp.ServerTimeoutError):
            raise ConnectionFailed(f"no answer within {self._timeout.total:g} s") from None
        except aiohttp.ClientConnectorCertificateError as error:
            assert self._trust is not None
            raise self._trust.refused(error.certificate_error, shown(str(self._url))) from None
        except aiohttp.ClientConnectorError as error:
            way = f" by the proxy {shown(self._proxy)}" if self._proxy else ""
            raise ConnectionFailed(f"{_reason(error)}{way}", unreachable=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise ConnectionFailed(f"connection lost ({_reason(error)})") from None


def _is_http(url: str) -> bool:
    """Whether a URL has a scheme of HTTP, and a port that there is."""
    parts = urlsplit(url)
    try:
        return parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:
        return False


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
