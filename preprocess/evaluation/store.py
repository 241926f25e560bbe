"""JSON values by sample in the durable cache: what a model on this machine made of each."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson

from ..calls.cache import Cache, Judgement, KeyMaker
from ..calls.outcomes import SCORED
from ..data.sample import Sample


class Store:
    """A table of the cache.

    Args:
        cache: where it is kept.
        identity: everything but the sample that shapes a value, as JSON values.
    """

    def __init__(self, cache: Cache, identity: Mapping[str, Any]) -> None:
        self._cache = cache
        self._keys = KeyMaker(identity)

    def find(self, samples: Sequence[Sample]) -> list[Any]:
        """The value of each sample, None where there is none."""
        keys = [self._keys.key(sample) for sample in samples]
        known = self._cache.find(keys)
        return [orjson.loads(known[key].text) if key in known else None for key in keys]

    def put(self, values: Iterable[tuple[Sample, Any]]) -> None:
        """Keep values, all or none."""
        now = int(time.time())
        self._cache.add(
            (
                (
                    self._keys.key(sample),
                    self._keys.description,
                    Judgement(SCORED, text=orjson.dumps(value).decode()),
                    now,
                )
                for sample, value in values
            ),
            replace=True,
        )
