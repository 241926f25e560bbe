"""The durable cache: keys, commits, several processes, sharing."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judging_kit import command, estimate, sample, samples

import judge_server
from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.calls.cache import FILE, Answer, Cache, KeyMaker
from axolotl_ual.preprocess.calls.outcomes import Outcome
from axolotl_ual.preprocess.data.sample import Sample, Turn

KEYS = KeyMaker({"kind": "judge", "model": "m"})
texts = st.text(st.characters(codec=None), max_size=8)
turns = st.builds(Turn, st.none() | texts, texts, st.booleans(), st.booleans())
dialogues = st.builds(Sample, st.lists(turns, min_size=1, max_size=3).map(tuple))


@given(dialogues, dialogues, st.integers(0, 2), st.integers(0, 2))
def test_keys_are_equal_for_equal_questions_only(
    one: Sample, other: Sample, repeat: int, again: int
) -> None:
    """No text can take over the role of the separators, surrogates included."""
    same = [(t.role or "", t.text, t.trained, t.continues) for t in one.turns] == [
        (t.role or "", t.text, t.trained, t.continues) for t in other.turns
    ] and repeat == again
    assert (KEYS.key(one, repeat) == KEYS.key(other, again)) == same


def put_all(folder: Path, entries: dict[bytes, Answer]) -> None:
    async def put() -> None:
        with Cache(folder) as cache:
            await asyncio.gather(*(cache.put(k, KEYS.description, j) for k, j in entries.items()))

    asyncio.run(put())


def test_what_was_put_is_found(tmp_path: Path) -> None:
    entries = {
        KEYS.key(sample(str(i))): Answer(Outcome.SCORED, i / 2000, None, f"raw {i}", i, 5)
        for i in range(1500)
    }
    put_all(tmp_path, entries)
    with Cache(tmp_path) as cache:
        assert cache.find(entries) == entries
        assert cache.find([b"x" * 32]) == {}


def test_put_returns_when_the_entry_is_on_disk(tmp_path: Path) -> None:
    async def check() -> None:
        with Cache(tmp_path) as cache:
            await cache.put(b"k" * 32, "{}", Answer(Outcome.SCORED, 0.5))
            with sqlite3.connect(tmp_path / FILE) as other:
                assert other.execute("SELECT COUNT(*) FROM answers").fetchone() == (1,)

    asyncio.run(check())


def _fill(folder: Path, first: int) -> None:
    keys = {
        KEYS.key(sample(str(i))): Answer(Outcome.SCORED, 0.5) for i in range(first, first + 400)
    }
    put_all(folder, keys)


@pytest.mark.slow
def test_processes_share_a_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_fill, args=(tmp_path, 200 * i)) for i in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with Cache(tmp_path) as cache:
        assert sum(number for _, _, number, _, _ in cache.summary()) == 1000


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("not a database, but long enough to look at" * 50)
    with pytest.raises(ConfigError, match=FILE):
        Cache(tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cache: cannot use"):
        Cache(tmp_path / "file")


def test_judgements_travel_without_text(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(rules=[("<bad>", "prose")])
    asked = [*samples(40), sample("<bad>")]
    here, there = tmp_path / "here", tmp_path / "there"
    first, _ = estimate(server, here, asked)
    for name in ("judgements.jsonl", "judgements.jsonl.gz"):
        result = command("cache", "export", tmp_path / name, "--folder", here)
        assert "wrote 41 judgements" in result.output
    text = (tmp_path / "judgements.jsonl").read_text()
    assert "Question" not in text and "I would say" not in text
    result = command("cache", "import", tmp_path / "judgements.jsonl.gz", "--folder", there)
    assert "added 41 of 41" in result.output
    server.restore()
    second, _ = estimate(server, there, asked)
    assert server.stats()["requests"] == 0
    assert second.uncertainty.tolist()[:40] == first.uncertainty.tolist()[:40]
    assert second.failures == {"unparsable": 1}
    again = command("cache", "import", tmp_path / "judgements.jsonl", "--folder", there)
    assert "added 0 of 41" in again.output
    stats = command("cache", "stats", "--folder", there).output
    assert "judge judge-1 verbalized" in stats and "40 scored" in stats and "41 entries" in stats


HEAD: dict[str, Any] = {"format": "axolotl-ual judgements", "version": 1}
ASKER = {"asker": 0, "description": {"kind": "judge", "model": "m"}}
GOOD = {
    "key": "0" * 64,
    "asker": 0,
    "outcome": "scored",
    "score": 0.5,
    "prompt_tokens": 1,
    "completion_tokens": 1,
    "created": 1,
}


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([], "is empty"),
        ([{"rows": 3}], ":1: is not an export"),
        ([HEAD, GOOD], ":2: asker 0 has not been described"),
        ([HEAD, ASKER, GOOD | {"score": 1.5}], ":3: score"),
        ([HEAD, ASKER, GOOD | {"score": None}], ":3: .*a score goes with"),
        ([HEAD, ASKER, GOOD | {"key": "ab"}], ":3: key"),
        ([HEAD, ASKER, GOOD | {"outcome": "great"}], ":3: .*not an outcome"),
    ],
)
def test_an_import_is_checked_before_anything_is_added(
    tmp_path: Path, lines: list[Any], problem: str
) -> None:
    file = tmp_path / "shared.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in [*lines]))
    result = command("cache", "import", file, "--folder", tmp_path / "cache")
    assert result.exit_code == 1

    assert re.search(problem, result.output)
    assert not (tmp_path / "cache").exists()


def test_stats_of_no_cache(tmp_path: Path) -> None:
    result = command("cache", "stats", "--folder", tmp_path / "none")
    assert result.exit_code == 1
    assert "there is no cache here" in result.output
    assert not (tmp_path / "none").exists()
