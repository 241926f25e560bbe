"""Rules of the house as tests: who imports whom, what loads what, what the command line offers."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "axolotl_ual": ROOT / "axolotl_ual",
    "axolotl_ual.preprocess": ROOT / "preprocess",
    "axolotl_ual.demo": ROOT / "examples" / "demo",
    "axolotl_ual.docs": ROOT / "docs",
    "axolotl_ual.recipes": ROOT / "examples" / "recipes",
}
FLOORS = {
    # The command line, and rooms of `axolotl_ual.preprocess`. An import goes to a lower floor, or
    # stays in its room.
    "preprocess.cli": 9,
    "preprocess.commands": 8,
    "preprocess.engines": 7,
    "preprocess.evaluation": 7,
    "preprocess.estimators": 6,
    "preprocess.dimensions": 6,
    "preprocess.sampling": 5,
    "preprocess.judge": 5,
    "preprocess.calls": 4,
    "preprocess.report": 4,
    "preprocess.models.server": 3,
    "preprocess.models.local": 3,
    "preprocess.launching": 3,
    "preprocess.output": 3,
    "preprocess.data": 2,
    "preprocess.labels": 2,
    "preprocess.progress": 2,
    "preprocess.named": 2,
    # What runs inside training.
    "plugin": 5,
    "training": 4,
    "schedule": 3,
    "data": 2,
    "losses": 1,
    "host_names": 1,
    # What both halves share.
    "evaluation": 1,
    "labels": 1,
    "settings": 1,
    "errors": 0,
    "columns": 0,
    "host": 0,
    # Code that shipped recipes name.
    "recipes": 0,
}
SHARED = {"evaluation", "labels", "settings", "errors", "columns", "host"}
SHARED_MODULES = {
    "axolotl_ual.data.annotated",
    "axolotl_ual.data.dialogue",
    "axolotl_ual.data.files",
    "axolotl_ual.data.fingerprint",
    "axolotl_ual.data.shared",
    "axolotl_ual.data.strategy",
    "axolotl_ual.data.token_text",
    "axolotl_ual.data.trained_text",
}
"""Read by both halves: where an annotated copy lies and whether it is of these data; how a prompt
is rendered, and what is trained of a row.
"""
MAY_IMPORT_AXOLOTL = {
    "axolotl_ual.plugin",
    "axolotl_ual.data.answers",
    "axolotl_ual.data.carry",
    "axolotl_ual.data.collator",
    "axolotl_ual.data.keep",
    "axolotl_ual.data.message_weights",
    "axolotl_ual.data.preference",
    "axolotl_ual.data.top_k",
    "axolotl_ual.preprocess.data.axolotl_says",
    "axolotl_ual.preprocess.data.axolotl_split",
    "axolotl_ual.preprocess.data.tokenised",
    "axolotl_ual.preprocess.data.trained",
    "axolotl_ual.preprocess.launching.provider",
    "axolotl_ual.schedule.curriculum",
    "axolotl_ual.schedule.layout",
    "axolotl_ual.schedule.plan",
    "axolotl_ual.training.dpo",
    "axolotl_ual.training.ebft",
    "axolotl_ual.training.grpo",
    "axolotl_ual.training.pairs",
    "axolotl_ual.training.reestimated",
    "axolotl_ual.training.refreshed",
    "axolotl_ual.training.reward",
    "axolotl_ual.training.sft",
}


def modules() -> dict[str, Path]:
    found = {}
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            found[".".join([package, *parts])] = path
    return found


MODULES = modules()


def imports(name: str) -> set[str]:
    """Every module that a module names in an import, wherever it stands, as an absolute name."""
    path = MODULES[name]
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parent, *([node.module] if node.module else [])])
            found.add(base)
            found |= {f"{base}.{alias.name}" for alias in node.names}
    return found


def ours(name: str) -> set[str]:
    return {target for target in imports(name) if target in MODULES and target != "axolotl_ual"}


def is_below(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


def room(name: str) -> str:
    """The room of FLOORS that a module is in."""
    inside = name.removeprefix("axolotl_ual.")
    return max((r for r in FLOORS if is_below(inside, r)), key=len)


HOUSED = sorted(
    name
    for name in MODULES
    if not is_below(name, "axolotl_ual.demo")
    and name
    not in (
        "axolotl_ual",
        "axolotl_ual.docs",
        "axolotl_ual.preprocess",
        "axolotl_ual.preprocess.models",
        "axolotl_ual.recipes",
    )
)


def test_every_module_is_seen() -> None:
    assert {"axolotl_ual.settings.ual", "axolotl_ual.preprocess.commands.annotate"} <= set(HOUSED)
    assert "axolotl_ual.columns" in ours("axolotl_ual.preprocess.commands.annotate")
    assert {room(name) for name in HOUSED} == FLOORS.keys()


@pytest.mark.parametrize("name", HOUSED)
def test_imports_go_down(name: str) -> None:
    here = room(name)
    for target in ours(name):
        if is_below(target, "axolotl_ual.demo"):
            assert name == "axolotl_ual.preprocess.cli"
        elif target != "axolotl_ual.preprocess" and target not in SHARED_MODULES:
            there = room(target)
            assert there == here or FLOORS[there] < FLOORS[here], target


@pytest.mark.parametrize("name", HOUSED)
def test_the_halves_share_only_what_is_named(name: str) -> None:
    preprocess = is_below(name, "axolotl_ual.preprocess")
    for target in ours(name):
        if is_below(target, "axolotl_ual.demo") or room(target) in SHARED:
            continue
        if preprocess and target in SHARED_MODULES:
            continue
        assert is_below(target, "axolotl_ual.preprocess") == preprocess, target
    if name in SHARED_MODULES:
        assert {room(t) for t in ours(name) if t not in SHARED_MODULES} <= SHARED


def test_no_module_imports_itself_in_a_circle() -> None:
    left = {name: ours(name) & set(HOUSED) - {name} for name in HOUSED}
    while free := {name for name, targets in left.items() if not targets}:
        left = {name: targets - free for name, targets in left.items() if name not in free}
    assert not left


@pytest.mark.parametrize("name", sorted(n for n in MODULES if is_below(n, "axolotl_ual.losses")))
def test_losses_are_pure(name: str) -> None:
    assert {room(target) for target in ours(name)} <= {"losses", "errors", "columns"}


@pytest.mark.parametrize("name", sorted(MODULES.keys() - MAY_IMPORT_AXOLOTL))
def test_only_the_binding_modules_import_axolotl(name: str) -> None:
    assert not {t for t in imports(name) if is_below(t, "axolotl")}


@pytest.mark.parametrize(
    "name", sorted(n for n in MODULES if is_below(n, "axolotl_ual.preprocess"))
)
def test_preprocess_names_its_siblings_relatively(name: str) -> None:
    """An absolute name would be a second way to say the same, and mypy would not follow it."""
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            assert not is_below(node.module or "", "axolotl_ual.preprocess")


def loaded_by(code: str) -> set[str]:
    script = f"import sys\n{code}\nprint('\\n'.join(sys.modules))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return {line.partition(".")[0] for line in run.stdout.splitlines()}


@pytest.mark.slow
@pytest.mark.parametrize(
    "code",
    [
        "import axolotl_ual",
        "import axolotl_ual.settings.ual",
        "import axolotl_ual.preprocess.cli",
        "from axolotl_ual.preprocess.cli import main\nmain(['--help'], standalone_mode=False)",
    ],
)
def test_importing_costs_nothing(code: str) -> None:
    heavy = {"torch", "transformers", "datasets", "axolotl", "openai", "pandas", "aiohttp"}
    assert not heavy & loaded_by(code)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["annotate", "pairs", "consistency", "share"])
def test_commands_start_with_the_base_installation(name: str) -> None:
    extras = {"axolotl", "peft", "scipy", "sentence_transformers", "sklearn", "torch"}
    found = loaded_by(f"import axolotl_ual.preprocess.commands.{name}")
    assert "axolotl_ual" in found
    assert not (extras | {"transformers"}) & found


def test_axolotl_gets_the_same_commands() -> None:
    from importlib.metadata import entry_points

    from axolotl_ual.preprocess.cli import main

    (command,) = entry_points(group="axolotl.cli_commands", name="ual")
    assert command.load() is main
    assert {"annotate", "check", "demo"} <= set(main.commands)


def test_version_is_one() -> None:
    from importlib.metadata import version

    import axolotl_ual

    assert version("axolotl-ual") == axolotl_ual.__version__


def test_yaml_blocks_of_the_documents_are_valid() -> None:
    from axolotl_ual.settings.ual import parse_ual

    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = [page.read_text(encoding="utf-8") for page in pages]
    blocks = [
        yaml.safe_load(b) for text in texts for b in re.findall(r"```yaml\n(.*?)```", text, re.S)
    ]
    with_ual = [block for block in blocks if isinstance(block, dict) and "ual" in block]
    assert len(with_ual) > 5
    for block in with_ual:
        parse_ual(block["ual"])


def test_every_package_is_installed() -> None:
    """setuptools takes only the packages that are named; a forgotten one fails at the user's."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = set(re.findall(r'^    "(axolotl_ual[\w.]*)",$', text, re.M))
    assert {n for n, path in MODULES.items() if path.name == "__init__.py"} == named
