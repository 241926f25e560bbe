"""What is published: the wheel has what an installed package reads, the sdist the rest."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from email.message import Message
from pathlib import Path

import pytest

import axolotl_ual

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = {
    "axolotl_ual": ROOT / "axolotl_ual",
    "axolotl_ual/demo": ROOT / "examples" / "demo",
    "axolotl_ual/docs": ROOT / "docs",
    "axolotl_ual/preprocess": ROOT / "preprocess",
    "axolotl_ual/recipes": ROOT / "examples" / "recipes",
}
NAMED = ("README.md", "CHANGELOG.md", "CITATION.cff", "LICENSE", "docs/index.md", "site/conf.py")
BUILD = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist, built from a copy of what is tracked."""
    folder = Path(tmp_path_factory.mktemp("source"))
    for name in ("axolotl_ual", "preprocess", "examples", "docs", "site", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in ROOT.glob("*.*"):
        if path.is_file():
            shutil.copy(path, folder)
    shutil.copy(ROOT / "LICENSE", folder)
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "dist").mkdir()
    subprocess.run([sys.executable, "-c", BUILD], cwd=folder, check=True, capture_output=True)
    return folder / "dist"


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.slow
def test_the_wheel_has_every_file_of_the_packages(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        inside = set(archive.namelist())
    for package, folder in PACKAGES.items():
        missing = {name for name in files_below(folder) if f"{package}/{name}" not in inside}
        assert not missing, package
    assert not [name for name in inside if name.startswith(("tests/", "site/", "benchmarks/"))]


@pytest.mark.slow
def test_the_wheel_says_what_it_is(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        metadata: Message = message_from_string(archive.read(name).decode())
    assert metadata["Version"] == axolotl_ual.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert "Homepage, https://github.com/axolotl-ual/axolotl-ual" in metadata.get_all("Project-URL")
    assert "# axolotl-ual\n" in str(metadata.get_payload())


@pytest.mark.slow
def test_the_sdist_has_what_a_wheel_is_built_from_and_the_documents(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert set(NAMED) <= inside
    for folder in ("axolotl_ual", "preprocess", "docs", "examples", "benchmarks"):
        assert {f"{folder}/{name}" for name in files_below(ROOT / folder)} <= inside, folder


def test_the_citation_and_the_changelog_are_of_this_version() -> None:
    version = axolotl_ual.__version__
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {version}\n" in citation
    dated = citation.partition("date-released: ")[2].split()[0]
    assert f"\n## {version} - {dated}\n" in changelog
