"""The command line: parse, call the pipeline, print. `axolotl-ual` and `axolotl ual` are the same.

Nothing heavy is imported before a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from axolotl_ual import __version__
from axolotl_ual.errors import UALError

if TYPE_CHECKING:
    from rich.console import Console

RECIPE = click.argument(
    "recipe", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="RECIPE.yaml"
)
RESPONSES = click.option(
    "--from-responses",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Score these responses (.parquet or .jsonl) instead of sampling.",
)
DRY_RUN = click.option(
    "--dry-run", is_flag=True, help="Tell what would be done and what it would cost; send nothing."
)
MAX_COST = click.option(
    "--max-cost",
    type=click.FloatRange(min=0, min_open=True),
    metavar="USD",
    help="Stop before servers cost more in this run; what was answered is kept.",
)
RETRY_FAILED = click.option(
    "--retry-failed",
    is_flag=True,
    help="Ask again where an earlier answer gave no score: refused, unparsable, cut, too long.",
)
REPORT = click.option(
    "--report/--no-report", default=True, help="Write report.html at the end; default: yes."
)


class FriendlyGroup(click.Group):
    """Prints our own errors without a traceback, and exits with status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except UALError as error:
            click.secho("error: ", fg="red", bold=True, nl=False, err=True)
            click.echo(str(error), err=True)
            ctx.exit(1)
        except KeyboardInterrupt:
            click.echo(
                "interrupted; answers that were had are kept in the cache, nothing was written",
                err=True,
            )
            ctx.exit(130)


@click.group(cls=FriendlyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="axolotl-ual")
def main() -> None:
    """Fine-tune with uncertainty in mind: annotate a dataset, then `axolotl train`."""


@main.command()
@RECIPE
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write instead of the recipe's ual.annotate.output.",
)
@click.option(
    "--limit",
    type=click.IntRange(min=1),
    help="Annotate only the first rows of each dataset: a trial, not something to train on.",
)
@DRY_RUN
@MAX_COST
@RETRY_FAILED
@REPORT
@click.option(
    "--audit",
    type=click.IntRange(min=2),
    metavar="N",
    help="Judge N rows five times each and tell whether the judge agrees with itself.",
)
def annotate(recipe: Path, **given: Any) -> None:
    """Give every row of the recipe's datasets its uncertainty and label smoothing."""
    from .commands.annotate import AnnotateOptions
    from .commands.annotate import annotate as run

    options = AnnotateOptions(**given)
    if options.audit is not None and options.dry_run:
        raise click.UsageError("--audit sends requests and --dry-run none: choose one")
    run(recipe, options, _console())


@main.command()
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
@RETRY_FAILED
@REPORT
def pairs(recipe: Path, **given: Any) -> None:
    """Turn the recipe's prompts into preference pairs, by uncertainty."""
    from .commands.pairs import PairsOptions, make_pairs

    make_pairs(recipe, PairsOptions(**given), _console())


@main.command()
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
@RETRY_FAILED
def consistency(recipe: Path, **given: Any) -> None:
    """How far do the scores agree when the same responses are scored again?

    Each repeat draws fresh samples as evidence and asks the judge anew. Prints, for each dimension,
    the standard deviation over repeats, the rank correlation between them, and the share of
    response pairs whose order flips; with --against the same between two checkpoints.
    """
    from .commands.consistency import ConsistencyOptions, measure_consistency

    measure_consistency(recipe, ConsistencyOptions(**given), _console())


@main.command()
@RECIPE
@click.option(
    "--runs",
    multiple=True,
    required=True,
    metavar="NAME[=FOLDER],...",
    help="What to measure: base, and folders of adapters or models. Runs of one name are seeds.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="Held-out rows, spelled like the recipe's first dataset.",
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write instead of the recipe's ual.evaluate.output.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first held-out rows.")
@click.option("--by", multiple=True, metavar="COLUMN", help="Group rows by this column as well.")
@click.option("--against", metavar="NAME", help="The run that the others are compared with.")
@MAX_COST
@RETRY_FAILED
def evaluate(
    recipe: Path,
    runs: tuple[str, ...],
    data: tuple[Path, ...],
    output: Path | None,
    limit: int | None,
    by: tuple[str, ...],
    against: str | None,
    max_cost: float | None,
    retry_failed: bool,
) -> None:
    """Measure the base model and what was trained from it on held-out rows, and compare.

    Likelihood, calibration, entropy and, where rows have an answer, exact match; by stage and by
    quantile of uncertainty. Differences are paired by prompt. Writes evaluation.json, .md, .html.
    """
    from .commands.evaluate import EvaluateOptions
    from .commands.evaluate import evaluate as run

    options = EvaluateOptions(runs, data, output, limit, by, against, max_cost, retry_failed)
    run(recipe, options, _console())


@main.command()
@RECIPE
@click.option(
    "--over",
    multiple=True,
    metavar="KEY=V1,V2",
    help="A key of the recipe and its values; several make a grid.",
)
@click.option(
    "--control",
    multiple=True,
    metavar="NAME,...",
    help="sft, constant, shuffled, decreasing, length; no-semantic, no-factual, no-value.",
)
@click.option(
    "--seeds", type=click.IntRange(min=1), default=3, show_default=True, help="Runs of each point."
)
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("ablation"),
    show_default=True,
    help="Folder of runs and evaluation.",
)
@click.option(
    "--launcher",
    metavar="COMMAND",
    help="What trains a recipe and returns when it is done; {recipe} in it is the file. "
    "Default: axolotl train.",
)
@click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Runs that train at the same time.",
)
@click.option(
    "--data",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    metavar="FILE",
    help="Held-out rows, spelled like the recipe's first dataset.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Only the first held-out rows.")
@click.option("--by", multiple=True, metavar="COLUMN", help="Group rows by this column as well.")
@click.option("--against", metavar="NAME", help="The point that the others are compared with.")
@DRY_RUN
@MAX_COST
@RETRY_FAILED
def ablate(
    recipe: Path,
    over: tuple[str, ...],
    control: tuple[str, ...],
    seeds: int,
    output: Path,
    launcher: str | None,
    jobs: int,
    data: tuple[Path, ...],
    limit: int | None,
    by: tuple[str, ...],
    against: str | None,
    dry_run: bool,
    max_cost: float | None,
    retry_failed: bool,
) -> None:
    """Train a grid of recipes and controls with several seeds, and evaluate them together.

    Each run is an ordinary Axolotl recipe in a folder of its own. Started again, it repeats no run
    that is finished and nothing that was measured.
    """
    from .commands.ablate import AblateOptions
    from .commands.ablate import ablate as run
    from .commands.evaluate import EvaluateOptions

    evaluation = EvaluateOptions((), data, None, limit, by, against, max_cost, retry_failed)
    options = AblateOptions(over, control, seeds, output, launcher, jobs, dry_run, evaluation)
    run(recipe, options, _console())


@main.command()
@RECIPE
@click.pass_context
def check(ctx: click.Context, recipe: Path) -> None:
    """Is everything there for `axolotl train`, and what will it do?

    Ends with status 1 and the reasons when something is wrong.
    """
    from .commands.check import check as run

    if not run(recipe, _console()):
        ctx.exit(1)


@main.command()
@RECIPE
@click.pass_context
def probe(ctx: click.Context, recipe: Path) -> None:
    """Send three requests to each server of the recipe, and tell what they show.

    Reachable, the model that answers, schema, log-probabilities, thinking, limits, context length,
    price, and one sample judged. Ends with status 1 where a server gives no answer of use.
    """
    from .commands.probe import probe as run

    if not run(recipe, _console()):
        ctx.exit(1)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), metavar="FOLDER")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="HTML file to write instead of report.html in the folder.",
)
@click.option(
    "--rows",
    type=click.IntRange(min=1),
    metavar="N",
    help="At most N rows in the table; default: as many as fit into about 10 MB.",
)
@click.option("--open", "open_after", is_flag=True, help="Show the file in your browser.")
@click.option("--json", "as_json", is_flag=True, help="Print the numbers as JSON; write no file.")
def report(
    folder: Path, output: Path | None, rows: int | None, open_after: bool, as_json: bool
) -> None:
    """Show what `annotate` or `pairs` wrote: one HTML file that needs no network.

    Charts are of all rows; the table holds all of them, or a sample that it states.
    """
    from .commands.report import ReportOptions
    from .commands.report import report as run

    if as_json and (output is not None or open_after):
        raise click.UsageError("--json prints and writes no file: leave out --output and --open")
    run(folder, ReportOptions(output, rows, open_after, as_json), _console())


@main.command()
@RECIPE
@click.option(
    "--on",
    "where",
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.yaml",
    help="Where it runs: `provider: slurm` or `skypilot`, and what each step gets.",
)
@click.option("--dry-run", is_flag=True, help="Write the job files; submit nothing.")
def launch(recipe: Path, where: Path, dry_run: bool) -> None:
    """Run a recipe on a cluster: one job to annotate, one to train, one to evaluate.

    Each begins when the one before has ended well. Launched again, nothing is done twice.
    """
    from .commands.launch import launch as run

    run(recipe, where, dry_run, _console())


@main.group()
def recipes() -> None:
    """Recipes to start from: those of this package, and those in model cards."""


@recipes.command("list")
def list_() -> None:
    """Tell which recipes there are."""
    from .commands.recipes import list_recipes

    list_recipes(_console())


@recipes.command()
@click.argument("name")
def show(name: str) -> None:
    """Print a recipe, with a comment on every key of `ual:`."""
    from .commands.recipes import show_recipe

    show_recipe(name)


@recipes.command()
@click.argument("name")
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    help="Folder to write to; default: the working folder.",
)
def copy(name: str, folder: Path) -> None:
    """Write a recipe, and the DeepSpeed file that it names, to a folder."""
    from .commands.recipes import copy_recipe

    copy_recipe(name, folder, _console())


@recipes.command("check")
@click.argument(
    "files",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE.yaml...",
)
@click.pass_context
def check_files(ctx: click.Context, files: tuple[Path, ...]) -> None:
    """Is a recipe right as it stands? Needs no GPU, no network, no model and no annotations.

    Ends with status 1 and the reasons when something is wrong.
    """
    from .commands.recipes import check_recipes

    if not check_recipes(files, _console()):
        ctx.exit(1)


@recipes.command("from-card")
@click.argument("model")
@click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="File to write instead of printing.",
)
def from_card(model: str, output: Path | None) -> None:
    """Read the recipe out of the card of a model that Axolotl trained.

    MODEL is a README.md, a folder with one, or a model's name on the Hugging Face Hub.
    """
    from .commands.recipes import take_from_card

    take_from_card(model, output, _console())


@main.command()
@click.argument(
    "folder", type=click.Path(exists=True, file_okay=False, path_type=Path), metavar="FOLDER"
)
@click.option("--repo", required=True, metavar="NAME", help="Dataset on the Hub: owner/name.")
@click.option(
    "--annotations-only",
    is_flag=True,
    help="Digests of rows and their columns, no text: `ual.annotations` joins them elsewhere.",
)
@click.option("--public", is_flag=True, help="For all to see; default: private.")
@click.option(
    "--recipe",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="RECIPE.yaml",
    help="What made the folder, to be published as one that needs no judge.",
)
@click.option(
    "--license",
    "licence",
    metavar="ID",
    help="Of what is published, as the Hub spells it (mit, cc-by-4.0, other); asked for.",
)
@click.option(
    "--judge-terms",
    metavar="TEXT",
    help="What the judge's terms say of sharing its answers; asked for where a server was asked.",
)
def publish(folder: Path, licence: str | None, judge_terms: str | None, **given: Any) -> None:
    """Publish what `annotate` or `pairs` wrote on the Hugging Face Hub, private unless told.

    Rows or digests of them, recipe, manifest, report and a card with licence and terms. Needs a
    token that may write (`hf auth login`, or HF_TOKEN).
    """
    from .commands.publish import PublishOptions, asked_judges, published_manifest
    from .commands.publish import publish as run

    judges = asked_judges(published_manifest(folder))
    if licence is None:
        licence = click.prompt("Licence of what is published (mit, cc-by-4.0, other, ...)")
    if judge_terms is None and judges is not None:
        names = ", ".join(judges) or "the judge"
        judge_terms = click.prompt(f"What the terms of {names} say of sharing its answers")
    options = PublishOptions(licence=str(licence), judge_terms=judge_terms, **given)
    run(folder, options, _console())


@main.command("agent-docs")
@click.argument("topic", required=False)
def agent_docs(topic: str | None) -> None:
    """Print the documentation as Markdown: all topics, or one; for people and for coding agents.

    `settings` and `commands` tell every key and every command of this version.
    """
    from .commands.documents import show_documents

    show_documents(main, topic)


@main.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder for data, models and results.",
)
def demo(output: Path) -> None:
    """Watch the whole method work on this machine, without a GPU or a network.

    Makes data of known entropy and a small base model, annotates by perplexity, trains with and
    without uncertainty, and prints a table. Takes a few minutes on two cores.
    """
    from axolotl_ual.demo.run import main as run

    run(output)


@main.group()
def cache() -> None:
    """What was judged before: look at it, share it, take over what others shared."""


FOLDER = click.option(
    "--folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="The recipe's ual.annotate.cache; default: the user's cache directory.",
)


@cache.command()
@FOLDER
def stats(folder: Path | None) -> None:
    """Tell what is in the cache, by model and rubric."""
    from .commands.share import print_stats

    print_stats(folder, _console())


@cache.command("export")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.jsonl[.gz]")
@FOLDER
def export_(file: Path, folder: Path | None) -> None:
    """Write judgements to a file: hashes and scores, no text of yours and none of a model."""
    from .commands.share import export_judgements

    export_judgements(file, folder, _console())


@cache.command("import")
@click.argument(
    "file", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE.jsonl[.gz]"
)
@FOLDER
def import_(file: Path, folder: Path | None) -> None:
    """Add judgements that others exported; what is in the cache already stays as it is."""
    from .commands.share import import_judgements

    import_judgements(file, folder, _console())


def _console() -> Console:
    from .progress import make_console

    return make_console()


if __name__ == "__main__":
    main(prog_name="axolotl-ual")
