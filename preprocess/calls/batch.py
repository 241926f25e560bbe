"""OpenAI's Batch API: half the price, answers within a day.

A batch run fills the cache; the ordinary run after it finds its answers there and asks for the few
that are missing. So both share keys, outcomes and everything that follows.

Requests are written to a file, uploaded, and started as a batch. A batch that was started by a
process that died before it could note so is found on the server by its upload, and never started
twice. What is known of a batch is noted beside its file after each step, and both are removed when
its answers are in the cache.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import chain, groupby
from typing import TYPE_CHECKING, Any, Final

import orjson

from axolotl_ual.errors import BackendError

from ..models.server.replies import read_reply
from ..models.server.transport import Reply
from .batch_files import BatchFiles, Job
from .budget import Meter
from .cache import Answer, AnswerCache, description
from .exchange import Exchange
from .outcomes import KEPT, Outcome
from .pending import Once, Pending
from .task import NoLogprobs, Question, Questions, Task

if TYPE_CHECKING:
    from openai import AsyncOpenAI
    from openai.types import Batch

DISCOUNT: Final = 0.5
_METADATA: Final = "axolotl_ual"
_ENDED: Final = {"completed", "expired", "cancelled", "failed"}
_MOST_ROUNDS: Final = 4
"""What fails in each of so many rounds fails for good, as far as batches go."""
_FEW: Final = 20
_SMALL_PART: Final = 0.02
"""When no more than this is left, ordinary calls are quicker than another day."""


class BatchRun:
    """Brings the answers of one endpoint into the cache.

    Args:
        exchange: who is asked; its backend is entered.
        pending: tells what is to be asked.
        cache: open; the files of batches are in a folder beside it.
        meter: of this stretch of work.
    """

    def __init__(
        self, exchange: Exchange, pending: Pending, cache: AnswerCache, meter: Meter
    ) -> None:
        endpoint = exchange.endpoint
        self._exchange = exchange
        self._pending = pending
        self._cache = cache
        self._meter = meter
        self._say = meter.progress.say
        self._config = endpoint.config
        self._server = endpoint.server
        self._tasks: dict[str, Task[Any]] = {}
        self._retries: list[Question] = []
        self._files = BatchFiles(
            cache.folder / "batches", self._server.base_url, self._config.batch_requests
        )

    async def run(self, questions: Questions) -> None:
        """Ask for what the cache does not hold, in rounds.

        Raises:
            BackendError: the server has no Batch API, or a round brought no answer.
            LimitError: as much as may be spent was spent.
            NoLogprobs: the server does not give what a task needs.
        """
        self._tasks = {description(task.identity): task for task in questions.tasks}
        async with self._client() as client:
            unfinished = self._files.jobs(self._tasks)
            if unfinished:
                self._say(f"going on with {len(unfinished):,} batches of an earlier run")
                await self._carry_out(client, unfinished)
            total = 0
            for _ in range(_MOST_ROUNDS):
                jobs = await self._write_requests(questions)
                number = sum(job.requests for job in jobs)
                total = max(total, number)
                if number <= max(_FEW, _SMALL_PART * total * (number < total)):
                    self._files.remove(jobs)
                    return
                for question in self._retries:
                    self._pending.retried(question)
                answered = await self._carry_out(client, jobs)
                if not answered:
                    raise BackendError(
                        f"the batches at {self._server.url} ended without an answer",
                        f"look at them there, or set {self._server.section}.mode to live",
                    )
                if answered < number / 2:
                    break
            self._say("what batches did not answer is asked live")

    async def _write_requests(self, questions: Questions) -> list[Job]:
        """Files of requests for what is pending, as far as the money goes."""
        chunks = self._pending(questions, Once(), lambda question, answer: None)
        pending = chain.from_iterable(chunks)
        first = next(pending, None)
        if first is None:
            return []
        await self._ask_now(first)
        self._retries.clear()
        lines = self._affordable(pending)
        jobs = []
        for about, part in groupby(lines, key=lambda line: line[0]):
            jobs += self._files.write(about, (body for _, body in part))
        return jobs

    def _affordable(self, pending: Iterator[Question]) -> Iterator[tuple[str, bytes]]:
        """Who is asked, and the line of each request that the budget covers."""
        most = 0.0
        for question in pending:
            chat = question.task.chat(question.item, question.repeat)
            most += DISCOUNT * self._exchange.endpoint.highest_cost(chat)
            if not self._exchange.budget.can_afford(most):
                self._say("--max-cost: as many requests as it covers are sent")
                return
            if question.is_retry:
                self._retries.append(question)
            self._meter.note(chat, self._exchange.endpoint)
            line = {
                "custom_id": question.key.hex(),
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": orjson.Fragment(self._exchange.backend.body(chat)),
            }
            yield description(question.task.identity), orjson.dumps(line)

    async def _ask_now(self, question: Question) -> None:
        """Ask one question at once: what is wrong with key, model or parameters shows here.

        Raises:
            NoLogprobs: the server does not give what a task needs.
        """
        self._pending.retried(question)
        answer = await self._exchange.ask(question, self._meter)
        if answer.outcome in KEPT:
            self._meter.batched += 1
            await self._cache.put(question.key, description(question.task.identity), answer)
        if answer.outcome is Outcome.NO_LOGPROBS:
            raise NoLogprobs

    async def _carry_out(self, client: AsyncOpenAI, jobs: list[Job]) -> int:
        """Upload, start, wait and fetch; the number of answers that came."""
        running = [await self._start(client, job) for job in jobs]
        answered = 0
        while running:
            waiting = []
            for job in running:
                batch = await client.batches.retrieve(str(job.batch_id))
                if batch.status not in _ENDED:
                    waiting.append((job, batch))
                elif _is_over_token_limit(batch) and (waiting or len(running) > 1):
                    later = self._files.save(replace(job, batch_id=None))
                    waiting.append((await self._start(client, later), batch))
                else:
                    answered += await self._fetch(client, job, batch)
            running = [job for job, _ in waiting]
            if running:
                self._show([batch for _, batch in waiting])
                await asyncio.sleep(self._config.batch_poll)
        return answered

    async def _start(self, client: AsyncOpenAI, job: Job) -> Job:
        if job.file_id is None:
            with self._files.path(job).open("rb") as stream:
                uploaded = await client.files.create(file=stream, purpose="batch")
            job = self._files.save(replace(job, file_id=uploaded.id))
            self._say(f"uploaded {job.requests:,} requests as {uploaded.id}")
        if job.batch_id is None:
            batch = await self._find_started(client, job) or await client.batches.create(
                input_file_id=str(job.file_id),
                endpoint="/v1/chat/completions",
                completion_window="24h",
                metadata={_METADATA: job.digest},
            )
            job = self._files.save(replace(job, batch_id=batch.id))
            self._say(f"started batch {batch.id}")
        return job

    async def _find_started(self, client: AsyncOpenAI, job: Job) -> Batch | None:
        """A batch of this file that was started and not noted."""
        async for batch in client.batches.list(limit=100):
            # The same requests may have been sent before: only those of this upload are meant.
            own = batch.input_file_id == job.file_id
            if own and batch.status not in ("failed", "cancelled", "cancelling"):
                return batch
        return None

    async def _fetch(self, client: AsyncOpenAI, job: Job, batch: Batch) -> int:
        """Keep the answers of a batch that has ended, and forget it."""
        answered = 0
        for file_id in (batch.output_file_id, batch.error_file_id):
            if file_id is not None:
                content = await client.files.content(file_id)
                answered += self._keep(self._tasks[job.asker], content.content)
        self._files.remove([job])
        if batch.status == "failed" and not answered:
            errors = (batch.errors and batch.errors.data) or []
            said = "; ".join(error.message or error.code or "" for error in errors[:3])
            raise BackendError(
                f"batch {batch.id} at {self._server.url} failed: {self._server.redact(said)}",
                f"look at it there, or set {self._server.section}.mode to live",
            )
        self._say(f"batch {batch.id} {batch.status}: {answered:,} of {job.requests:,} answered")
        return answered

    def _keep(self, task: Task[Any], content: bytes) -> int:
        about = description(task.identity)
        entries = []
        for line in content.splitlines():
            result = orjson.loads(line)
            answer = self._answer(task, result)
            if answer is not None:
                entries.append((bytes.fromhex(result["custom_id"]), about, answer))
        self._cache.add(entries)
        return len(entries)

    def _answer(self, task: Task[Any], result: Any) -> Answer | None:
        """What a line of an output file is worth; None where it is to be asked again."""
        response = result.get("response") or {}
        body = orjson.dumps(response.get("body"))
        verdict = read_reply(Reply(int(response.get("status_code") or 500), body))
        completion = verdict.completion
        if completion is None:
            outcome = self._exchange.without_completion(verdict.kind)
            if outcome is None:
                return None
            return Answer(outcome, text=self._server.redact(verdict.message))
        counts = self._meter.counts
        counts.requests += 1
        counts.prompt_tokens += completion.prompt_tokens
        counts.completion_tokens += completion.completion_tokens
        self._meter.batched += 1
        cost = self._exchange.endpoint.cost(completion, 0.0)
        self._exchange.budget.settle(0.0, DISCOUNT * cost)
        return self._exchange.read(task, completion)

    def _show(self, batches: list[Batch]) -> None:
        counts = [batch.request_counts for batch in batches if batch.request_counts is not None]
        done = sum(count.completed + count.failed for count in counts)
        total = sum(count.total for count in counts)
        self._meter.progress.status(f"{len(batches)} batches: {done:,} of {total:,} done")

    @asynccontextmanager
    async def _client(self) -> AsyncIterator[AsyncOpenAI]:
        import openai

        server, config = self._server, self._config
        try:
            async with openai.AsyncOpenAI(
                api_key=server.key or "none",
                base_url=server.base_url,
                default_headers=server.all_headers,
                default_query=server.parameters,
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
