"""`axolotl-ual launch`: a recipe as a chain of cluster jobs."""

from __future__ import annotations

import shlex
from pathlib import Path

from rich.console import Console

from ..data.recipe import read_yaml
from ..launching.chain import maker_of, write_chain
from ..launching.config import parse_launch
from ..launching.steps import AXOLOTL_OUTPUT, Job


def launch(recipe: Path, where: Path, dry_run: bool, console: Console) -> None:
    """Write the job files of a recipe, and hand them to the scheduler.

    Args:
        recipe: the YAML file, as jobs find it from the working folder.
        where: the file that says where it runs.
        dry_run: only write the job files.
        console: where to.
    """
    config = parse_launch(read_yaml(where), str(where))
    raw = read_yaml(recipe)
    job = Job(
        str(recipe),
        maker_of(raw),
        output=str(raw.get("output_dir") or AXOLOTL_OUTPUT),
        again=shlex.join(["axolotl-ual", "launch", str(recipe), "--on", str(where)]),
    )
    chain = write_chain(config, job)
    for path in chain.paths:
        console.print(f"wrote {path}", highlight=False)
    if dry_run:
        console.print("submitted nothing (--dry-run)", highlight=False)
        return
    for number in chain.submit():
        console.print(f"submitted {number}", highlight=False)
