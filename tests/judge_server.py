"""An OpenAI-compatible server for tests and benchmarks: real HTTP, a made-up judge.

It runs as a process of its own (`python tests/judge_server.py --latency 0.2`) and speaks
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
import hashlib
import json
import math
import random
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

FAULTS = (
    "429",
    "429-bare",
    "500",
    "503",
    "hang",
    "drop",
    "cut",
    "prose",
    "empty",
    "nan",
    "types",
    "filter",
)
UNANSWERED = {"429", "429-bare", "500", "503", "hang", "drop", "cut", "empty"}
"""Faults after which asking again is right; the others are answers."""


@dataclass
class Options:
    """How the server behaves.

    Attributes:
        latency: seconds from request to answer.
        fault_rate: share of requests that get a fault.
        faults: which, with equal shares.
        rate: requests a second that are let through, or 0; token bucket of `burst`.
        retry_after: seconds in the header of a 429; 0 for none.
        key: what the Authorization header must carry, or an empty string.
        rules: (text, fault or literal answer): applies where the request holds the text.
        refuses: request parameters answered with a 400 that names them.
        logprobs: whether log-probabilities are given.
        by_seed: score, 0 to 100, by the request's seed.
        by_model: likewise by its model.
        context: characters of the messages beyond which a request is too long, or 0.
        batch_seconds: how long a batch takes.
        batch_share: part of a batch's requests that is answered before it expires.
        batch_most: requests beyond which a batch fails, or 0.
        keep: whether request bodies are kept for `GET /requests`.
        seed: of faults.
    """

    latency: float = 0.0
    fault_rate: float = 0.0
    faults: tuple[str, ...] = FAULTS
    rate: float = 0.0
    burst: float = 0.0
    retry_after: float = 1.0
    key: str = ""
    rules: tuple[tuple[str, str], ...] = ()
    refuses: tuple[str, ...] = ()
    logprobs: bool = True
    by_seed: dict[str, int] = field(default_factory=dict)
    by_model: dict[str, int] = field(default_factory=dict)
    context: int = 0
    batch_seconds: float = 0.0
    batch_share: float = 1.0
    batch_most: int = 0
    keep: bool = False
    seed: int = 0


@dataclass
class Stats:
    """What the server has seen.

    Attributes:
        requests: to /v1/chat/completions.
        answered: those that got a completion.
        by_status: number of responses by HTTP status; 0 for hung and dropped connections.
        most_in_flight: at any time.
        most_repeats: completions given to the most often asked question.
        batched: requests that came in batches.
        batches: batches that were started.
        distinct: distinct questions that got a completion.
        first: time of the first request, in seconds of the server's clock.
        last: time of the last response.
    """

    requests: int = 0
    answered: int = 0
    by_status: Counter[int] = field(default_factory=Counter)
    batched: int = 0
    batches: int = 0
    in_flight: int = 0
    most_in_flight: int = 0
    first: float = 0.0
    last: float = 0.0
    questions: Counter[bytes] = field(default_factory=Counter)

    def report(self) -> dict[str, Any]:
        return {
            "requests": self.requests,
            "batched": self.batched,
            "batches": self.batches,
            "answered": self.answered,
            "by_status": {str(status): number for status, number in self.by_status.items()},
            "most_in_flight": self.most_in_flight,
            "first": self.first,
            "last": self.last,
            "distinct": len(self.questions),
            "most_repeats": max(self.questions.values(), default=0),
        }


def score_of(messages: list[dict[str, str]]) -> int:
    """The uncertainty, 0 to 100, that the server states for a request."""
    text = messages[-1]["content"].encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 101


def digit_logprobs(score: int) -> list[dict[str, Any]]:
    """Candidates for one digit: three quarters on the nearest, a quarter on the next."""
    low = min(score // 11, 9)
    high = min(low + 1, 9)
    pairs = [(str(low), 0.75), (f" {high}", 0.20), ("the", 0.05)]
    return [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in pairs]


class Judge:
    """Answers requests."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.stats = Stats()
        self.kept: list[Any] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self._random = random.Random(options.seed)
        self._tokens = options.burst
        self._at = time.monotonic()

    def respond(self, body: bytes, authorization: str) -> tuple[int, Any, dict[str, str]] | None:
        """Status, JSON body and headers; None to hang; status 0 to drop the connection."""
        options, stats = self.options, self.stats
        if options.key and authorization != f"Bearer {options.key}":
            return 401, _error(f"Incorrect API key provided: {authorization[7:]}", "invalid"), {}
        if options.rate and not self._let_through():
            return 429, _error("Rate limit reached", "rate_limit_exceeded"), self._retry_header()
        request = orjson.loads(body)
        if options.keep:
            self.kept.append(request)
        for name in options.refuses:
            if name in request or (name == "system" and request["messages"][0]["role"] == name):
                message = f"Unsupported parameter: '{name}' is not supported with this model."
                if name == "max_tokens":
                    message += " Use 'max_completion_tokens' instead."
                if name == "system":
                    message = "System role not supported"
                return 400, _error(message, "unsupported_parameter", param=name), {}
        text = request["messages"][-1]["content"]
        if (
            options.context
            and sum(len(m["content"]) for m in request["messages"]) > options.context
        ):
            return 400, _error("maximum context length exceeded", "context_length_exceeded"), {}
        fault = next((answer for needle, answer in options.rules if needle in text), "")
        if not fault and self._random.random() < options.fault_rate:
            fault = self._random.choice(options.faults)
        answer = self._fault(fault, request) if fault else self._completion(request)
        if answer is not None and answer[0] == 200 and fault not in UNANSWERED:
            stats.answered += 1
            stats.questions[hashlib.sha256(body).digest()] += 1
        return answer

    def batch_api(self, method: str, path: str, body: bytes, authorization: str) -> Any:
        """Status and body for /files and /batches."""
        if self.options.key and authorization != f"Bearer {self.options.key}":
            return 401, _error("Incorrect API key provided", "invalid")
        parts = path.partition("?")[0].removeprefix("/v1/").split("/")
        if parts == ["files"] and method == "POST":
            return 200, self._add_file(_file_of_form(body))
        if parts[0] == "files" and parts[2:] == ["content"] and parts[1] in self.files:
            return 200, self.files[parts[1]]
        if parts == ["batches"] and method == "POST":
            return 200, self._start_batch(orjson.loads(body))
        if parts == ["batches"]:
            found = [self._look_at(name) for name in reversed(self.batches)]
            return 200, {"object": "list", "data": found, "has_more": False}
        if parts[0] == "batches" and parts[-1] in self.batches:
            return 200, self._look_at(parts[-1])
        return 404, _error(f"{path} is not here", "not_found")

    def _add_file(self, content: bytes) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return {
            "id": name,
            "object": "file",
            "bytes": len(content),
            "created_at": 0,
            "filename": "requests.jsonl",
            "purpose": "batch",
            "status": "processed",
        }

    def _start_batch(self, request: Any) -> dict[str, Any]:
        name = f"batch-{len(self.batches)}"
        lines = self.files[request["input_file_id"]].splitlines()
        self.stats.batches += 1
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "endpoint": request["endpoint"],
            "completion_window": request["completion_window"],
            "created_at": time.monotonic(),
            "input_file_id": request["input_file_id"],
            "metadata": request.get("metadata"),
            "status": "in_progress",
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
        }
        return self._look_at(name)

    def _look_at(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        lines = self.files[batch["input_file_id"]].splitlines()
        over = time.monotonic() - batch["created_at"] >= self.options.batch_seconds
        if batch["status"] == "in_progress" and over:
            if 0 < self.options.batch_most < len(lines):
                error = {"code": "too_many_tasks", "message": "too many requests in the file"}
                batch |= {"status": "failed", "errors": {"object": "list", "data": [error]}}
            else:
                self._work_on(batch, lines)
        return {**batch, "created_at": 0}

    def _work_on(self, batch: dict[str, Any], lines: list[bytes]) -> None:
        answers, errors = [], []
        for line in lines[: round(self.options.batch_share * len(lines))]:
            request = orjson.loads(line)
            self.stats.batched += 1
            answer = self.respond(orjson.dumps(request["body"]), f"Bearer {self.options.key}")
            status, body, _ = answer or (0, None, {})
            if not status or isinstance(body, bytes):
                status, body = 500, _error("it broke", "server_error")
            response = {"status_code": status, "body": body}
            result = {"custom_id": request["custom_id"], "response": response, "error": None}
            (answers if status == 200 else errors).append(orjson.dumps(result))
        batch["status"] = "completed" if self.options.batch_share == 1 else "expired"
        batch["request_counts"] |= {"completed": len(answers), "failed": len(errors)}
        for key, found in (("output_file_id", answers), ("error_file_id", errors)):
            batch[key] = self._add_file(b"\n".join(found))["id"] if found else None

    def _let_through(self) -> bool:
        now = time.monotonic()
        self._tokens = min(
            max(1.0, self.options.burst), self._tokens + (now - self._at) * self.options.rate
        )
        self._at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def _retry_header(self) -> dict[str, str]:
        after = self.options.retry_after
        return {"Retry-After": f"{after:g}"} if after else {}

    def _fault(self, fault: str, request: Any) -> tuple[int, Any, dict[str, str]] | None:
        if fault == "hang":
            return None
        if fault == "drop":
            return 0, None, {}
        if fault in ("429", "429-bare"):
            return (
                429,
                _error("slow down", "rate_limit"),
                (self._retry_header() if fault == "429" else {}),
            )
        if fault in ("500", "503"):
            return int(fault), _error("it broke", "server_error"), {}
        if fault == "cut":
            return 200, b'{"id": "x", "choices": [{"message": {"content": "{\\"uncert', {}
        if fault == "empty":
            return 200, {"id": "x", "object": "chat.completion", "choices": []}, {}
        if fault == "length":
            return 200, _completion(request, '{"uncer', "length"), {}
        if fault == "filter":
            return 200, _completion(request, None, "content_filter"), {}
        answers = {
            "prose": "I would say about 80 out of 100.",
            "nan": '{"uncertainty": NaN}',
            "types": '{"uncertainty": "high"}',
        }
        return 200, _completion(request, answers.get(fault, fault)), {}

    def _completion(self, request: Any) -> tuple[int, Any, dict[str, str]]:
        score = score_of(request["messages"])
        score = self.options.by_model.get(request["model"], score)
        score = self.options.by_seed.get(str(request.get("seed")), score)
        if "one digit" not in request["messages"][0]["content"]:
            return 200, _completion(request, f'{{"uncertainty": {score}}}'), {}
        logprobs = None
        candidates = digit_logprobs(score)
        if request.get("logprobs") and self.options.logprobs:
            wanted = candidates[: int(request.get("top_logprobs", 0))]
            logprobs = {"content": [{**candidates[0], "top_logprobs": wanted}]}
        return 200, _completion(request, candidates[0]["token"], logprobs=logprobs), {}


def _completion(
    request: Any, content: str | None, finish: str = "stop", logprobs: Any = None
) -> dict[str, Any]:
    prompt = sum(len(message["content"]) for message in request["messages"]) // 4
    completion = len(content or "") // 4 + 1
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 0,
        "model": request["model"],
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content},
                "finish_reason": finish,
                "logprobs": logprobs,
            }
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
        },
    }


def _error(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "code": code, "param": param}}


def _file_of_form(body: bytes) -> bytes:
    """The file of a multipart form."""
    boundary = body[: body.index(b"\r\n")]
    for part in body.split(boundary):
        head, _, content = part.partition(b"\r\n\r\n")
        if b"filename=" in head:
            return content.removesuffix(b"\r\n")
    return b""


class Connection(asyncio.Protocol):
    """One keep-alive connection: HTTP/1.1 with Content-Length bodies."""

    def __init__(self, judge: Judge) -> None:
        self._judge = judge
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
            self._send(*judge.batch_api(method, path, body, authorization))
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
            judge.files.clear()
            judge.batches.clear()
            self._send(200, {})
        else:
            self._send(404, _error(f"{path} is not here", "not_found"))

    def _judge_later(self, body: bytes, authorization: str) -> None:
        stats, now = self._judge.stats, time.monotonic()
        stats.first = stats.first or now
        stats.requests += 1
        stats.in_flight += 1
        stats.most_in_flight = max(stats.most_in_flight, stats.in_flight)
        answer = self._judge.respond(body, authorization)
        if answer is None:
            stats.by_status[0] += 1
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
def running(core: int | None = None, **options: Any) -> Iterator[Running]:
    """Run a server process until the block ends.

    Args:
        core: the processor core it is pinned to, or None.
        options: of `Options`.
    """
    command = [sys.executable, __file__, "--options", json.dumps(options)]
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
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(judge), "127.0.0.1", port, backlog=4096)
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
