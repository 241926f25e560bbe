"""One self-contained HTML page: styles, scripts, data and Plotly in one file, and no network.

A page extends `page.html.jinja` of this folder (header, tiles, sections of figures, theme switch)
and gives its figures and packed data. `static/base.js` draws every `Figure` when it comes into
view, in the colours of the theme. A policy in the page's head forbids every request, and every
script but those whose digests it names: text of a dataset or a model stays text.

    render("report.html.jinja", "axolotl_ual.preprocess.report", figures, scripts=[...], title=...)
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any, Final

import jinja2
from markupsafe import Markup

from axolotl_ual import __version__

from .figure import Figure, count, number, share
from .pack import pack, pack_json

PACKAGE: Final = "axolotl_ual.preprocess.report"
FIGURES: Final = "figures"
PLOTLY: Final = "plotly"


def render(
    template: str,
    package: str,
    figures: Iterable[Figure],
    *,
    title: str,
    scripts: Sequence[tuple[str, str]] = (),
    styles: Sequence[tuple[str, str]] = (),
    packed: Mapping[str, str] | None = None,
    blocks: Sequence[str] = (),
    filters: Mapping[str, Callable[..., str]] | None = None,
    **context: Any,
) -> str:
    """The HTML of a page.

    Args:
        template: its file in `templates/` of the package; it extends `page.html.jinja`.
        package: where that folder is.
        figures: all that the template shows.
        title: of the page.
        scripts: further scripts as (package, name of a file in its `static/`), in their order.
        styles: further style sheets, likewise.
        packed: further data by name, each from `pack`.
        blocks: packed blocks of records.
        filters: of the template, beside `count` and `number`, or in their place.
        context: what the template needs beside them.
    """
    script = "\n".join(static(*place) for place in [(PACKAGE, "base.js"), *scripts])
    shown = list(figures)
    data = {FIGURES: pack_json([figure.data() for figure in shown]), **(packed or {})}
    if shown:
        data[PLOTLY] = packed_plotly()
    environment = jinja2.Environment(
        loader=jinja2.ChoiceLoader([jinja2.PackageLoader(package), jinja2.PackageLoader(PACKAGE)]),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"count": count, "number": number, **(filters or {})}
    environment.globals["share"] = share
    return environment.get_template(template).render(
        title=title,
        version=__version__,
        style=Markup("\n".join(static(*place) for place in [(PACKAGE, "page.css"), *styles])),
        script=Markup(script),
        policy=policy([script, *([plotly()] if shown else [])]),
        packed=data,
        blocks=blocks,
        **context,
    )


def static(package: str, name: str) -> str:
    """A file of a package's `static/`, safe inside a script or style element.

    Raises:
        ValueError: the file would end the element that it stands in.
    """
    text = files(package).joinpath("static", name).read_text(encoding="utf-8")
    if "</" in text:
        raise ValueError(f"{package}/static/{name}: holds `</`, which would end its element")
    return text


def policy(scripts: Iterable[str]) -> str:
    """A content security policy that allows these scripts and no request."""
    allowed = " ".join(f"'sha256-{digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def digest(script: str) -> str:
    """SHA-256 of a script's text, as policies write it."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")


@cache
def plotly() -> str:
    """The source of Plotly that is installed, with its licence."""
    from plotly.offline import get_plotlyjs

    source: str = get_plotlyjs()
    return source


@cache
def packed_plotly() -> str:
    """Plotly as it lies in a page."""
    return pack(plotly().encode())
