"""`agent-docs`: the documentation as Markdown, page by page.

Every key, command, rule and error is told by the package itself. All else is written in `docs/`,
which an installed package carries as `axolotl_ual.docs`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from inspect import cleandoc
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin

import click
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.ual import UALConfig

from .messages import errors_page
from .support import support_page

PACKAGE: Final = "axolotl_ual.docs"
INDEX: Final = "index"
_LINK: Final = re.compile(r"\]\(([\w-]+)\.md\)")


def written_pages() -> dict[str, str]:
    """Pages of the package by topic, the index first and the others in its order."""
    folder = Path(str(files(PACKAGE)))
    texts = {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.md"))}
    order = dict.fromkeys([INDEX, *_LINK.findall(texts[INDEX]), *texts])
    return {name: texts[name] for name in order if name in texts}


def commands_page(main: click.Group) -> str:
    """Every command with its help and options."""
    parts = ["# Commands\n\nWritten by `axolotl-ual agent-docs commands`.\n"]
    for name, command in _commands(main, "axolotl-ual"):
        usage = " ".join([name, *(param.human_readable_name for param in _arguments(command))])
        parts.append(f"\n## `{usage}`\n\n{cleandoc(command.help or '')}\n")
        options = [param for param in command.params if isinstance(param, click.Option)]
        if options:
            parts.append("\n| option | value | meaning |\n|---|---|---|\n")
            parts += [_table_row(_option(option)) for option in options]
    return "".join(parts)


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for child in sorted(command.commands):
            yield from _commands(command.commands[child], f"{name} {child}")


def _arguments(command: click.Command) -> list[click.Parameter]:
    return [param for param in command.params if isinstance(param, click.Argument)]


def _option(option: click.Option) -> list[str]:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag else option.metavar or option.type.name
    default = f" Default: `{option.default}`." if option.show_default is True else ""
    needed = " Needed." if option.required else ""
    return [names, value, f"{option.help or ''}{needed}{default}"]


def _table_row(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |\n"


def settings_page() -> str:
    """Every key of the `ual:` block: values, default, meaning."""
    parts = ["# Settings\n\nWritten by `axolotl-ual agent-docs settings`.\n"]
    for name, section in _sections("ual", UALConfig):
        said = " ".join((section.__doc__ or "").split())
        parts += [f"\n## `{name}`\n\n{said}\n\n| key | values | default | meaning |\n"]
        parts.append("|---|---|---|---|\n")
        parts += [_row(field.alias or key, field) for key, field in section.model_fields.items()]
    return "".join(parts)


def _sections(name: str, section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    yield name, section
    for key, field in section.model_fields.items():
        for inner in _models(field.annotation):
            yield from _sections(f"{name}.{field.alias or key}", inner)


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _row(key: str, field: FieldInfo) -> str:
    nested = list(_models(field.annotation))
    values = "section" if nested else _values(field.annotation, field)
    meaning = field.description or " ".join((nested[0].__doc__ or "").split() if nested else [])
    return _table_row([f"`{key}`", values, _default(field), meaning])


def _values(annotation: Any, field: FieldInfo) -> str:
    kind = _kind(annotation)
    bounds = [
        f"{sign} {getattr(part, name):g}"
        for part in field.metadata
        for name, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
        if isinstance(getattr(part, name, None), (int, float))
    ]
    return ", ".join([kind, *bounds])


def _kind(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(_kind(part) for part in parts if part is not NoneType)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"map of {_kind(parts[-1])}"
    if origin in (list, tuple):
        kinds = dict.fromkeys(_kind(part) for part in parts if part is not Ellipsis)
        return f"list of {' and '.join(kinds)}"
    if origin is not None:
        return _kind(parts[0])
    return {"str": "text", "int": "integer", "float": "number", "bool": "true or false"}.get(
        getattr(annotation, "__name__", ""), "any"
    )


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.get_default(call_default_factory=True, validated_data={})
    if isinstance(value, BaseModel):
        return ""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        value = list(value)
    return f"`{value}`"


def generated_pages(main: click.Group) -> dict[str, str]:
    """Pages that this version tells by itself."""
    return {
        "settings": settings_page(),
        "commands": commands_page(main),
        "support": support_page(),
        "errors": errors_page(),
    }


def documents(main: click.Group) -> dict[str, str]:
    """All pages by topic."""
    return {**written_pages(), **generated_pages(main)}


def show_documents(main: click.Group, topic: str | None) -> None:
    """Print a page, or the topics that there are.

    Raises:
        ConfigError: there is no such topic.
    """
    pages = documents(main)
    if topic is None:
        for name, text in pages.items():
            click.echo(f"{name:28} {_title(text)}")
        click.echo("next: axolotl-ual agent-docs TOPIC")
    elif topic in pages:
        click.echo(pages[topic], nl=False)
    else:
        nearest = difflib.get_close_matches(topic, pages, n=1)
        hint = f"did you mean `{nearest[0]}`?" if nearest else f"topics: {', '.join(pages)}"
        raise ConfigError(f"agent-docs: {topic}: no such topic", hint)


def _title(text: str) -> str:
    return next((line.lstrip("# ") for line in text.splitlines() if line.strip()), "")
