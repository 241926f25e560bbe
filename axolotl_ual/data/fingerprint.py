"""What an annotated copy was made from, and whether that is still what the recipe names.

A local file or folder is known by the digest of its bytes; data on the Hub by its name, revision
and options, which is all that can be known without a download.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from axolotl_ual.data.files import local_files

DEFAULT_SEED = 42
"""What Axolotl takes where a recipe has no `seed:`."""

_BLOCK = 1 << 20


def plain(value: Any) -> Any:
    """Copy a YAML value into dicts, lists and scalars.

    Axolotl's own mapping answers None for any key, and pydantic models and tuples do not
    compare equal to what JSON gives back; plain containers do.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def fingerprint(entry: Mapping[str, Any], seed: int | None = None) -> str:
    """Digest of a `datasets:` entry and, for local paths, of the bytes it names.

    Args:
        entry: one entry of `datasets:` as the recipe spells it.
        seed: of the recipe, which decides what lies in a shard; None is Axolotl's default.

    Returns:
        64 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps(plain(entry), sort_keys=True, default=str).encode())
    if entry.get("shards"):
        digest.update(f"\0seed {DEFAULT_SEED if seed is None else seed}".encode())
    for path in local_files(entry):
        digest.update(b"\0" + path.name.encode() + b"\0" + file_digest(path).encode())
    return digest.hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()
