"""Arrays and texts as they lie in a page: gzip, then base64.

The page decodes the arrays at once and a block of texts when one of its rows is shown. The same
content gives the same bytes.
"""

from __future__ import annotations

import base64
import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import orjson

BLOCK_BYTES: Final = 64 * 1024
"""Of records in a block, before compression."""
_LEVEL: Final = 6
_TYPES: Final = {"float32": "f4", "uint32": "u4", "uint16": "u2", "uint8": "u1"}


@dataclass(frozen=True, slots=True)
class Blocks:
    """Records in blocks.

    Attributes:
        blocks: packed blocks, each a JSON list of records.
        block: uint16 of shape (T,), the block of each record.
        place: uint16 of shape (T,), its place in the block.
    """

    blocks: list[str]
    block: npt.NDArray[np.uint16]
    place: npt.NDArray[np.uint16]

    @property
    def size(self) -> int:
        """Characters of all blocks."""
        return sum(map(len, self.blocks))


def pack(data: bytes) -> str:
    """Bytes as base64 of their gzip."""
    return base64.b64encode(gzip.compress(data, _LEVEL, mtime=0)).decode("ascii")


def pack_json(value: Any) -> str:
    """A JSON value, packed; NaN as null."""
    return pack(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY))


def pack_arrays(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Arrays one after the other behind a JSON header of [name, type, length], packed.

    The header ends with a line feed and is filled up with blanks so that all arrays begin at a
    multiple of four bytes.
    """
    header, body = [], []
    for name, array in arrays.items():
        kind = _TYPES[array.dtype.name]
        raw = array.astype(f"<{kind}").tobytes()
        header.append([name, kind, int(array.size)])
        body.append(raw + b"\0" * (-len(raw) % 4))
    head = orjson.dumps(header)
    return pack(head + b" " * (-(len(head) + 1) % 4) + b"\n" + b"".join(body))


def pack_blocks(records: Sequence[bytes]) -> Blocks:
    """Records, in their order, in blocks of about BLOCK_BYTES."""
    blocks: list[str] = []
    block = np.zeros(len(records), dtype=np.uint16)
    place = np.zeros(len(records), dtype=np.uint16)
    pending: list[bytes] = []
    size = 0
    for number, record in enumerate(records):
        if pending and size + len(record) > BLOCK_BYTES:
            blocks.append(pack(b"[" + b",".join(pending) + b"]"))
            pending, size = [], 0
        block[number], place[number] = len(blocks), len(pending)
        pending.append(record)
        size += len(record)
    if pending:
        blocks.append(pack(b"[" + b",".join(pending) + b"]"))
    return Blocks(blocks, block, place)
