"""The study's model behind `/v1/chat/completions`, on this machine, for the time of a block.

As a judge it is `benchmarks/small_judge.py`, which writes answers by their schema. As a sampler it
draws the `n` answers of a request in one batch.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[1]))

import json_server
from small_judge import SmallJudge

from axolotl_ual.preprocess.models.local.generate import Draw, Generator


@contextmanager
def judging(folder: Path) -> Iterator[dict[str, Any]]:
    """Keys of a `judge:` section, while its server runs."""
    with json_server.serving(SmallJudge(str(folder)).answer) as address:
        yield {"model": "smollm2-135m-instruct", "base_url": address, "max_concurrency": 1}


@contextmanager
def sampling(folder: Path) -> Iterator[dict[str, Any]]:
    """Keys of a `self_consistency:` section, while its server runs."""
    generator = Generator.load(str(folder), None, key="sampling", device="cpu", dtype="bfloat16")
    with json_server.serving(partial(answer, generator)) as address:
        yield {"model": "smollm2-135m-instruct", "base_url": address, "max_concurrency": 1}


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
