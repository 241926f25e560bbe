from __future__ import annotations

import logging

import pytest

from axolotl_ual.preprocess.backends.quiet import hush


def test_a_library_that_sets_its_level_anew_stays_quiet(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.Logger("DeepSpeed")
    logger.addHandler(caplog.handler)
    monkeypatch.setattr(logging, "getLogger", lambda name: logger)
    hush()
    logger.setLevel(logging.WARNING)
    logger.warning("no GPU")
    logger.error("no memory")
    assert [record.message for record in caplog.records] == ["no memory"]


def test_a_level_that_was_set_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    logger = logging.Logger("torchao", logging.DEBUG)
    monkeypatch.setattr(logging, "getLogger", lambda name: logger)
    hush()
    assert logger.level == logging.DEBUG
    assert not logger.filters
