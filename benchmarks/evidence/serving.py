"""The study's model behind `/v1/chat/completions`, on this machine, for the time of a block.

As a judge it is `benchmarks/small_judge.py`, which writes answers by their schema. As a sampler it
draws the `n` answers of a request in one batch.
"""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from axolotl_ual.preprocess.models.local.generate import Draw, Generator


@contextmanager
def judging(folder: Path) -> Iterator[dict[str, Any]]:
    """Keys of a `judge:` section, while its server runs."""
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    from small_judge import serve

    address, server = serve(str(folder))
    try:
        yield {"model": "smollm2-135m-instruct", "base_url": address, "max_concurrency": 1}
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def sampling(folder: Path) -> Iterator[dict[str, Any]]:
    """Keys of a `self_consistency:` section, while its server runs."""
    generator = Generator.load(str(folder), None, key="sampling", device="cpu", dtype="bfloat16")
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                data = json.dumps(answer(generator, body)).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}/v1"
        yield {"model": "smollm2-135m-instruct", "base_url": address, "max_concurrency": 1}
    finally:
        server.shutdown()
        server.server_close()


def answer(generator: Generator, body: dict[str, Any]) -> dict[str, Any]:
    """The body of a chat completion with `n` choices, seeded by what is asked."""
    text = generator.tokenizer.apply_chat_template(
        body["messages"], add_generation_prompt=True, tokenize=False
    )
    number, most = body.get("n") or 1, body.get("max_tokens") or 64
    prompt = generator.encode(text, True, 1024)
    asked = json.dumps([text, body.get("seed")]).encode()
    start = int.from_bytes(hashlib.sha256(asked).digest()[:6], "big")
    draw = Draw(float(body.get("temperature", 1.0)), float(body.get("top_p") or 1.0), most)
    said = generator.generate([prompt] * number, range(start, start + number), draw)
    choices = [
        {
            "index": place,
            "message": {"role": "assistant", "content": one.text},
            "finish_reason": "stop" if one.stopped else "length",
        }
        for place, one in enumerate(said)
    ]
    written = sum(len(one.logprobs) for one in said)
    usage = {"prompt_tokens": len(prompt), "completion_tokens": written}
    usage["total_tokens"] = len(prompt) + written
    return {"model": body["model"], "choices": choices, "usage": usage}
