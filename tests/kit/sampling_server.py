"""An OpenAI-compatible server that gives seeded responses, and counts.

It runs as a process of its own. A response is a function of the last message, the seed and the
number of the choice, so that runs can be compared byte by byte.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import random
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

WORDS = ["m1", "m2", "m3", "it", "is", "the", "yes", "no"]


def response_of(question: str, seed: int, choice: int) -> str:
    """What the server says: one to three words, "" or a word of its own now and then."""
    digest = hashlib.sha256(f"{question}|{seed}|{choice}".encode()).digest()
    rng = random.Random(digest)
    if "sometimes empty" in question and rng.random() < 0.3:
        return ""
    return " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, 3)))


def digit_of(instructions: str, question: str) -> str:
    """What the server says as a judge of one principle; it refuses to rate some."""
    if "rambles" in question:
        return "I would"
    if "unratable" in question:
        return "I would rather not."
    return str(hashlib.sha256(f"{instructions}|{question}".encode()).digest()[0] % 10)


def ratings_of(instructions: str, question: str) -> str:
    """What the server says as a judge of several principles, each as if it were asked alone."""
    form = instructions.split("nothing else: ")[1].split("}")[0]
    names = json.loads(form.replace(": N", ": 0") + "}")
    rated = {name: digit_of(f"# The principle: {name}", question) for name in names}
    if any(not digit.isdigit() for digit in rated.values()):
        return "I would rather not."
    return json.dumps({name: int(digit) for name, digit in rated.items()})


def claims_of(question: str) -> list[dict[str, str]]:
    """What the server says as a judge of facts: a claim for each word of the response."""
    response = question.split("RESPONSE", 1)[1]
    verdicts = {"yes": "supported", "no": "false", "m1": "unknown"}
    return [{"claim": w, "verdict": verdicts[w]} for w in response.split() if w in verdicts]


def is_cut(instructions: str, question: str, place: int) -> bool:
    """Whether max_tokens ends an answer: every second one to some prompts, some ratings."""
    if "with one digit" in instructions:
        return "rambles" in question
    return "truncate" in question and bool(place % 2)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    options: argparse.Namespace
    lock = threading.Lock()
    served: ClassVar[Counter[str]] = Counter()
    bodies: ClassVar[list[dict[str, Any]]] = []

    def do_GET(self) -> None:
        with self.lock:
            report = {
                "requests": sum(self.served.values()),
                "distinct": len(self.served),
                "most_repeats": max(self.served.values(), default=0),
                "bodies": self.bodies[-2000:],
            }
        self._send(200, report)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            self.bodies.append(body)
        time.sleep(self.options.latency)
        question = body["messages"][-1]["content"]
        if body.get("n", 1) > 1 and self.options.n == "refused":
            self._send(400, {"error": {"message": "only n = 1 is supported", "param": "n"}})
            return
        if body.get("logprobs") and self.options.logprobs == "refused":
            self._send(400, {"error": {"message": "logprobs are not supported"}})
            return
        if body.get("tools") and self.options.tools == "refused":
            # vLLM without --enable-auto-tool-choice.
            said = '"auto" tool choice requires --enable-auto-tool-choice to be set'
            self._send(400, {"error": {"message": said, "type": "BadRequestError"}})
            return
        if "forbidden" in question:
            error = {"message": "flagged by our content filter", "code": "content_filter"}
            self._send(400, {"error": error})
            return
        with self.lock:
            # Counted when the answer goes out: what a killed client never read, it may ask again.
            self.served[json.dumps(body, sort_keys=True)] += 1
        number = body.get("n", 1) if self.options.n == "honoured" else 1
        choices = [self._choice(body, question, place) for place in range(number)]
        usage = {"prompt_tokens": 5, "completion_tokens": 3 * number}
        self._send(200, {"choices": choices, "usage": usage})

    def _choice(self, body: dict[str, Any], question: str, place: int) -> dict[str, Any]:
        text = response_of(question, body.get("seed", 0), place)
        told = body["messages"][0]["content"]
        if "with one digit" in told:
            text = digit_of(told, question)
        elif '"claims"' in told:
            text = json.dumps({"claims": claims_of(question)})
        elif "# The principles" in told:
            text = ratings_of(told, question)
        choice: dict[str, Any] = {
            "index": place,
            "message": {"role": "assistant", "content": text},
            "finish_reason": "length" if is_cut(told, question, place) else "stop",
        }
        if body.get("tools") and question.startswith("call") and place % 2 == 0:
            name = body["tools"][0]["function"]["name"]
            function = {"name": name, "arguments": json.dumps({"place": str(place)})}
            call = {"id": f"c{place}", "type": "function", "function": function}
            choice["message"] = {"role": "assistant", "content": None, "tool_calls": [call]}
            choice["finish_reason"] = "tool_calls"
            return choice
        if body.get("logprobs") and self.options.logprobs == "given":
            tokens = [{"token": w, "logprob": -0.5 * len(w)} for w in text.split()]
            choice["logprobs"] = {"content": tokens}
        return choice

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_: object) -> None:
        """A client that was killed in mid-request is what some tests are about."""


@contextlib.contextmanager
def running(**options: Any) -> Iterator[str]:
    """Start the server; gives its base URL."""
    arguments = [f"--{name}={value}" for name, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).resolve()), *arguments],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
    finally:
        process.kill()
        process.wait()


def stats(base_url: str) -> dict[str, Any]:
    """Requests that were answered, how often the same one was, and the latest bodies."""
    with urllib.request.urlopen(f"{base_url}/stats") as answer:
        report: dict[str, Any] = json.load(answer)
    return report


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--n", choices=["honoured", "ignored", "refused"], default="honoured")
    parser.add_argument("--logprobs", choices=["given", "ignored", "refused"], default="given")
    parser.add_argument("--tools", choices=["taken", "refused"], default="taken")
    parser.add_argument("--latency", type=float, default=0.0)
    Handler.options = parser.parse_args()
    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
