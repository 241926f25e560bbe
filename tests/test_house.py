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
}
CONTRACT = {"axolotl_ual", "axolotl_ual.errors", "axolotl_ual.columns"}
SHARED = CONTRACT | {
    "axolotl_ual.annotated",
    "axolotl_ual.config",
    "axolotl_ual.curriculum_config",
    "axolotl_ual.curriculum_rules",
    "axolotl_ual.estimator_config",
    "axolotl_ual.pairs_config",
    "axolotl_ual.server_config",
    "axolotl_ual.settings",
    "axolotl_ual.source",
}
MAY_IMPORT_AXOLOTL = {
    "axolotl_ual.plugin",
    "axolotl_ual.probe",
    "axolotl_ual.carry",
    "axolotl_ual.collator",
    "axolotl_ual.curriculum",
    "axolotl_ual.dpo",
    "axolotl_ual.preference_data",
    "axolotl_ual.sampler",
    "axolotl_ual.trainer",
    "axolotl_ual.preprocess.masked",
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


def test_every_module_is_seen() -> None:
    assert {"axolotl_ual.config", "axolotl_ual.preprocess.pipeline"} <= MODULES.keys()
    assert "axolotl_ual.columns" in ours("axolotl_ual.preprocess.pipeline")


@pytest.mark.parametrize("name", ["axolotl_ual.errors", "axolotl_ual.columns"])
def test_the_contract_imports_nothing_of_ours(name: str) -> None:
    assert ours(name) == set()


@pytest.mark.parametrize("name", sorted(n for n in MODULES if is_below(n, "axolotl_ual.losses")))
def test_losses_are_pure(name: str) -> None:
    allowed = {n for n in MODULES if is_below(n, "axolotl_ual.losses")}
    assert ours(name) <= CONTRACT | allowed


@pytest.mark.parametrize("name", sorted((SHARED - {"axolotl_ual"}) & MODULES.keys()))
def test_what_both_halves_share_imports_neither(name: str) -> None:
    assert ours(name) <= SHARED


@pytest.mark.parametrize(
    "name", sorted(n for n in MODULES if is_below(n, "axolotl_ual.preprocess"))
)
def test_preprocess_imports_no_training_code(name: str) -> None:
    allowed = {n for n in MODULES if is_below(n, "axolotl_ual.preprocess")} | SHARED
    if name == "axolotl_ual.preprocess.cli":
        allowed |= {"axolotl_ual.demo", "axolotl_ual.demo.run"}
    assert ours(name) <= allowed


@pytest.mark.parametrize(
    "name",
    sorted(
        n
        for n in MODULES
        if not is_below(n, "axolotl_ual.preprocess") and not is_below(n, "axolotl_ual.demo")
    ),
)
def test_training_imports_no_preprocess(name: str) -> None:
    assert not {t for t in ours(name) if is_below(t, "axolotl_ual.preprocess")}


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


@pytest.mark.parametrize(
    "code",
    [
        "import axolotl_ual",
        "import axolotl_ual.config",
        "import axolotl_ual.preprocess.cli",
        "from axolotl_ual.preprocess.cli import main\nmain(['--help'], standalone_mode=False)",
    ],
)
def test_importing_costs_nothing(code: str) -> None:
    heavy = {"torch", "transformers", "datasets", "axolotl", "openai", "pandas", "aiohttp"}
    assert not heavy & loaded_by(code)


@pytest.mark.parametrize("name", ["pipeline", "pairs_pipeline", "consistency_run", "cache_share"])
def test_commands_start_with_the_base_installation(name: str) -> None:
    extras = {"axolotl", "peft", "scipy", "sentence_transformers", "sklearn", "torch"}
    found = loaded_by(f"import axolotl_ual.preprocess.{name}")
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


def test_yaml_blocks_of_the_readme_are_valid() -> None:
    from axolotl_ual.settings.ual import parse_ual

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", text, re.S)]
    with_ual = [block for block in blocks if isinstance(block, dict) and "ual" in block]
    assert with_ual
    for block in with_ual:
        parse_ual(block["ual"])


def test_every_package_is_installed() -> None:
    """setuptools takes only the packages that are named; a forgotten one fails at the user's."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = set(re.findall(r'^    "(axolotl_ual[\w.]*)",$', text, re.M))
    assert {n for n, path in MODULES.items() if path.name == "__init__.py"} == named
