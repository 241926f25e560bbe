"""How many tokens a server takes, prompt and answer together, where it says so.

    /v1/models   max_model_len (vLLM, SGLang), context_length (OpenRouter), loaded_context_length
    /props       default_generation_settings.n_ctx, of a slot of llama.cpp
    /api/ps      context_length of a loaded model of Ollama
    /api/show    `num_ctx` among the parameters of a model of Ollama

The last three are asked of servers at hand only, and the last of Ollama. What a model was trained
with (`n_ctx_train`) is no context: it is what its server may be given, and seldom is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from axolotl_ual.errors import BackendError

from .address import Server, is_local
from .transport import ConnectionFailed, Transport

_KEYS: Final = (
    "max_model_len", "loaded_context_length", "context_length", "context_window", "n_ctx",
)  # fmt: skip
_SECONDS: Final = 5.0
_NUM_CTX: Final = re.compile(r"^num_ctx\s+(\d+)", re.MULTILINE)


class Told(NamedTuple):
    """What a server says of itself.

    Attributes:
        models: its list of models; empty where there is none.
        context: tokens, or None where it does not say.
        replied: whether it answered over HTTP.
    """

    models: list[Any]
    context: int | None
    replied: bool


async def ask_context(server: Server, model: str) -> Told:
    """Ask a server for its models and its context: one request, and up to three at hand.

    Args:
        server: where it is.
        model: that is asked.
    """
    body = await _get(server, server.at("/models"))
    listed = _of(body, "data")
    models = listed if isinstance(listed, list) else []
    context = _listed(models, model)
    if context is None and body is not None and is_local(server.base_url):
        root = server.base_url.removesuffix("/v1")
        context = await _of_llama_cpp(server, root) or await _of_ollama(server, root, model)
    return Told(models, context, body is not None)


async def _of_llama_cpp(server: Server, root: str) -> int | None:
    props = await _get(server, f"{root}/props")
    return _number(_of(props, "default_generation_settings", "n_ctx"))


async def _of_ollama(server: Server, root: str, model: str) -> int | None:
    running = _of(await _get(server, f"{root}/api/ps"), "models")
    if not isinstance(running, list):
        return None
    for one in running:
        context = _number(_of(one, "context_length"))
        if context and {model, f"{model}:latest"} & {_of(one, "name"), _of(one, "model")}:
            return context
    shown = await _get(server, f"{root}/api/show", orjson.dumps({"model": model}))
    found = _NUM_CTX.search(str(_of(shown, "parameters") or ""))
    return int(found.group(1)) if found else None


async def _get(server: Server, url: str, body: bytes | None = None) -> Any:
    """JSON from a URL, an empty mapping where it is none; None where nothing came."""
    transport = Transport(url, server.all_headers, _SECONDS, 1, server.section, server.ca_file)
    try:
        async with transport:
            reply = await (transport.get() if body is None else transport.post(body))
    except (ConnectionFailed, BackendError):
        return None
    try:
        return orjson.loads(reply.body) if reply.status == 200 else {}
    except orjson.JSONDecodeError:
        return {}


def _listed(models: list[Any], model: str) -> int | None:
    for entry in models:
        if len(models) == 1 or _of(entry, "id") == model:
            for part in (entry, _of(entry, "meta"), _of(entry, "top_provider")):
                for key in _KEYS:
                    if (found := _number(_of(part, key))) is not None:
                        return found
    return None


def _of(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _number(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
