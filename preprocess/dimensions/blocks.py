"""Scoring by local models, in blocks of a fixed size.

A finished block is kept in the durable cache, so that a run that was interrupted goes on behind it
and ends in the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from ..calls.cache import AnswerCache
from ..data.sample import Sample, Turn
from ..progress import Progress

BLOCK: Final = 64
"""Items that are scored at a time: what a kill can lose."""


def score_in_blocks(
    cache: AnswerCache,
    identity: Mapping[str, Any],
    items: Sequence[Any],
    score: Callable[[Sequence[Any]], Sequence[Any]],
    progress: Progress,
) -> list[Any]:
    """Score items block by block, each block once.

    Args:
        cache: where finished blocks are.
        identity: what shapes a score besides the items, as JSON values.
        items: dataclasses of JSON values; prompts with their responses, or single responses.
        score: JSON values of some items.
        progress: advances with each block.

    Returns:
        A JSON value for each item.
    """
    values = cache.values(identity)
    results: list[Any] = []
    for start in range(0, len(items), BLOCK):
        block = items[start : start + BLOCK]
        text = json.dumps([asdict(item) for item in block], sort_keys=True)
        sample = Sample((Turn(None, text, trained=False),))
        (known,) = values.find([sample])
        if known is None:
            values.put([(sample, list(score(block)))])
            (known,) = values.find([sample])
        results.extend(known)
        progress.advance(len(block))
    return results
