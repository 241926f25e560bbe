"""The same requests through other systems, for `benchmarks/judge.py` and `ray_engine.py`.

    python benchmarks/judge_peers.py curator|distilabel|distilabel-ray BASE_URL CONCURRENCY ROWS

Runs under an interpreter that has the system (`pip install bespokelabs-curator`, `pip install
"distilabel[openai,ray]"`, each best in an environment of its own) and prints the CPU seconds of the
whole process, its children and its start included, as its last line.
"""

from __future__ import annotations

import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

QUESTION = "Tell me what you know about it, and where it is uncertain. " * 12
ANSWER = "This is what is known of it, and the rest is a matter of opinion. " * 10
INSTRUCTIONS = "x" * 3000
MAX_TOKENS = 64


def prompts(rows: int) -> Iterator[str]:
    for index in range(rows):
        yield f"Topic {index}: {QUESTION}Topic {index}: {ANSWER}"


def offline_encoding() -> None:
    """Let tiktoken count bytes where it cannot download its tables."""
    import requests
    import tiktoken

    try:
        tiktoken.get_encoding("cl100k_base")
    except requests.RequestException:
        ranks = {bytes([byte]): byte for byte in range(256)}
        encoding = tiktoken.Encoding(
            "bytes", pat_str=r"(?s).", mergeable_ranks=ranks, special_tokens={}
        )
        tiktoken.get_encoding = tiktoken.encoding_for_model = lambda *_: encoding


def curator(base_url: str, concurrency: int, rows: int) -> None:
    """`curator.LLM` with no limit that the others lack."""
    os.environ.update(CURATOR_VIEWER="0", TELEMETRY_ENABLED="false", OPENAI_API_KEY="none")
    offline_encoding()
    from bespokelabs import curator as library

    class Judge(library.LLM):
        def prompt(self, row: dict[str, Any]) -> list[dict[str, str]]:
            return [
                {"role": "system", "content": INSTRUCTIONS},
                {"role": "user", "content": row["text"]},
            ]

        def parse(self, row: dict[str, Any], answer: str) -> dict[str, Any]:
            return {"answer": answer}

    judge = Judge(
        model_name="judge",
        backend="openai",
        generation_params={"max_tokens": MAX_TOKENS},
        backend_params={
            "base_url": base_url,
            "max_concurrent_requests": concurrency,
            "max_requests_per_minute": 10**9,
            "max_tokens_per_minute": 10**12,
        },
    )
    answered = judge([{"text": text} for text in prompts(rows)])
    assert len(getattr(answered, "dataset", answered)) == rows


def distilabel(base_url: str, concurrency: int, rows: int, replicas: int = 0) -> None:
    """A pipeline of one step, which asks a batch of rows at a time.

    Args:
        base_url: of the server.
        concurrency: rows of a batch, of all replicas together.
        rows: to be asked about.
        replicas: actors on Ray that run the step; 0: one process, without Ray.
    """
    from distilabel.models import OpenAILLM
    from distilabel.pipeline import Pipeline
    from distilabel.steps import LoadDataFromDicts, StepResources
    from distilabel.steps.tasks import TextGeneration

    data = [{"instruction": text, "system_prompt": INSTRUCTIONS} for text in prompts(rows)]
    with Pipeline(name="judge") as pipeline:
        batch = concurrency // max(1, replicas)
        load = LoadDataFromDicts(data=data, batch_size=batch)
        ask = TextGeneration(
            llm=OpenAILLM(
                model="judge",
                base_url=base_url,
                api_key="none",
                generation_kwargs={"max_new_tokens": MAX_TOKENS},
            ),
            input_batch_size=batch,
            resources=StepResources(replicas=max(1, replicas)),
        )
        load >> ask
    if replicas:
        pipeline = pipeline.ray(ray_init_kwargs={"address": "local", "num_cpus": 2 * replicas})
    answered = pipeline.run(use_cache=False)
    assert len(answered["default"]["train"]) == rows


def distilabel_on_ray(base_url: str, concurrency: int, rows: int) -> None:
    """The same pipeline with four actors."""
    distilabel(base_url, concurrency, rows, replicas=4)


PEERS = {"curator": curator, "distilabel": distilabel, "distilabel-ray": distilabel_on_ray}


def main() -> None:
    name, base_url, concurrency, rows = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        os.environ.update(HOME=folder, HF_HOME=folder, CURATOR_CACHE_DIR=folder)
        PEERS[name](base_url, int(concurrency), int(rows))
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(sum(usage.ru_utime + usage.ru_stime for usage in usages))


if __name__ == "__main__":
    main()
