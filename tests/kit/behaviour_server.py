"""Serves every behaviour of the table at `/NAME/v1`: real HTTP, in a process of its own.

`GET /NAME/stats` counts, and starts the behaviour anew.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from behaviours import BEHAVIOURS, HANG, Asked, Behaviour, row_of

_SILENT = 3600.0


@dataclass
class Seen:
    """What one behaviour was asked.

    Attributes:
        requests: in all.
        completions: given, by row.
        most_in_flight: of the first request.
        charged: tokens of all completions that were given.
    """

    requests: int = 0
    rows: Counter[int] = field(default_factory=Counter)
    completions: Counter[int] = field(default_factory=Counter)
    charged: int = 0
    first: float = 0.0


class Table:
    """Answers requests."""

    def __init__(self) -> None:
        self.seen: dict[str, Seen] = {}

    async def respond(
        self, method: str, path: str, headers: dict[str, str], data: bytes
    ) -> tuple[int, Any, dict[str, str]] | None:
        name, _, rest = path.lstrip("/").partition("/")
        seen = self.seen.setdefault(name, Seen())
        if rest == "stats":
            del self.seen[name]
            again = max(seen.completions.values(), default=0)
            report = {"requests": seen.requests, "charged": seen.charged, "most_completions": again}
            return 200, {**report, "completed": sorted(seen.completions)}, {}
        if rest.startswith("v1/models"):
            return 200, {"object": "list", "data": [_model(BEHAVIOURS[name])]}, {}
        if name in BEHAVIOURS and f"/{rest}" in BEHAVIOURS[name].others:
            return 200, BEHAVIOURS[name].others[f"/{rest}"], {}
        if "chat/completions" not in rest:
            return 404, {"error": {"message": f"{path} is not here"}}, {}
        body = json.loads(data)
        row = row_of("\n".join(str(m["content"]) for m in body["messages"]))
        seen.first = seen.first or time.monotonic()
        asked = Asked(
            body, headers, path, seen.requests, seen.rows[row], time.monotonic() - seen.first
        )
        seen.requests += 1
        seen.rows[row] += 1
        answer = BEHAVIOURS[name].answer(asked)
        if answer == HANG:
            await asyncio.sleep(_SILENT)
        if isinstance(answer, str):
            return None
        if answer[0] == 200 and isinstance(answer[1], dict) and answer[1].get("choices"):
            seen.completions[row] += 1
            seen.charged += int((answer[1].get("usage") or {}).get("total_tokens") or 0)
        return answer

    async def connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                first, *lines = head.rstrip().split("\r\n")
                pairs = (line.partition(":") for line in lines)
                headers = {name.lower(): value.strip() for name, _, value in pairs}
                data = await reader.readexactly(int(headers.get("content-length", "0")))
                method, path, _ = first.split(" ", 2)
                answer = await self.respond(method, path, headers, data)
                if answer is None:
                    break
                status, body, more = answer
                content = body if isinstance(body, bytes) else json.dumps(body).encode()
                kept = {"content-type": "application/json", **more}
                await asyncio.sleep(float(kept.pop("x-delay", 0)))
                extra = "".join(f"{name}: {value}\r\n" for name, value in kept.items())
                if kept.get("transfer-encoding") == "chunked":
                    content, extra = _in_chunks(content), f"{extra}\r\n"
                else:
                    extra += f"Content-Length: {len(content)}\r\n\r\n"
                top = f"HTTP/1.1 {status} X\r\n{extra}"
                writer.write(top.encode("latin-1") + content)
                await writer.drain()
        writer.transport.abort()


def _model(tried: Behaviour) -> dict[str, Any]:
    told = {} if tried.context is None else {"max_model_len": tried.context}
    return {"id": "m", "meta": {"n_ctx_train": 131_072}, **told}


def _in_chunks(content: bytes, size: int = 7) -> bytes:
    """A body in pieces, each behind its length, as HTTP/1.1 has it."""
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Run a server process until the block ends; gives its address."""
    process = subprocess.Popen([sys.executable, __file__], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.wait(timeout=10)


def stats(root: str, name: str) -> dict[str, Any]:
    """What a behaviour was asked since this was last called."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{root}/{name}/stats", timeout=30) as reply:
        found: dict[str, Any] = json.loads(reply.read())
    return found


async def main() -> None:
    table = Table()
    server = await asyncio.start_server(table.connect, "127.0.0.1", 0, backlog=1024)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
