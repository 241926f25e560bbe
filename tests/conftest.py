"""Which tests `make test-fast` leaves out and `make test-hosts` takes.

A test is slow when it starts a process or compiles a graph. Fixtures that do so make their tests
slow by themselves; any other test that does so without the mark fails.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

# An example takes as long as a busy machine lets it.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

HOST_FACING = {Path(__file__).parent / room for room in ("data", "losses", "schedule", "training")}
"""Tests of the rooms that meet Axolotl, transformers and TRL inside training."""

STARTS_PROCESSES = {"process", "base_url"}
"""Fixtures that run a server."""

_STARTS = {"os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"}
_started: list[str] = []


def pytest_configure() -> None:
    """Note every process that is started from here on."""
    sys.addaudithook(_note_start)


def _note_start(event: str, arguments: tuple[object, ...]) -> None:
    # `ctypes.util` runs ldconfig, also where a first import of torch looks for CUDA.
    if event in _STARTS and "/sbin/ldconfig" not in str(arguments[:1]):
        _started.append(event)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HOST_FACING & set(item.path.parents):
            item.add_marker(pytest.mark.host)
        if STARTS_PROCESSES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    yield from _watched(item)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    yield from _watched(item)


def _watched(item: pytest.Item) -> Iterator[None]:
    before = len(_started), _graphs()
    yield
    if (len(_started), _graphs()) != before and item.get_closest_marker("slow") is None:
        pytest.fail("starts a process or compiles: mark it with `@pytest.mark.slow`", pytrace=False)


def _graphs() -> int:
    """Graphs that torch has compiled in this process."""
    dynamo: Any = sys.modules.get("torch._dynamo.utils")
    return 0 if dynamo is None else int(dynamo.counters["stats"]["unique_graphs"])
