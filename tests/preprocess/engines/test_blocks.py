"""Blocks of rows by hand: which are given out beside others, and which are halved and given up."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from axolotl_ual.preprocess.engines.blocks import Block, Blocks, Lost


def _blocks(rows: int, size: int) -> Blocks:
    """With a store that keeps nothing apart: a reference is the rows."""
    store = SimpleNamespace(put=lambda rows: rows, get=lambda rows: rows)
    return Blocks(store, [f"row {n}" for n in range(rows)], size)


def _taken(blocks: Blocks, *, beside: bool = False) -> Block:
    block = blocks.next(beside=beside)
    assert block is not None
    return block


def test_a_block_over_which_a_worker_died_is_given_out_alone() -> None:
    blocks = _blocks(6, 2)
    first = _taken(blocks)
    assert blocks.blame(first, "it died") is None
    # A worker that has another gets the fresh ones, though the suspect waits in front of them.
    assert [_taken(blocks, beside=True).start for _ in range(2)] == [2, 4]
    assert bool(blocks)
    assert blocks.next(beside=True) is None
    assert _taken(blocks) is first
    assert not blocks and blocks.next(beside=False) is None


def test_what_lies_behind_the_block_that_killed_is_no_suspect() -> None:
    blocks = _blocks(4, 2)
    _, behind = _taken(blocks), _taken(blocks, beside=True)
    blocks.put_back(behind)
    assert _taken(blocks, beside=True) is behind


def test_a_row_that_kills_is_found_and_given_up() -> None:
    """Two deaths halve a block; a row that is alone has one of them, and is lost at the third."""
    blocks = _blocks(2, 2)
    block = _taken(blocks)
    for _ in range(2):
        assert blocks.blame(block, "it died") is None
        block = _taken(blocks)
    good = block
    bad = _taken(blocks)
    assert [(one.start, one.rows, one.deaths) for one in (good, bad)] == [(0, 1, 1), (1, 1, 1)]
    assert blocks.blame(bad, "it died") is None
    assert _taken(blocks) is bad
    assert blocks.blame(bad, "it died again") == Lost(1, "row 1", "it died again")
    found: Any = blocks.next(beside=False)
    assert found is None
