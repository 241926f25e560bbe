"""What a command says at its end: of a plan with --dry-run, or of what was written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from axolotl_ual.columns import Manifest

from ..calls.budget import usage_line
from ..calls.plan import Plan


def print_plan(head: Sequence[str], plan: Plan, console: Console) -> None:
    """Print the answer to --dry-run: the head, then the plan's lines below it."""
    for line in [*head, *(f"  {line}" for line in plan.lines)]:
        console.print(line, highlight=False)
    if plan.requests:
        console.print("axolotl-ual probe shows how these servers answer, by three requests to each")
    console.print("dry run: nothing was sent and nothing was written")


def images_line(images: Mapping[str, Any]) -> str:
    """What a manifest says of rows with images, in a sentence."""
    head = f"{images['rows']:,} rows have images"
    if not images["seen"]:
        return f"{head}: their text alone was judged"
    parts = [f"{head}: {images['sent']:,} images were judged with their text"]
    if images["by_address"]:
        parts.append(f"{images['by_address']:,} of them by their address on the web")
    if images["beyond_the_first"]:
        parts.append(
            f"{images['beyond_the_first']:,} behind the first of a column were not, and are not "
            "trained"
        )
    return ", ".join(parts)


def print_written(
    manifest: Manifest, smoothed: str, output: Path, recipe: Path, console: Console
) -> None:
    """Print usage, smoothing, stages, and what to do next.

    Args:
        manifest: that was written.
        smoothed: what the smoothing is of.
        output: the folder.
        recipe: what was run, and can be trained with.
        console: to print to.
    """
    usage = manifest.usage
    if usage.requests or usage.cached:
        console.print(usage_line(usage), highlight=False)
    stages = ", ".join(f"{name} {number:,}" for name, number in manifest.stages.items())
    console.print(
        f"{smoothed} mean {manifest.smoothing['mean']:.6f}, "
        f"largest {manifest.smoothing['max']:.4f}; stages: {stages}",
        highlight=False,
    )
    console.print(f"wrote {output}; next: axolotl train {recipe}", highlight=False)
