"""An OpenAI-compatible server for tests and benchmarks: real HTTP, a made-up judge.

It runs as a process of its own (`python tests/kit/judge_server.py --latency 0.2`) and speaks
`/v1/chat/completions` with a latency, a rate limit, faults and the manners of less complete
servers. The uncertainty that it gives is a function of the user's message (`score_of`), so that a
run can be compared with an undisturbed one. `GET /stats` counts, `POST /options` changes options.

HTTP is parsed by hand: the server must not be what a throughput benchmark measures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from judge_answers import FAULTS, UNANSWERED, Judge, Options, Stats, error, score_of
from judge_batches import Batches

__all__ = ["FAULTS", "UNANSWERED", "Options", "Running", "running", "score_of"]


class Connection(asyncio.Protocol):
    """One keep-alive connection: HTTP/1.1 with Content-Length bodies."""

    def __init__(self, judge: Judge, batches: Batches) -> None:
        self._judge = judge
        self._batches = batches
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].decode("latin-1")
            headers = {
                name.lower(): value.strip()
                for name, _, value in (line.partition(":") for line in head.split("\r\n")[1:])
            }
            length = int(headers.get("content-length", "0"))
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            method, path, _ = head.split(" ", 2)
            self._handle(method, path, headers, body)

    def _handle(self, method: str, path: str, headers: dict[str, str], body: bytes) -> None:
        judge = self._judge
        if path == "/v1/chat/completions" and method == "POST":
            self._judge_later(body, headers.get("authorization", ""))
        elif path.startswith(("/v1/files", "/v1/batches")):
            authorization = headers.get("authorization", "")
            self._send(*self._batches.respond(method, path, body, authorization))
        elif path == "/stats":
            self._send(200, judge.stats.report())
        elif path == "/requests":
            self._send(200, judge.kept)
        elif path == "/options":
            options = {**dataclasses.asdict(judge.options), **orjson.loads(body)}
            judge.options = Options(
                **{k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}
            )
            self._send(200, {})
        elif path == "/reset":
            judge.options = Options()
            judge.stats = Stats()
            judge.kept.clear()
            self._batches.files.clear()
            self._batches.batches.clear()
            self._send(200, {})
        else:
            self._send(404, error(f"{path} is not here", "not_found"))

    def _judge_later(self, body: bytes, authorization: str) -> None:
        if re.search(rb'"messages":\s*\[\]', body[:200]):
            # Some clients ask nothing at first, to see the limits; that is not counted.
            self._send(400, error("messages is empty", "invalid_request_error"))
            return
        self._judge.stats.came(time.monotonic())
        answer = self._judge.respond(body, authorization)
        if answer is None:
            self._judge.stats.by_status[0] += 1
            return
        delay = self._judge.options.latency if answer[0] == 200 else 0.0
        if delay:
            asyncio.get_running_loop().call_later(delay, self._finish, answer)
        else:
            self._finish(answer)

    def _finish(self, answer: tuple[int, Any, dict[str, str]]) -> None:
        stats = self._judge.stats
        stats.in_flight -= 1
        stats.last = time.monotonic()
        stats.by_status[answer[0]] += 1
        if answer[0] == 0 and self._transport is not None:
            self._transport.abort()
        else:
            self._send(*answer)

    def _send(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else orjson.dumps(body)
        extra = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head = (
            f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n{extra}"
            f"Content-Length: {len(content)}\r\n\r\n"
        )
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(head.encode("latin-1") + content)


@dataclass
class Running:
    """A server process.

    Attributes:
        root: its address without /v1.
    """

    root: str
    process: subprocess.Popen[str] | None

    @property
    def base_url(self) -> str:
        return f"{self.root}/v1"

    def stats(self) -> dict[str, Any]:
        return self._call("/stats")

    def requests(self) -> list[Any]:
        """The bodies that were kept."""
        return self._call("/requests")

    def set(self, **options: Any) -> None:
        self._call("/options", options)

    def restore(self) -> None:
        """Back to the default options and to counts of zero."""
        self._call("/reset")

    def _call(self, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(self.root + path, data), timeout=30) as reply:
            return json.loads(reply.read())


@contextlib.contextmanager
def running(core: int | None = None, port: int = 0, **options: Any) -> Iterator[Running]:
    """Run a server process until the block ends.

    Args:
        core: the processor core it is pinned to, or None.
        port: that it listens at; 0: any that is free.
        options: of `Options`.
    """
    command = [sys.executable, __file__, "--port", str(port), "--options", json.dumps(options)]
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Running(process.stdout.readline().strip(), process)
    finally:
        process.terminate()
        process.wait(timeout=10)


async def serve(options: Options, port: int) -> None:
    """Serve until the process ends; prints the address."""
    judge = Judge(options)
    batches = Batches(judge)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: Connection(judge, batches), "127.0.0.1", port, backlog=4096
    )
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--options", default="{}", help="Options as a JSON object.")
    parser.add_argument("--latency", type=float)
    arguments = parser.parse_args()
    options = json.loads(arguments.options)
    if arguments.latency is not None:
        options["latency"] = arguments.latency
    asyncio.run(serve(Options(**options), arguments.port))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
