"""`docs/evidence.md`, drawn from the results that are there.

    python benchmarks/evidence/page.py

A study brings a section: its lines, and a verdict for each claim that it tests. A study without
results says so.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import ablated_page
import estimators_page
import exact_page
import staged_page
import training_page
import transitions_page
from study import PROTOCOL, RESULTS, results_of
from verdicts import AGAINST, NOT_RUN, SUPPORTED, UNKNOWN, Claim

PAGE = Path(__file__).resolve().parents[2] / "docs" / "evidence.md"
SECTIONS = {
    "estimators": estimators_page.section,
    "training": training_page.section,
    "ablated": ablated_page.section,
    "staged": staged_page.section,
    "own": staged_page.own_section,
    "transitions": transitions_page.section,
    "exact": exact_page.section,
}
HEAD = """\
# Does it help?

What the two papers claim, tested on real text with a small model, whichever way it came out.
Questions, arms and rules were written down before the first run
([the protocol](../benchmarks/evidence/README.md)); this page is drawn from the results beside them
by `python benchmarks/evidence/page.py`, and a test compares.

The model is SmolLM2-135M-Instruct on a CPU. What is true of 135 million parameters and some dozens
of rows need not be true of a large model: "cannot tell" is what a study of this size says of most
things, and no line here speaks for other sizes.

"Supported" and "not supported" take at least three seeds, and a 95 % interval over rows and seeds
that is on one side of zero, or within the margin around zero that the protocol calls no difference.
All else is "cannot tell". Nothing is corrected for the number of claims.
"""


def text(results: Path = RESULTS, protocol: Path = PROTOCOL) -> str:
    """The page."""
    sections = [draw(results_of(name, results, protocol)) for name, draw in SECTIONS.items()]
    claims = [claim for section in sections for claim in section.claims]
    parts = [HEAD, "## Claims\n", _claims(claims)]
    for section in sections:
        parts += [f"## {section.title}\n", *section.lines]
    return "\n".join(parts).rstrip() + "\n"


def _claims(claims: Sequence[Claim]) -> str:
    lines = ["| claim | verdict | numbers |", "|---|---|---|"]
    lines += [f"| {one.claim} | {one.verdict} | {one.numbers} |" for one in claims]
    return "\n".join(lines) + f"\n\n{_counted(claims)}\n"


def _counted(claims: Sequence[Claim]) -> str:
    """How many claims came out how."""
    number = Counter(claim.verdict for claim in claims)
    each = ", ".join(f"{said}: {number[said]}" for said in (SUPPORTED, AGAINST, UNKNOWN, NOT_RUN))
    return f"Of {len(claims)} claims: {each}."


def write(results: Path = RESULTS, protocol: Path = PROTOCOL, page: Path = PAGE) -> None:
    """Write the page."""
    page.write_text(text(results, protocol), encoding="utf-8")
    print(f"wrote {page}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--page", type=Path, default=PAGE)
    write(page=parser.parse_args().page)


if __name__ == "__main__":
    main()
