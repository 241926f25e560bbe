"""A chat completions server in a thread of the test: one function from a request to an answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[dict[str, Any]], tuple[int, dict[str, Any]]]
"""Status and JSON body for the JSON body of a request."""


@dataclass
class ChatStub:
    """A running server.

    Attributes:
        base_url: of the API.
        asked: bodies of all requests, in the order of their arrival.
    """

    base_url: str
    asked: list[dict[str, Any]] = field(default_factory=list)


def completion(content: str) -> tuple[int, dict[str, Any]]:
    """An answer that says something."""
    message = {"role": "assistant", "content": content}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    return 200, {"choices": [choice], "usage": usage}


@contextmanager
def chat_stub(answer: Answer) -> Iterator[ChatStub]:
    """Serve for as long as the context lasts."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(body)
            status, reply = answer(body)
            data = json.dumps(reply).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield ChatStub(f"http://127.0.0.1:{http.server_port}/v1", asked)
        http.shutdown()
