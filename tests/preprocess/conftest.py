"""A judge server for the tests of this folder: one process a module, fresh counts a test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import judge_server


@pytest.fixture(scope="module")
def process() -> Iterator[judge_server.Running]:
    with judge_server.running() as server:
        yield server


@pytest.fixture
def server(process: judge_server.Running) -> judge_server.Running:
    process.restore()
    return process
