"""The durable cache: what was asked -> what was answered. Nothing that is in it is paid for again.

One SQLite file in WAL mode. A key is the digest of everything that shapes an answer (model, rubric,
parameters, sample text, index of the repeat) and of nothing else, so neither address nor API key
matters. An entry is committed before its row counts as done; kill -9 loses none. Several processes
may use one file.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import orjson
import platformdirs

from axolotl_ual.errors import ConfigError

from ..data.sample import Sample
from .outcomes import Outcome

FILE: Final = "answers.sqlite3"
KEY_BYTES: Final = 32
_SCHEMA_VERSION: Final = 1
_LOCK_SECONDS: Final = 60.0
_LOOKUP: Final = 500
"""Keys in one SELECT."""
_IMAGE: Final = b"image 1 %d %d\n"
"""Before an image in what a key digests; the number is of the way in which images are shown."""

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS askers (
    id INTEGER PRIMARY KEY,
    description TEXT NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS answers (
    key BLOB PRIMARY KEY,
    asker INTEGER NOT NULL REFERENCES askers (id),
    outcome TEXT NOT NULL,
    score REAL,
    mass REAL,
    text TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    created INTEGER NOT NULL
) WITHOUT ROWID;
"""


class Answer(NamedTuple):
    """What became of one question.

    Attributes:
        outcome: how it ended.
        score: in [0, 1], or None.
        mass: probability that `score: expected` covered, or None.
        text: the raw answer, or what the server said instead.
        prompt_tokens: as counted by the server.
        completion_tokens: likewise; of an answer that was cut, the limit that cut it.
    """

    outcome: Outcome
    score: float | None = None
    mass: float | None = None
    text: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0


Entry = tuple[bytes, str, Answer]
"""Key, description of who was asked, and the answer."""


class Claimed(NamedTuple):
    """What became of questions that somebody wants to ask; those that are not here he may.

    Attributes:
        known: answered by another in the meantime.
        elsewhere: being asked by another: to be claimed again in a while.
    """

    known: Mapping[bytes, Answer] = {}
    elsewhere: frozenset[bytes] = frozenset()


def description(identity: Mapping[str, Any]) -> str:
    """What shapes an answer besides the sample, as the cache keeps it."""
    return json.dumps(identity, sort_keys=True, ensure_ascii=True)


class KeyMaker:
    """Digests for the questions of one task.

    Args:
        identity: everything but the sample that shapes an answer, as JSON values.
    """

    def __init__(self, identity: Mapping[str, Any]) -> None:
        self.description = description(identity)
        self._base = hashlib.sha256(self.description.encode())

    def key(self, sample: Sample, repeat: int = 0) -> bytes:
        """The key of one question."""
        digest = self._base.copy()
        for turn in sample.turns:
            if turn.image is not None:
                role = (turn.role or "").encode("utf-8", "surrogatepass")
                digest.update(_IMAGE % (turn.trained + 2 * turn.continues, len(role)))
                digest.update(role + turn.image.digest)
                continue
            text = turn.text.encode("utf-8", "surrogatepass")
            role = (turn.role or "").encode("utf-8", "surrogatepass")
            flags = turn.trained + 2 * turn.continues
            digest.update(b"%d %d %d\n" % (flags, len(role), len(text)))
            digest.update(role)
            digest.update(text)
        digest.update(b"repeat %d" % repeat)
        return digest.digest()


class AnswerCache(Protocol):
    """Where answers are kept: what was asked -> what was answered."""

    @property
    def folder(self) -> Path:
        """Where files that go with the answers may lie."""
        ...

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Answer]:
        """Those of the questions that were answered before."""
        ...

    def holds(self, about: str, outcome: Outcome) -> bool:
        """Whether an answer is kept that ended so.

        Args:
            about: description of who was asked.
            outcome: of the answer.
        """
        ...

    async def claim(self, keys: Mapping[bytes, bool]) -> Claimed:
        """Take questions to ask them, where several processes of one command share a cache.

        A claim ends with the answer's being kept, or with `release`.

        Args:
            keys: of the questions, and whether each is a retry, which replaces what is kept.
        """
        ...

    def release(self) -> None:
        """Leave what was claimed, and was not answered, to others."""
        ...

    async def put(self, key: bytes, about: str, answer: Answer) -> None:
        """Keep an answer; returns when nothing can lose it."""
        ...

    def add(self, entries: Iterable[Entry]) -> None:
        """Keep several, all or none; they take the place of what is there."""
        ...

    def values(self, identity: Mapping[str, Any]) -> Values:
        """The table of what was computed here, by what shapes it."""
        ...

    def flush(self) -> None:
        """Keep what is waiting."""
        ...

    def close(self) -> None:
        """Keep what is waiting, and close."""
        ...


class Values:
    """JSON values by sample: what was computed on this machine, beside the answers.

    Args:
        cache: where they are kept.
        identity: everything but the sample that shapes a value, as JSON values.
    """

    def __init__(self, cache: AnswerCache, identity: Mapping[str, Any]) -> None:
        self._cache = cache
        self._keys = KeyMaker(identity)

    def find(self, samples: Sequence[Sample]) -> list[Any]:
        """The value of each sample, None where there is none."""
        keys = [self._keys.key(sample) for sample in samples]
        known = self._cache.find(keys)
        return [orjson.loads(known[key].text) if key in known else None for key in keys]

    def put(self, values: Iterable[tuple[Sample, Any]]) -> None:
        """Keep values, all or none."""
        self._cache.add(
            (
                self._keys.key(sample),
                self._keys.description,
                Answer(Outcome.SCORED, text=orjson.dumps(value).decode()),
            )
            for sample, value in values
        )


def default_folder() -> Path:
    """The user's cache directory."""
    return Path(platformdirs.user_cache_dir("axolotl-ual"))


class Cache:
    """An open cache file. Use as a context manager.

    Args:
        folder: made where it is missing; None is the user's cache directory.

    Raises:
        ConfigError: the folder cannot be written, or the file is not a cache.
    """

    def __init__(self, folder: str | Path | None) -> None:
        self.path = (default_folder() if folder is None else Path(folder)) / FILE
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[None]]] = []
        self._askers: dict[str, int] = {}
        with self._explained():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._db = sqlite3.connect(self.path, timeout=_LOCK_SECONDS, isolation_level=None)
            self._prepare()

    def __enter__(self) -> Cache:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what is waiting and close the file."""
        self.flush()
        self._db.close()

    @property
    def folder(self) -> Path:
        """Where the file is."""
        return self.path.parent

    def values(self, identity: Mapping[str, Any]) -> Values:
        """The table of what was computed here, by what shapes it."""
        return Values(self, identity)

    def find(self, keys: Iterable[bytes]) -> dict[bytes, Answer]:
        """Those of the questions that were answered before."""
        wanted = list(keys)
        found = {}
        with self._explained():
            for start in range(0, len(wanted), _LOOKUP):
                part = wanted[start : start + _LOOKUP]
                marks = ",".join("?" * len(part))
                for key, *values in self._db.execute(
                    "SELECT key, outcome, score, mass, text, prompt_tokens, completion_tokens "
                    f"FROM answers WHERE key IN ({marks})",
                    part,
                ):
                    found[key] = _answer(values)
        return found

    def holds(self, about: str, outcome: Outcome) -> bool:
        """Whether an answer is kept that ended so. Goes through the file where there is none."""
        with self._explained():
            found = self._db.execute(
                "SELECT 1 FROM answers WHERE outcome = ? AND "
                "asker = (SELECT id FROM askers WHERE description = ?) LIMIT 1",
                (outcome.value, about),
            ).fetchone()
        return found is not None

    async def claim(self, keys: Mapping[bytes, bool]) -> Claimed:
        """All of them: nobody else asks in this command."""
        return Claimed()

    def release(self) -> None:
        """Nothing was taken from others."""

    async def put(self, key: bytes, about: str, answer: Answer) -> None:
        """Store an answer; returns when it is committed.

        Answers that come in one turn of the event loop share a transaction.
        """
        loop = asyncio.get_running_loop()
        committed: asyncio.Future[None] = loop.create_future()
        if not self._waiting:
            loop.call_soon(self.flush)
        self._waiting.append((self._row(key, about, answer, int(time.time())), committed))
        await committed

    def summary(self) -> Iterator[tuple[str, str, int, int, int]]:
        """For each asker and outcome: description, outcome, entries, prompt and answer tokens."""
        with self._explained():
            yield from self._db.execute(
                "SELECT description, outcome, COUNT(*), SUM(prompt_tokens), SUM(completion_tokens) "
                "FROM answers JOIN askers ON askers.id = asker GROUP BY asker, outcome "
                "ORDER BY description, outcome"
            )

    def entries(self) -> Iterator[tuple[bytes, str, Answer, int]]:
        """Every entry: key, description, answer, time of its making."""
        with self._explained():
            for key, description, *values, created in self._db.execute(
                "SELECT key, description, outcome, score, mass, text, prompt_tokens, "
                "completion_tokens, created FROM answers JOIN askers ON askers.id = asker"
            ):
                yield key, description, _answer(values), created

    def add(self, entries: Iterable[Entry]) -> None:
        """Store several answers, all or none; they take the place of what is there."""
        now = int(time.time())
        self._write("REPLACE", [self._row(*entry, now) for entry in entries])

    def merge(self, entries: Iterable[tuple[bytes, str, Answer, int]]) -> int:
        """Add entries, all or none; what is there stays.

        Args:
            entries: key, description, answer, time of its making.

        Returns:
            The number of those that were added.
        """
        return self._write("IGNORE", [self._row(*entry) for entry in entries])

    def flush(self) -> None:
        """Commit what is waiting."""
        waiting, self._waiting = self._waiting, []
        if not waiting:
            return
        try:
            self._write("REPLACE", [row for row, _ in waiting])
        except ConfigError as error:
            for _, committed in waiting:
                if not committed.done():
                    committed.set_exception(error)
            return
        for _, committed in waiting:
            if not committed.done():
                committed.set_result(None)

    def _row(self, key: bytes, about: str, answer: Answer, created: int) -> tuple[Any, ...]:
        outcome, *rest = answer
        return key, self._asker(about), outcome.value, *rest, created

    def _asker(self, description: str) -> int:
        """Number of a description in this file."""
        if description not in self._askers:
            with self._explained():
                self._db.execute(
                    "INSERT OR IGNORE INTO askers (description) VALUES (?)", (description,)
                )
                row = self._db.execute(
                    "SELECT id FROM askers WHERE description = ?", (description,)
                ).fetchone()
            self._askers[description] = int(row[0])
        return self._askers[description]

    def _write(self, conflict: str, rows: list[tuple[Any, ...]]) -> int:
        """Write rows in one transaction; the number of those that were written."""
        with self._explained():
            before = self._db.total_changes
            self._db.execute("BEGIN IMMEDIATE")
            self._db.executemany(
                f"INSERT OR {conflict} INTO answers VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
            self._db.execute("COMMIT")
            return self._db.total_changes - before

    def _prepare(self) -> None:
        # With WAL, NORMAL commits without an fsync: an entry is safe from a killed process; what
        # a power cut can take are the last commits, never the file.
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA cache_size=-16384")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if version not in (0, _SCHEMA_VERSION):
            raise ConfigError(
                f"cache: {self.path} was written by another version of axolotl-ual",
                "name another folder, or use the version that wrote it",
            )
        self._db.executescript(_SCHEMA)
        self._db.execute(f"PRAGMA user_version={_SCHEMA_VERSION}")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            raise ConfigError(
                f"cache: cannot use {self.path}: {error}",
                "is the folder writable, is the disk full, is the file really a cache? Set "
                "`cache` to another folder to start an empty one",
            ) from None


def _answer(values: Sequence[Any]) -> Answer:
    outcome, *rest = values
    return Answer(Outcome(outcome), *rest)
