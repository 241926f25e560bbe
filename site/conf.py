"""The site: `make site` builds `build/site` from the Markdown pages, warnings as errors.

Pages are plain Markdown, which people and coding agents read as it is. What a site needs beyond
that is added here: the order of pages, addresses of files outside of `docs/`, the Markdown of each
page beside it, and `llms.txt`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import axolotl_ual

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/axolotl-ual/axolotl-ual"
INDEX = "index"
ERRORS = "errors"
"""A page that is written when the site is built, from the source of the package."""

project = "axolotl-ual"
author = "The axolotl-ual authors"
project_copyright = author
release = version = axolotl_ual.__version__
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"axolotl-ual {version}"
html_copy_source = False
html_theme_options = {"source_repository": REPOSITORY, "source_directory": "docs/"}


def outside_links(text: str) -> str:
    """Give links to files of the repository that are no pages their address there."""
    return re.sub(r"\]\((?:\.\./)([^)\s]+)\)", rf"]({REPOSITORY}/blob/main/\1)", text)


def llms_txt(text: str) -> str:
    """The repository's `llms.txt` as one that lies beside the pages."""
    return outside_links(re.sub(r"\]\((?!docs/|https?:)", "](../", text)).replace("](docs/", "](")


def _prepare(app: Any, name: str, source: list[str]) -> None:
    source[0] = outside_links(source[0])
    if name == INDEX:
        pages = dict.fromkeys([*re.findall(r"\]\(([\w-]+)\.md\)", source[0]), ERRORS])
        source[0] += "\n```{toctree}\n:hidden:\n\n" + "\n".join(pages) + "\n```\n"


def _add_markdown(app: Any, error: Exception | None) -> None:
    if error is not None:
        return
    output = Path(app.outdir)
    for name in app.env.found_docs:
        text = Path(app.env.doc2path(name)).read_text(encoding="utf-8")
        (output / f"{name}.md").write_text(outside_links(text), encoding="utf-8")
    text = (ROOT / "llms.txt").read_text(encoding="utf-8")
    (output / "llms.txt").write_text(llms_txt(text), encoding="utf-8")


def setup(app: Any) -> None:
    """Connect what is added to the pages."""
    app.connect("source-read", _prepare)
    app.connect("build-finished", _add_markdown)
