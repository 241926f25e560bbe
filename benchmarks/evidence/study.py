"""What the commands of the studies share: their options, and results written run by run.

    python benchmarks/evidence/NAME.py run       from nothing; refused where there are results
    python benchmarks/evidence/NAME.py resume    what is missing
    python benchmarks/evidence/NAME.py render    docs/evidence.md, from the results that are there

A result is a JSON file of its own, written whole when its run ends, with the digest of the part of
`protocol.json` that it was made by. Results of another protocol are refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sources

from axolotl_ual.errors import DataError, UALError

RESULTS = sources.FOLDER / "results"
PROTOCOL = sources.FOLDER / "protocol.json"


@dataclass(frozen=True)
class Results:
    """The results of one study.

    Attributes:
        folder: of its files.
        protocol: what was fixed before the first run.
    """

    folder: Path
    protocol: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """Of the protocol."""
        text = json.dumps(self.protocol, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def has(self, name: str) -> bool:
        """Whether a run has ended."""
        return (self.folder / f"{name}.json").is_file()

    def write(self, name: str, result: Mapping[str, Any]) -> None:
        """Keep the result of a run that has ended."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{name}.json"
        partial = path.with_name(f".{path.name}.partial")
        text = json.dumps({"protocol": self.digest, **rounded(result)}, separators=(",", ":"))
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(path)

    def read(self) -> dict[str, dict[str, Any]]:
        """All results by name.

        Raises:
            DataError: a result was made by another protocol.
        """
        found = {}
        for path in sorted(self.folder.glob("*.json")):
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            if found[path.stem]["protocol"] != self.digest:
                raise DataError(
                    f"{path}: was made by another protocol than protocol.json",
                    "remove it, and make it again with `resume`",
                )
        return found


def rounded(value: Any) -> Any:
    """Floats to six significant digits: what is beyond them is no result."""
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value


def results_of(name: str, results: Path = RESULTS, protocol: Path = PROTOCOL) -> Results:
    """The results of the study of that name."""
    fixed = json.loads(protocol.read_text(encoding="utf-8"))
    return Results(results / name, fixed[name])


@dataclass(frozen=True)
class Place:
    """Where a study reads and works.

    Attributes:
        sources: the data.
        work: folder for the model, annotations and other things that can be made again.
        model: folder of a model that takes the place of the study's, or None.
    """

    sources: sources.Sources
    work: Path
    model: Path | None


def main(
    name: str, describe: str, make: Callable[[Results, Place], None], words: Sequence[str] | None
) -> None:
    """The command line of a study."""
    parser = argparse.ArgumentParser(description=describe.splitlines()[0])
    parser.add_argument("action", choices=["run", "resume", "render"])
    parser.add_argument("--data", type=Path, default=Path("evidence-data"))
    parser.add_argument("--work", type=Path, default=Path("evidence-work"))
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--protocol", type=Path, default=PROTOCOL)
    parser.add_argument("--lock", type=Path, default=sources.LOCK)
    parser.add_argument("--model", type=Path, help="in the place of SmolLM2, for a try")
    parser.add_argument("--page", type=Path, help="where `render` writes")
    args = parser.parse_args(words)
    results = results_of(name, args.results, args.protocol)
    try:
        if args.action == "render":
            import page

            page.write(args.results, args.protocol, args.page or page.PAGE)
            return
        if args.action == "run" and results.folder.is_dir() and any(results.folder.iterdir()):
            raise DataError(f"{results.folder}: holds results", "say `resume` to add to them")
        make(results, Place(sources.Sources(args.data, args.lock), args.work, args.model))
    except UALError as error:
        parser.exit(1, f"{error}\n")
