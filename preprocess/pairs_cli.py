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
MAX_COST = click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="Stop before servers cost more in this run; what was answered is kept.",
)
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Tell what would be done and what it would cost; send nothing."
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
@DRY_RUN
@MAX_COST
def pairs(
    recipe: Path,
    output: Path | None,
    from_responses: Path | None,
    limit: int | None,
    dry_run: bool,
    max_cost: float | None,
) -> None:
    """Turn the recipe's prompts into preference pairs, by uncertainty."""
    from .commands.pairs import PairsOptions, make_pairs
    from .progress import make_console

    options = PairsOptions(output, from_responses, limit, dry_run, max_cost)
    make_pairs(recipe, options, make_console())


@click.command()
@RECIPE
@RESPONSES
@click.option(
    "--repeats", type=click.IntRange(min=2), default=3, show_default=True, help="Scorings."
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first prompts.")
@click.option(
    "--against",
    metavar="MODEL",
    help="Another checkpoint to draw evidence from: a folder, or a model's name on the server.",
)
@click.option("--against-adapter", metavar="FOLDER", help="A LoRA adapter for it.")
@DRY_RUN
@MAX_COST
def consistency(
    recipe: Path,
    from_responses: Path | None,
    repeats: int,
    limit: int | None,
    against: str | None,
    against_adapter: str | None,
    dry_run: bool,
    max_cost: float | None,
) -> None:
    """How far do the scores agree when the same responses are scored again?

    Each repeat draws fresh samples as evidence and asks the judge anew. Prints, for each dimension,
    the standard deviation over repeats, the rank correlation between them, and the share of
    response pairs whose order flips; with --against the same between two checkpoints.
    """
    from .commands.consistency import ConsistencyOptions, measure_consistency
    from .progress import make_console

    options = ConsistencyOptions(
        from_responses, repeats, limit, against, against_adapter, dry_run, max_cost
    )
    measure_consistency(recipe, options, make_console())
