"""A judge of pairs behind real HTTP, in a thread; what it prefers is a function of both texts."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[str, str], str]
"""(first response, second response) -> the text of the answer."""
DIGIT = "3"
"""What it answers to anything that is no pair."""
_PARTS = re.compile(r"^(SAMPLE-\w+) RESPONSE role=[AB]\n(.*?)\n(?=\1 )", re.M | re.S)


class PreferenceServer:
    """Attributes:
    url: of its API.
    answer: what it says to a pair.
    requests: bodies, in the order of their coming.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.answer: Answer = lambda first, second: '{"preferred": "A"}'
        self.requests: list[dict[str, Any]] = []

    def say(self, body: dict[str, Any]) -> str:
        self.requests.append(body)
        pair = [match[1] for match in _PARTS.findall(body["messages"][-1]["content"])]
        return self.answer(*pair) if len(pair) == 2 else DIGIT


@contextmanager
def running() -> Iterator[PreferenceServer]:
    """Serve until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            message = {"role": "assistant", "content": server.say(body)}
            reply = {
                "id": "1",
                "object": "chat.completion",
                "created": 0,
                "model": "judge",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 5000, "completion_tokens": 5, "total_tokens": 5005},
            }
            content = json.dumps(reply).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            """Print nothing."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server = PreferenceServer(f"http://127.0.0.1:{http.server_port}/v1")
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
