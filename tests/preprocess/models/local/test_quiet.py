from __future__ import annotations

import logging

import pytest

from axolotl_ual.preprocess.models.local import quiet


@pytest.fixture
def logger(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> logging.Logger:
    monkeypatch.setattr(quiet, "_TALKATIVE", (request.node.nodeid,))
    return logging.getLogger(request.node.nodeid)


def test_a_library_that_sets_its_level_anew_stays_quiet(
    logger: logging.Logger, caplog: pytest.LogCaptureFixture
) -> None:
    quiet.hush()
    logger.setLevel(logging.WARNING)
    logger.warning("no GPU")
    logger.error("no memory")
    assert [record.message for record in caplog.records] == ["no memory"]


def test_a_level_that_was_set_is_kept(logger: logging.Logger) -> None:
    logger.setLevel(logging.DEBUG)
    quiet.hush()
    assert logger.level == logging.DEBUG
    assert quiet._is_error not in logger.filters
