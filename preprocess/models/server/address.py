"""Where a server is, the key to it, and what goes with every request.

A `base_url` is taken as people have it: with or without a slash at its end, with
`/chat/completions` behind it, with a query (`?api-version=` of Azure).
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit, urlunsplit

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.server import EnvironmentValue, ServerConfig

from .transport import shown

DEFAULT_BASE_URL: Final = "https://api.openai.com/v1"
"""The openai client's default."""
_PATH: Final = "/chat/completions"
_KEY: Final = re.compile(r"[!#-&(-_a-~]+")
"""Printable ASCII but white space and quotation marks."""
_AZURE: Final = (".openai.azure.com", ".cognitiveservices.azure.com", ".azure-api.net")


@dataclass(frozen=True, slots=True)
class Server:
    """Where a model is, and the key to it.

    Attributes:
        base_url: root of the API, without a query.
        key_env: environment variable of the key.
        key: the key; never shown, not even in a repr.
        section: the YAML section, for error messages.
        query: of every request: `api-version` for Azure.
        headers: of every request; never shown either.
        ca_file: certificates of authorities, or None.
    """

    base_url: str
    key_env: str
    key: str | None = field(repr=False)
    section: str = "ual.annotate.judge"
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    ca_file: str | None = None

    @property
    def url(self) -> str:
        """The address as it may be shown."""
        return shown(self.base_url)

    def at(self, path: str) -> str:
        """The URL of a path below the root."""
        return f"{self.base_url}{path}{f'?{self.query}' if self.query else ''}"

    @property
    def parameters(self) -> dict[str, object]:
        """The query, by name."""
        return dict(parse_qsl(self.query))

    @property
    def chat_url(self) -> str:
        """Where chats are completed."""
        return self.at(_PATH)

    @property
    def all_headers(self) -> dict[str, str]:
        """The user's headers, and the key in the one that the server reads it from."""
        if not self.key:
            return dict(self.headers)
        if self.is_azure:
            return {"api-key": self.key, **self.headers}
        return {"Authorization": f"Bearer {self.key}", **self.headers}

    @property
    def is_azure(self) -> bool:
        """Whether the key goes into a header `api-key`."""
        host = urlsplit(self.base_url).hostname or ""
        return "api-version=" in self.query or host.endswith(_AZURE)

    def redact(self, text: str) -> str:
        """Take keys out of a text that came from outside."""
        for secret in (self.key, *self.headers.values()):
            if secret and len(secret) > 3:
                text = text.replace(secret, "***")
        return text


def find_server(config: ServerConfig, section: str = "ual.annotate.judge") -> Server:
    """Resolve address, key and headers from settings and environment.

    Raises:
        ConfigError: a header's variable is not set.
    """
    url = config.base_url or os.environ.get("OPENAI_BASE_URL") or DEFAULT_BASE_URL
    base_url, query = _split(url, config.api_version)
    key = os.environ.get(config.api_key_env, "").strip() or None
    headers = _headers(config, section)
    return Server(base_url, config.api_key_env, key, section, query, headers, config.ca_file)


def _split(url: str, api_version: str | None) -> tuple[str, str]:
    parts = urlsplit(url.strip())
    path = parts.path.rstrip("/").removesuffix(_PATH).rstrip("/")
    query = parse_qs(parts.query)
    if api_version is not None:
        query["api-version"] = [api_version]
    root = urlunsplit((parts.scheme, parts.netloc, path, "", ""))
    return root, urlencode(query, doseq=True)


def _headers(config: ServerConfig, section: str) -> dict[str, str]:
    headers = {}
    for name, value in config.headers.items():
        if isinstance(value, EnvironmentValue):
            found = os.environ.get(value.env, "").strip()
            if not found:
                raise ConfigError(
                    f"{section}.headers.{name}: the environment variable {value.env} is not set",
                    f"export {value.env}=..., or take the header out",
                )
            value = found
        if not (value.isascii() and value.isprintable()):
            raise ConfigError(
                f"{section}.headers.{name}: holds characters that no header has",
                "set it again; copying may have added a line break",
            )
        headers[name] = value
    return headers


def check_key(server: Server) -> None:
    """Tell before the first request that a key is missing or cannot be one.

    Raises:
        ConfigError: the server is not a local one and there is no key.
    """
    sent = {name.lower() for name in server.headers} & {"authorization", "api-key", "x-api-key"}
    if server.key is None and not sent and not is_local(server.base_url):
        raise ConfigError(
            f"{server.section}.api_key_env: the environment variable {server.key_env} is not "
            f"set, and {server.url} wants a key",
            f"export {server.key_env}=..., or name another variable, or set base_url to a server "
            "of your own",
        )
    if server.key is not None and not _KEY.fullmatch(server.key):
        raise ConfigError(
            f"{server.section}.api_key_env: {server.key_env} holds characters that no key has",
            "set it to the key alone; copying may have added a line break, quotation marks or a "
            "`Bearer` in front of it",
        )


def is_local(base_url: str) -> bool:
    """Whether a server is of this machine or the network around it."""
    host = urlsplit(base_url).hostname or ""
    if host == "localhost" or host.endswith((".local", ".internal", ".localhost")):
        return True
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        # A name without a dot is of the local network or of a container.
        return "." not in host
