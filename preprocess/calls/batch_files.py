"""The files of batches: requests to upload, and a note of how far each batch has come."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Container, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import orjson

MOST_BYTES: Final = 190_000_000
"""The service takes files of 200 MB."""


@dataclass(frozen=True, slots=True)
class Job:
    """What is known of one batch.

    Attributes:
        digest: of its file of requests.
        asker: description of the asker, as in the cache.
        base_url: root of the server.
        requests: lines of the file.
        file_id: of the upload, once there is one.
        batch_id: once it was started.
    """

    digest: str
    asker: str
    base_url: str
    requests: int
    file_id: str | None = None
    batch_id: str | None = None


class BatchFiles:
    """The folder of the batches of one server.

    Args:
        folder: made where it is missing.
        base_url: root of the server.
        most_requests: that one batch may have.
    """

    def __init__(self, folder: Path, base_url: str, most_requests: int) -> None:
        self._folder = folder
        self._base_url = base_url
        self._most_requests = most_requests
        folder.mkdir(parents=True, exist_ok=True)

    def path(self, job: Job) -> Path:
        """The file of requests."""
        return self._folder / f"{job.digest}.jsonl"

    def jobs(self, askers: Container[str]) -> list[Job]:
        """Batches of some askers that were begun and not finished."""
        found = [Job(**orjson.loads(p.read_bytes())) for p in self._folder.glob("*.json")]
        return [
            job
            for job in sorted(found, key=lambda job: job.digest)
            if job.asker in askers and job.base_url == self._base_url
        ]

    def write(self, asker: str, lines: Iterable[bytes]) -> list[Job]:
        """Write requests to as many files as the service's limits ask for."""
        return [self._write_file(asker, part) for part in _parts(lines, self._most_requests)]

    def save(self, job: Job) -> Job:
        """Note how far a batch has come."""
        path = self._folder / f"{job.digest}.json"
        partial = path.with_suffix(f".partial-{os.getpid()}")
        partial.write_bytes(orjson.dumps(asdict(job)))
        partial.replace(path)
        return job

    def remove(self, jobs: Iterable[Job]) -> None:
        """Forget batches."""
        for job in jobs:
            # The note goes first: a file without one is never sent.
            for path in (self._folder / f"{job.digest}.json", self.path(job)):
                with suppress(FileNotFoundError):
                    path.unlink()

    def _write_file(self, asker: str, lines: list[bytes]) -> Job:
        content = b"".join(line + b"\n" for line in lines)
        digest = hashlib.sha256(content).hexdigest()
        job = Job(digest, asker, self._base_url, len(lines))
        self.path(job).write_bytes(content)
        return self.save(job)


def _parts(lines: Iterable[bytes], most_requests: int) -> Iterator[list[bytes]]:
    part: list[bytes] = []
    size = 0
    for line in lines:
        if part and (len(part) >= most_requests or size + len(line) + 1 > MOST_BYTES):
            yield part
            part, size = [], 0
        part.append(line)
        size += len(line) + 1
    if part:
        yield part
