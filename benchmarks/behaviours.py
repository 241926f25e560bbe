"""What servers do, against what `annotate` makes of it: one line for each behaviour of the table.

    python benchmarks/behaviours.py [--output behaviours.md]

Every behaviour of `tests/kit/behaviours/` is served over real HTTP, and the real `annotate` runs
against it three times: once; once more, which must not ask again for rows that were answered; and
with `--max-cost` at half of what the first run was charged, which must not be passed. A row of the
table tells the outcome, requests, seconds, the longest time without a line, answers that were paid
and lost, misread rows, and whether the limit was passed. The last line counts them all.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "kit"))

from behaviour_runs import USD_A_TOKEN, Outcome, run
from behaviour_server import serving
from behaviours import BEHAVIOURS

_HEAD = (
    "| behaviour | source | outcome | requests | s | longest silence, s | paid and lost | misread "
    "| --max-cost |\n|---|---|---|---|---|---|---|---|---|\n"
)
_NO_ANSWERS = "gives no answers"


def outcome_of(one: Outcome, rows: int) -> str:
    """In a few words."""
    if one.error:
        return "error: " + one.error.split("\n")[0].replace("|", "/")[:110]
    failures = ", ".join(f"{n} {reason}" for reason, n in one.manifest["failures"].items())
    return f"{one.scored} of {rows} scored" + (f" ({failures})" if failures else "")


def paid_again(first: Outcome, second: Outcome) -> int:
    """Rows that were answered in both of two runs; what was broken off on its way is no answer."""
    if _NO_ANSWERS in first.error:
        return 0
    return len(first.completed & second.completed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    lines, lost, misread, passed, silent = [], 0, 0, 0, 0
    with serving() as root, tempfile.TemporaryDirectory() as scratch:
        for name, tried in BEHAVIOURS.items():
            folder = Path(scratch) / name
            first = run(folder / "all", root, name)
            digits = tried.judge.get("score") == "expected" and "verbalized" not in tried.says
            wrong = len(first.misread(digits))
            again = paid_again(first, run(folder / "all", root, name))
            charged = first.charged * USD_A_TOKEN
            limit = "-"
            if charged:
                half = run(folder / "half", root, name, charged / 2)
                is_passed = half.charged * USD_A_TOKEN > charged / 2
                limit = "passed" if is_passed else "kept"
                passed += is_passed
            is_silent = first.silence > tried.judge.get("patience", 30) + 1
            lost, misread, silent = lost + again, misread + wrong, silent + is_silent
            lines.append(
                f"| {name} | {tried.source} | {outcome_of(first, tried.rows)} | {first.requests} | "
                f"{first.seconds:.1f} | {first.silence:.1f} | {again} | {wrong} | {limit} |\n"
            )
            print(lines[-1], end="", flush=True)
    last = (
        f"\n{len(lines)} behaviours: {lost} paid answers lost, {misread} rows misread, "
        f"{passed} passed --max-cost, {silent} were silent for longer than patience\n"
    )
    print(last)
    if arguments.output is not None:
        arguments.output.write_text(_HEAD + "".join(lines) + last)


if __name__ == "__main__":
    main()
