"""What is written for people: links lead somewhere, commands exist, messages are the code's."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import click
import pytest

from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.commands.messages import trees, words
from axolotl_ual.preprocess.models.server.dialect import _FORMATS, FALLBACKS

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://github.com/axolotl-ual/axolotl-ual"
FOLDERS = ("docs", "examples", "benchmarks", "tests")
DOCUMENTS = sorted(
    str(path.relative_to(ROOT))
    for path in [
        *ROOT.glob("*.md"),
        ROOT / "llms.txt",
        *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.md")),
    ]
)
FENCE = re.compile(r"^(```+).*?^\1$", re.M | re.S)
CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchors(path: Path) -> set[str]:
    """Anchors of a document's headings, as GitHub and the site make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text(encoding="utf-8")), re.M)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def broken_links(name: str, text: str) -> list[str]:
    """Links of a document to files and anchors that are not there."""
    broken = []
    for link in LINK.findall(CODE.sub("", FENCE.sub("", text))):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (ROOT / name).parent / path if path else ROOT / name
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("name", DOCUMENTS)
def test_no_link_is_broken(name: str) -> None:
    assert not broken_links(name, text_of(name))


def test_a_broken_link_is_found() -> None:
    text = "[a](docs/index.md) [b](docs/none.md) [c](docs/cost.md#less) [d](docs/cost.md#none)"
    assert broken_links("README.md", text) == ["docs/none.md", "docs/cost.md#none"]


def test_every_page_is_in_the_lists_of_pages() -> None:
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"index.md"}
    assert len(pages) > 15
    assert pages == set(re.findall(r"\]\(([\w-]+\.md)\)", text_of("docs/index.md")))
    for name in ("README.md", "llms.txt"):
        assert pages <= set(re.findall(r"\]\(docs/([\w-]+\.md)\)", text_of(name))), name


def commands(text: str) -> list[list[str]]:
    """Commands of ours in the shell blocks of a document, as words."""
    blocks = "\n".join(re.findall(r"```bash\n(.*?)```", text, re.S)).replace("\\\n", " ")
    lines = [line.partition(" #")[0] for line in blocks.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith("axolotl-ual ")]


@pytest.mark.parametrize("name", [name for name in DOCUMENTS if commands(text_of(name))])
def test_commands_are_spelt_as_they_are(name: str) -> None:
    for _, *given in commands(text_of(name)):
        command: click.Command = main
        while isinstance(command, click.Group) and given[:1] != ["--help"]:
            assert given[0] in command.commands, given
            command = command.commands[given.pop(0)]
        options = {spelling for param in command.params for spelling in param.opts}
        named = {word.partition("=")[0] for word in given if word.startswith("--")}
        assert named <= options | {"--help"}, (command.name, named - options)


def test_messages_of_troubleshooting_are_the_codes() -> None:
    rows = re.findall(r"^\| `(.+?)` \|", text_of("docs/troubleshooting.md"), re.M)
    assert len(rows) > 30
    said = [" ".join(text.split()) for text in spoken()]
    for row in rows:
        wanted = re.compile(".*".join(map(re.escape, row.strip(". ").split("..."))))
        assert any(wanted.search(text) for text in said), row


def spoken() -> list[str]:
    """Every text in the source of the package, with dots for values."""
    return [
        words(node)
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, (ast.Constant, ast.JoinedStr)) and words(node) != "..."
    ]


def test_every_dialect_is_told() -> None:
    page = text_of("docs/servers.md")
    for line in [*_FORMATS, *(fallback.line for fallback in FALLBACKS)]:
        assert f"| {line} |" in page


def test_every_metric_of_training_is_told() -> None:
    page = text_of("docs/training.md")
    source = ast.parse(text_of("axolotl_ual/training/metrics.py"))
    told = [node.value for node in source.body if isinstance(node, ast.AnnAssign)]
    names = [value.value for value in told if isinstance(value, ast.Constant)]
    assert "loss/nll" in names and len(names) > 6
    for name in names:
        assert f"| `{name}` |" in page


def test_the_repository_has_one_address() -> None:
    named = {
        found
        for name in [*DOCUMENTS, "pyproject.toml", "CITATION.cff", "site/conf.py"]
        for found in re.findall(r"https://github\.com/[\w-]+/axolotl-ual\b", text_of(name))
    }
    assert named == {REPOSITORY}
