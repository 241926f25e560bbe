"""OpenAI's Batch API: half the price, answers within a day.

A batch run fills the cache; the ordinary run after it finds its answers there and asks for the few
that are missing. So both share keys, outcomes and everything that follows.

Requests are written to a file, uploaded, and started as a batch. A file is named by its digest,
which also goes with the batch as metadata: a batch that was started by a process that died before
it could note so is found on the server and never started twice. What is known of a batch is noted
beside its file after each step, and both are removed when its answers are in the cache.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

import orjson

from axolotl_ual.errors import BackendError

from ..calls.batch_files import BatchFiles, Job
from ..calls.cache import Cache, Judgement
from ..calls.outcomes import KEPT, NO_LOGPROBS, REFUSED, TOO_LONG, WITHOUT_SCORE
from ..calls.plan import RunOptions
from ..calls.stream import Question
from ..data.sample import Sample
from ..models.server.client import ChatBackend
from ..models.server.replies import Kind, Verdict, read_reply
from ..models.server.transport import Reply
from ..progress import Progress
from .parse import NoLogprobs
from .uncertainty import Judge, Shown

if TYPE_CHECKING:
    from openai import OpenAI
    from openai.types import Batch

DISCOUNT: Final = 0.5
_METADATA: Final = "axolotl_ual"
_ENDED: Final = {"completed", "expired", "cancelled", "failed"}
_FEW: Final = 20
_SMALL_PART: Final = 0.02
"""When no more than this is left, ordinary calls are quicker than another day."""
_LOOK_UP: Final = 1024
_WITHOUT_COMPLETION: Final = {Kind.REFUSED: REFUSED, Kind.TOO_LONG: TOO_LONG}


@dataclass(slots=True)
class BatchUsage:
    """What batches took in this run."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class BatchRun:
    """Brings the answers of one judge into the cache.

    Args:
        judge: who is asked.
        samples: lazy.
        cache: open; the files of batches are in a folder beside it.
        progress: says what is done.
        options: of the command line.

    Attributes:
        usage: of this run.
        shown: what was changed in samples to show them.
        asked_again: keys of stale judgements that were asked for again.
    """

    def __init__(
        self,
        judge: Judge,
        samples: Sequence[Sample],
        cache: Cache,
        progress: Progress,
        options: RunOptions,
    ) -> None:
        self._judge = judge
        self._samples = samples
        self._cache = cache
        self._progress = progress
        self._options = options
        self._purse = options.purse
        self._files = BatchFiles(
            cache.path.parent / "batches",
            judge.keys.description,
            judge.server.base_url,
            judge.config.batch_requests,
        )
        self.asked_again: set[bytes] = set()
        self._stale: set[bytes] = set()
        self.usage = BatchUsage()
        self.shown = Shown()

    def run(self) -> None:
        """Ask for what the cache does not hold, in rounds.

        Raises:
            BackendError: the server has no Batch API, or a round brought no answer.
            LimitError: as much as may be spent was spent.
            NoLogprobs: `score: expected` cannot be had from this server.
        """
        with self._client() as client:
            unfinished = self._files.jobs()
            if unfinished:
                self._progress.say(f"going on with {len(unfinished):,} batches of an earlier run")
                self._carry_out(client, unfinished)
            total = 0
            while True:
                jobs = self._write_requests()
                number = sum(job.requests for job in jobs)
                total = max(total, number)
                if number <= max(_FEW, _SMALL_PART * total * (number < total)):
                    self._files.remove(jobs)
                    return
                if not self._carry_out(client, jobs):
                    raise BackendError(
                        f"the batches at {self._judge.server.url} ended without an answer",
                        f"look at them there, or set {self._judge.server.section}.mode to live",
                    )

    def _questions(self) -> Iterator[Question]:
        for row, sample in enumerate(self._samples):
            for repeat in range(self._judge.config.repeats):
                yield self._judge.question(sample, row, repeat)

    def _unknown(self) -> Iterator[Question]:
        """Distinct questions that are to be asked."""
        seen: set[int] = set()
        source = self._questions()
        while chunk := list(islice(source, _LOOK_UP)):
            known = self._cache.find({question.key for question in chunk})
            for question in chunk:
                short = int.from_bytes(question.key[:8], "big")
                kept = known.get(question.key)
                if short not in seen and (kept is None or self._is_stale(question.key, kept)):
                    seen.add(short)
                    yield question

    def _is_stale(self, key: bytes, kept: Judgement) -> bool:
        retry = self._options.retry_failed and kept.outcome in WITHOUT_SCORE
        stale = key not in self.asked_again and (retry or self._judge.is_stale(kept))
        if stale:
            self._stale.add(key)
        return stale

    def _write_requests(self) -> list[Job]:
        """Files of requests for what is unknown, as far as the money goes."""
        unknown = self._unknown()
        first = next(unknown, None)
        if first is None:
            return []
        server = asyncio.run(self._ask_now(first))
        most = 0.0

        def lines() -> Iterator[bytes]:
            nonlocal most
            for question in unknown:
                chat = self._judge.chat(question.sample, question.repeat, self.shown)
                most += DISCOUNT * self._judge.highest_cost(chat)
                if not self._purse.can_afford(most):
                    self._progress.say("--max-cost: as many requests as it covers are sent")
                    return
                if question.key in self._stale:
                    self.asked_again.add(question.key)
                yield orjson.dumps(
                    {
                        "custom_id": question.key.hex(),
                        "method": "POST",
                        "url": "/v1/chat/completions",
                        "body": orjson.Fragment(server.body(chat)),
                    }
                )

        return self._files.write(lines())

    async def _ask_now(self, question: Question) -> ChatBackend:
        """Ask one question at once: what is wrong with key, model or parameters shows here.

        Returns:
            A backend that knows the server's manners.

        Raises:
            NoLogprobs: the server does not give what `score: expected` needs.
        """
        judge = self._judge
        async with ChatBackend(judge.config, judge.server, self._progress.say) as backend:
            judgement = await judge.ask(backend, question, self.shown, self._purse)
            if judgement.outcome in KEPT:
                await self._cache.put(
                    question.key, self._cache.asker(judge.keys.description), judgement
                )
            self._count(backend.counts.prompt_tokens, backend.counts.completion_tokens)
            if judgement.outcome == NO_LOGPROBS:
                raise NoLogprobs
            return backend

    def _carry_out(self, client: OpenAI, jobs: list[Job]) -> int:
        """Upload, start, wait and fetch; the number of answers that came."""
        running = [self._start(client, job) for job in jobs]
        answered = 0
        while running:
            waiting = []
            for job in running:
                batch = client.batches.retrieve(str(job.batch_id))
                if batch.status not in _ENDED:
                    waiting.append((job, batch))
                elif _is_over_token_limit(batch) and (waiting or len(running) > 1):
                    later = self._files.save(replace(job, batch_id=None))
                    waiting.append((self._start(client, later), batch))
                else:
                    answered += self._fetch(client, job, batch)
            running = [job for job, _ in waiting]
            if running:
                self._show([batch for _, batch in waiting])
                time.sleep(self._judge.config.batch_poll)
        return answered

    def _start(self, client: OpenAI, job: Job) -> Job:
        if job.file_id is None:
            with self._files.path(job).open("rb") as stream:
                uploaded = client.files.create(file=stream, purpose="batch")
            job = self._files.save(replace(job, file_id=uploaded.id))
            self._progress.say(f"uploaded {job.requests:,} requests as {uploaded.id}")
        if job.batch_id is None:
            batch = self._find_started(client, job) or client.batches.create(
                input_file_id=str(job.file_id),
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_METADATA: job.digest},
            )
            job = self._files.save(replace(job, batch_id=batch.id))
            self._progress.say(f"started batch {batch.id}")
        return job

    def _find_started(self, client: OpenAI, job: Job) -> Batch | None:
        """A batch of this file that was started and not noted."""
        for batch in client.batches.list(limit=100):
            own = (batch.metadata or {}).get(_METADATA) == job.digest
            if own and batch.status not in ("failed", "cancelled", "cancelling"):
                return batch
        return None

    def _fetch(self, client: OpenAI, job: Job, batch: Batch) -> int:
        """Keep the answers of a batch that has ended, and forget it."""
        answered = 0
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                answered += self._keep(client.files.content(file_id).content)
        self._files.remove([job])
        if batch.status == "failed" and not answered:
            errors = (batch.errors and batch.errors.data) or []
            said = "; ".join(error.message or error.code or "" for error in errors[:3])
            raise BackendError(
                f"batch {batch.id} at {self._judge.server.url} failed: "
                f"{self._judge.server.redact(said)}",
                f"look at it there, or set {self._judge.server.section}.mode to live",
            )
        self._progress.say(
            f"batch {batch.id} {batch.status}: {answered:,} of {job.requests:,} answered"
        )
        return answered

    def _keep(self, content: bytes) -> int:
        entries = []
        for line in content.splitlines():
            result = orjson.loads(line)
            judgement = self._judgement(result)
            if judgement is not None:
                key = bytes.fromhex(result["custom_id"])
                entries.append((key, self._judge.keys.description, judgement, int(time.time())))
        self._cache.add(entries, replace=True)
        return len(entries)

    def _judgement(self, result: Any) -> Judgement | None:
        """What a line of an output file is worth; None where it is to be asked again."""
        response = result.get("response") or {}
        body = orjson.dumps(response.get("body"))
        verdict: Verdict = read_reply(Reply(int(response.get("status_code") or 500), None, body))
        judge = self._judge
        if verdict.completion is None:
            if verdict.kind not in _WITHOUT_COMPLETION:
                return None
            text = judge.server.redact(verdict.message)
            return Judgement(_WITHOUT_COMPLETION[verdict.kind], text=text)
        completion = verdict.completion
        self._count(completion.prompt_tokens, completion.completion_tokens)
        if judge.price is not None:
            cost = judge.price.cost(
                completion.prompt_tokens, completion.completion_tokens, completion.cached_tokens
            )
            self._purse.settle(0.0, DISCOUNT * cost)
        judgement = judge.read(completion)
        return judgement._replace(text=judge.server.redact(judgement.text))

    def _count(self, prompt_tokens: int, completion_tokens: int) -> None:
        self.usage.requests += 1
        self.usage.prompt_tokens += prompt_tokens
        self.usage.completion_tokens += completion_tokens

    def _show(self, batches: list[Batch]) -> None:
        counts = [batch.request_counts for batch in batches if batch.request_counts is not None]
        done = sum(count.completed + count.failed for count in counts)
        total = sum(count.total for count in counts)
        self._progress.status(f"{len(batches)} batches: {done:,} of {total:,} done")

    @contextmanager
    def _client(self) -> Iterator[OpenAI]:
        import openai

        server, config = self._judge.server, self._judge.config
        try:
            with openai.OpenAI(
                api_key=server.key or "none",
                base_url=server.base_url,
                timeout=config.timeout,
                max_retries=config.max_retries,
            ) as client:
                yield client
        except openai.NotFoundError as error:
            raise BackendError(
                f"{server.url} has no Batch API ({server.redact(error.message)})",
                f"set {server.section}.mode to live",
            ) from None
        except openai.OpenAIError as error:
            raise BackendError(
                f"the Batch API of {server.url} failed: {server.redact(str(error))}",
                "run the same command again: batches that were started are gone on with",
            ) from None


def _is_over_token_limit(batch: Batch) -> bool:
    """Whether a batch waits for others of the account to end."""
    errors = (batch.errors and batch.errors.data) or []
    return batch.status == "failed" and any(e.code == "token_limit_exceeded" for e in errors)
