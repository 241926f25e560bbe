"""`axolotl-ual recipes`: recipes to start from, checked, copied, and read out of model cards."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from axolotl_ual.errors import ConfigError, UALError
from axolotl_ual.settings.ual import parse_ual

from ..data.card_recipe import recipe_of_card
from ..data.recipe import read_yaml
from ..data.shipped import find, named_files, shipped
from .check import (
    Findings,
    ask_axolotl,
    axolotl_is_installed,
    examine,
    opinion,
    print_findings,
)


def list_recipes(console: Console) -> None:
    """Print the name and the title of every recipe of the package."""
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for recipe in shipped():
        table.add_row(recipe.name, recipe.title)
    console.print(table, highlight=False)
    console.print("next: axolotl-ual recipes copy NAME", highlight=False)


def show_recipe(name: str) -> None:
    """Print a recipe of the package as it stands, fit for a file."""
    click.echo(find(name).text, nl=False)


def copy_recipe(name: str, folder: Path, console: Console) -> None:
    """Write a recipe of the package and what it names to a folder.

    A file that is there already with the same text stays; none is overwritten.

    Raises:
        ConfigError: there is no such recipe, or a file of that name has another text.
    """
    files = {folder / path: text for path, text in find(name).files().items()}
    for path, text in files.items():
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path}: is there already, with another text",
                "move it away, or copy to another folder with --to",
            )
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        console.print(f"wrote {path}", highlight=False)


def check_recipes(paths: Sequence[Path], console: Console) -> bool:
    """Check recipes as they stand, before there are annotations, and print the results.

    Returns:
        Whether nothing is wrong with any.
    """
    found = {path: examine(path) for path in paths}
    readable = [path for path, findings in found.items() if findings.readable]
    said = ask_axolotl(readable) if readable and axolotl_is_installed() else {}
    return all([_tell(path, findings, said.get(path), console) for path, findings in found.items()])


def _tell(
    path: Path, findings: Findings, said: list[str] | UALError | None, console: Console
) -> bool:
    """Print what was found out about a recipe, with what Axolotl said of it."""
    following = f"axolotl train {path}"
    if not findings.readable:
        return print_findings(findings, path, following, console)
    if findings.missing is not None:
        findings.problems.remove(findings.missing)
    if said is None:
        findings.facts.append("Axolotl is not installed here, so its own keys were not looked at")
    else:
        if not isinstance(said, UALError):
            said = [problem for problem in said if problem != findings.missing]
        _add(findings, opinion(said, findings.problems))
    recipe = read_yaml(path)
    for name in named_files(recipe):
        _add(findings, _look_at(name, path))
    if findings.missing is not None:
        following = f"axolotl-ual {_maker(recipe)} {path}"
    return print_findings(findings, path, following, console)


def _add(findings: Findings, found: Iterable[str | UALError]) -> None:
    for item in found:
        (findings.problems if isinstance(item, UALError) else findings.facts).append(str(item))


def _maker(recipe: Mapping[str, Any]) -> str:
    """The command that makes what the recipe trains on."""
    return "pairs" if recipe.get("rl") and parse_ual(recipe.get("ual")).pairs else "annotate"


def _look_at(name: str, path: Path) -> Iterator[str | UALError]:
    """Is the DeepSpeed file there that Axolotl reads beside the recipe?"""
    beside = path.parent / name
    file = Path(name) if Path(name).is_file() else beside
    if not file.is_file():
        yield ConfigError(
            f"{path}: deepspeed: {name}: no such file, neither in the working folder nor beside "
            "the recipe",
            "`axolotl-ual recipes copy` writes the DeepSpeed file of a recipe, too",
        )
        return
    try:
        stage = json.loads(file.read_text(encoding="utf-8"))["zero_optimization"]["stage"]
    except (KeyError, TypeError, ValueError) as error:
        yield ConfigError(
            f"{file}: no DeepSpeed configuration with a `zero_optimization.stage`: {error!r}",
            "mend the file, or take one of `axolotl-ual recipes copy`",
        )
        return
    where = "" if Path(name).is_file() else f"; lies beside the recipe, so train in {path.parent}"
    yield f"deepspeed: {name}: ZeRO-{stage}{where}"


def take_from_card(model: str, output: Path | None, console: Console) -> None:
    """Print or write the recipe that a model was trained with.

    Raises:
        ConfigError: there is no card, no recipe in it, or the file is there already.
    """
    text = recipe_of_card(model)
    if output is None:
        click.echo(text, nl=False)
        return
    if output.exists():
        raise ConfigError(f"{output}: is there already", "move it away, or name another --output")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(text, encoding="utf-8")
    console.print(f"wrote {output}; next: axolotl-ual recipes check {output}", highlight=False)
