"""The page of errors: every message that the package ends with, and its cure, from its source."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Final

from axolotl_ual import errors

PACKAGES: Final = ("axolotl_ual", "axolotl_ual.demo", "axolotl_ual.preprocess")
_GAP: Final = "..."
_KINDS: Final = {
    name: kind
    for name, kind in vars(errors).items()
    if isinstance(kind, type) and issubclass(kind, errors.UALError)
}


def errors_page() -> str:
    """Errors by kind: what each says, with dots for what is filled in, and what to do."""
    parts = [
        "# Errors\n\nWritten by `axolotl-ual agent-docs errors` from the source. Dots stand for "
        "names and values.\n"
    ]
    found = sorted(set(messages()))
    for name, kind in _KINDS.items():
        parts.append(f"\n## {name}\n\n{(kind.__doc__ or '').strip().splitlines()[0]}\n\n")
        parts += [f"- {_line(said, fix)}\n" for kind_, said, fix in found if kind_ == name]
    return "".join(parts)


def messages() -> Iterator[tuple[str, str, str]]:
    """Kind, message and cure of each error that is raised with words of its own."""
    for tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.args:
                said, fix, *_ = [*map(words, node.args), ""]
                if node.func.id in _KINDS and said.strip(" .:"):
                    yield node.func.id, said, fix if fix.strip(" .:") else ""


def trees() -> Iterator[ast.Module]:
    """Every module of the package, parsed."""
    for package in PACKAGES:
        for path in sorted(Path(str(files(package))).rglob("*.py")):
            yield ast.parse(path.read_text(encoding="utf-8"))


def words(node: ast.expr) -> str:
    """The text of an expression, with dots for what is not known from the source."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(words, node.values))
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return words(node.left) + words(node.right)
    return _GAP


def _line(said: str, fix: str) -> str:
    said, fix = (" ".join(text.split()) for text in (said, fix))
    return f"{said}. Fix: {fix}." if fix else f"{said}."
