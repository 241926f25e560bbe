"""The recipes that come with the package, and the files that they name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import yaml

from axolotl_ual.errors import ConfigError

PACKAGE: Final = "axolotl_ual.recipes"
_SUFFIX: Final = ".yaml"


@dataclass(frozen=True, slots=True)
class Shipped:
    """A recipe of the package.

    Attributes:
        name: its file name without the suffix.
        title: the first line of the file, less the comment sign.
        text: the whole file.
    """

    name: str
    title: str
    text: str

    @property
    def raw(self) -> dict[str, Any]:
        """The recipe as a mapping."""
        loaded: dict[str, Any] = yaml.safe_load(self.text)
        return loaded

    def files(self) -> dict[str, str]:
        """Every file that a run of it reads, relative path -> text; the recipe itself first."""
        return {
            self.name + _SUFFIX: self.text,
            **{path: (_folder() / path).read_text("utf-8") for path in named_files(self.raw)},
        }


def shipped() -> list[Shipped]:
    """All recipes, by name."""
    return [_read(path) for path in sorted(_folder().glob("*" + _SUFFIX))]


def find(name: str) -> Shipped:
    """The recipe of a name, with or without `.yaml`.

    Raises:
        ConfigError: there is none, with the nearest name.
    """
    recipes = {recipe.name: recipe for recipe in shipped()}
    wanted = name.removesuffix(_SUFFIX)
    if wanted in recipes:
        return recipes[wanted]
    near = difflib.get_close_matches(wanted, recipes, n=1, cutoff=0.4)
    hint = f"did you mean `{near[0]}`?" if near else "see `axolotl-ual recipes list`"
    raise ConfigError(f"there is no recipe {wanted}", hint)


def named_files(raw: Mapping[str, Any]) -> Iterator[str]:
    """Paths of the files beside a recipe that Axolotl reads: its DeepSpeed configuration."""
    value = raw.get("deepspeed")
    if isinstance(value, str):
        yield value


def _read(path: Path) -> Shipped:
    text = path.read_text(encoding="utf-8")
    title = text.partition("\n")[0].removeprefix("#").strip()
    return Shipped(path.stem, title, text)


def _folder() -> Path:
    return Path(str(files(PACKAGE)))
