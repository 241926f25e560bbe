"""What `judge_server` answers: scores, faults, refusals, and what it counts."""

from __future__ import annotations

import base64
import hashlib
import math
import random
import time
from collections import Counter, deque
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
        blind: answer to requests with images, as a status and a message; empty where they are seen.
        image_tokens: of each image, as the server counts.
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
    blind: tuple[int, str] | tuple[()] = ()
    image_tokens: int = 765
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
        most_in_a_minute: requests in any 60 seconds.
        images: SHA-256 of the bytes of each image that came, or its address.
        tokens: of prompts and of answers, in all completions.
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
    minute: deque[float] = field(default_factory=deque)
    most_in_a_minute: int = 0
    images: Counter[str] = field(default_factory=Counter)
    tokens: list[int] = field(default_factory=lambda: [0, 0])

    def came(self, now: float) -> None:
        """Count a request that comes at this time of the server's clock."""
        self.first = self.first or now
        self.requests += 1
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        self.minute.append(now)
        while now - self.minute[0] >= 60.0:
            self.minute.popleft()
        self.most_in_a_minute = max(self.most_in_a_minute, len(self.minute))

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
            "most_in_a_minute": self.most_in_a_minute,
            "distinct": len(self.questions),
            "most_repeats": max(self.questions.values(), default=0),
            "images": dict(self.images),
            "tokens": self.tokens,
        }


def score_of(messages: list[dict[str, Any]]) -> int:
    """The uncertainty, 0 to 100, that the server states for a request, by texts and images."""
    content = messages[-1]["content"]
    if isinstance(content, list):
        content = "\n".join([content_text(content), *map(image_name, images_of(content))])
    text = content.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") % 101


def content_text(content: Any) -> str:
    """The text of a message, whose content may be parts."""
    if isinstance(content, str):
        return content
    return "".join(part["text"] for part in content if part["type"] == "text")


def images_of(content: Any) -> list[str]:
    """The URLs of the images of a message."""
    if isinstance(content, str):
        return []
    assert {part["type"] for part in content} <= {"text", "image_url"}, content
    return [part["image_url"]["url"] for part in content if part["type"] == "image_url"]


def image_name(url: str) -> str:
    """The digest of an image's bytes as they came, or its address."""
    if url.startswith("http"):
        return url
    head, _, data = url.partition(",")
    assert head in ("data:image/png;base64", "data:image/jpeg;base64"), head
    content = base64.b64decode(data, validate=True)
    is_png = content.startswith(b"\x89PNG\r\n\x1a\n")
    assert is_png == ("png" in head) and is_png != content.startswith(b"\xff\xd8"), content[:12]
    return hashlib.sha256(content).hexdigest()


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
        self._random = random.Random(options.seed)
        self._tokens = options.burst
        self._at = time.monotonic()

    def respond(self, body: bytes, authorization: str) -> tuple[int, Any, dict[str, str]] | None:
        """Status, JSON body and headers; None to hang; status 0 to drop the connection."""
        options, stats = self.options, self.stats
        if options.key and authorization != f"Bearer {options.key}":
            return 401, error(f"Incorrect API key provided: {authorization[7:]}", "invalid"), {}
        if options.rate and not self._let_through():
            return 429, error("Rate limit reached", "rate_limit_exceeded"), self._retry_header()
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
                return 400, error(message, "unsupported_parameter", param=name), {}
        texts = [content_text(message["content"]) for message in request["messages"]]
        text = texts[-1]
        images = images_of(request["messages"][-1]["content"])
        if images and options.blind:
            status, message = options.blind
            return status, error(message, "invalid_request_error"), {}
        stats.images.update(map(image_name, images))
        if options.context and sum(map(len, texts)) > options.context:
            return 400, error("maximum context length exceeded", "context_length_exceeded"), {}
        fault = next((answer for needle, answer in options.rules if needle in text), "")
        if not fault and self._random.random() < options.fault_rate:
            fault = self._random.choice(options.faults)
        answer = self._fault(fault, request) if fault else self._completion(request)
        if answer is not None and answer[0] == 200 and fault not in UNANSWERED:
            stats.answered += 1
            stats.questions[hashlib.sha256(body).digest()] += 1
            if not isinstance(answer[1], bytes):
                usage = answer[1]["usage"]
                usage["prompt_tokens"] += len(images) * options.image_tokens
                stats.tokens[0] += usage["prompt_tokens"]
                stats.tokens[1] += usage["completion_tokens"]
        return answer

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
                error("slow down", "rate_limit"),
                (self._retry_header() if fault == "429" else {}),
            )
        if fault in ("500", "503"):
            return int(fault), error("it broke", "server_error"), {}
        if fault == "cut":
            return 200, b'{"id": "x", "choices": [{"message": {"content": "{\\"uncert', {}
        if fault == "empty":
            return 200, {"id": "x", "object": "chat.completion", "choices": []}, {}
        if fault == "length":
            return 200, completion(request, '{"uncer', "length"), {}
        if fault == "filter":
            return 200, completion(request, None, "content_filter"), {}
        answers = {
            "prose": "I would say about 80 out of 100.",
            "nan": '{"uncertainty": NaN}',
            "types": '{"uncertainty": "high"}',
        }
        return 200, completion(request, answers.get(fault, fault)), {}

    def _completion(self, request: Any) -> tuple[int, Any, dict[str, str]]:
        score = score_of(request["messages"])
        score = self.options.by_model.get(request["model"], score)
        score = self.options.by_seed.get(str(request.get("seed")), score)
        if "one digit" not in request["messages"][0]["content"]:
            return 200, completion(request, f'{{"uncertainty": {score}}}'), {}
        logprobs = None
        candidates = digit_logprobs(score)
        if request.get("logprobs") and self.options.logprobs:
            wanted = candidates[: int(request.get("top_logprobs", 0))]
            logprobs = {"content": [{**candidates[0], "top_logprobs": wanted}]}
        return 200, completion(request, candidates[0]["token"], logprobs=logprobs), {}


def completion(
    request: Any, content: str | None, finish: str = "stop", logprobs: Any = None
) -> dict[str, Any]:
    prompt = sum(len(content_text(message["content"])) for message in request["messages"]) // 4
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


def error(message: str, code: str, param: str | None = None) -> dict[str, Any]:
    return {"error": {"message": message, "type": "error", "code": code, "param": param}}
