"""The commands about preference pairs: parse, call, print."""

from __future__ import annotations

from pathlib import Path

import click

RECIPE = click.argument(
    "recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="RECIPE.yaml"
)
RESPONSES = click.option(
    "--from-responses",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Score these responses (.parquet or .jsonl) instead of sampling.",
)


@click.command()
@RECIPE
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write instead of the recipe's ual.pairs.output.",
)
@RESPONSES
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Only the first prompts of each dataset: a trial, not something to train on.",
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done; send and write nothing.")
def pairs(
    recipe: Path,
    output: Path | None,
    from_responses: Path | None,
    limit: int | None,
    dry_run: bool,
) -> None:
    """Turn the recipe's prompts into preference pairs, by uncertainty."""
    from rich.console import Console

    from .pairs_pipeline import PairsOptions, make_pairs

    options = PairsOptions(output, from_responses, limit, dry_run)
    make_pairs(recipe, options, Console(soft_wrap=True))
