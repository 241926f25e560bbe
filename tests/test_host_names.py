"""Every name of the hosts that is not part of their documented interface is known and as it was."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axolotl.integrations.base import PluginManager
from axolotl.utils.dict import DictDefault

from axolotl_ual import host_names
from axolotl_ual.errors import UnsupportedError
from axolotl_ual.plugin import UALPlugin
from axolotl_ual.training import dpo, reward, sft

pytestmark = pytest.mark.host

ROOT = Path(__file__).resolve().parents[1] / "axolotl_ual"
HOSTS = ("axolotl", "transformers", "trl", "peft")
PLACES = {name.partition("(")[0] for names in host_names.NAMES.values() for name in names}
DOCUMENTED = {
    "axolotl.integrations.base:BasePlugin",
    "axolotl.integrations.base:PluginManager",
}
"""Of Axolotl, what its plugin guide shows. Of transformers: what the package itself exports."""


@pytest.mark.parametrize("use", host_names.NAMES)
def test_what_is_installed_is_what_is_known(use: host_names.Use) -> None:
    assert host_names.differences(host_names.NAMES[use]) == []
    host_names.check(use)


def sources() -> Iterator[ast.Module]:
    for path in ROOT.rglob("*.py"):
        yield ast.parse(path.read_text(encoding="utf-8"))


def imported() -> set[str]:
    """`module:name` of everything that the training side imports from a host."""
    found = set()
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in HOSTS:
                found |= {f"{node.module}:{alias.name}" for alias in node.names}
    return found


def test_every_import_from_a_host_is_known() -> None:
    import transformers

    unknown = set()
    for place in imported() - DOCUMENTED - PLACES:
        module, _, name = place.partition(":")
        if module.startswith("transformers") and hasattr(transformers, name):
            continue
        if not any(known.startswith(f"{module}.{name}:") for known in PLACES):
            unknown.add(place)
    assert not unknown


def test_every_private_attribute_of_a_host_is_known() -> None:
    ours, used = set(), set()
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                ours.add(node.name)
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                ours.add(node.target.id)
            elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
                (ours if isinstance(node.ctx, ast.Store) else used).add(node.attr)
            elif isinstance(node, ast.Constant) and re.fullmatch(r"_[a-z]\w+", str(node.value)):
                used.add(str(node.value))
    known = {place.rpartition(".")[2].rpartition(":")[2] for place in PLACES}
    foreign = {name for name in used - ours - known if not name.startswith("__")}
    # The counter of changes of a tensor is PyTorch's; a named tuple has a public `_replace`.
    assert foreign == {"_version", "_replace"}
    assert {"_disable_adapters", "_load_and_process_single_dataset"} <= used


@pytest.mark.parametrize(
    "trainer",
    [
        sft.UALTrainer,
        dpo.UALDPOTrainer,
        dpo.UALORPOTrainer,
        dpo.UALCPOTrainer,
        dpo.UALKTOTrainer,
        reward.UALRewardTrainer,
    ],
)
def test_every_method_of_a_host_that_a_trainer_overrides_is_known(trainer: type) -> None:
    for attribute in dir(trainer):
        owners = [cls for cls in trainer.__mro__ if attribute in vars(cls)]
        if attribute.startswith("__") or not owners[0].__module__.startswith("axolotl_ual"):
            continue
        theirs = [cls for cls in owners if cls.__module__.split(".")[0] in HOSTS]
        if any(inspect.isfunction(vars(cls)[attribute]) for cls in theirs):
            last = theirs[-1]
            assert f"{last.__module__}:{last.__qualname__}.{attribute}" in PLACES


def known_module(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    module: Any = type(sys)("axolotl_stand_in")
    exec(source, module.__dict__)
    monkeypatch.setitem(sys.modules, "axolotl_stand_in", module)
    monkeypatch.setattr(host_names, "installed", lambda package: f"{package} 9.9")


SOURCE = """
def plain(a, /, b, *rest, c, d=1, **more): ...
def keyword(*, a): ...
class Kind:
    def __init__(self):
        self.attribute = 1
    def method(self, x=None): ...
"""


def test_names_are_compared_by_their_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    known_module(monkeypatch, SOURCE)
    right = (
        "axolotl_stand_in:plain(a, b, *rest, c, d=, **more)",
        "axolotl_stand_in:keyword(*, a)",
        "axolotl_stand_in:Kind",
        "axolotl_stand_in:Kind.attribute",
        "axolotl_stand_in:Kind.method(self, y)",
        "axolotl_stand_in:Kind.method(self, x=)",
    )
    assert host_names.differences(right) == []
    wrong = (
        "axolotl_stand_in:keyword(a)",
        "axolotl_stand_in:gone",
        "axolotl_stand_in:Kind.nothing",
        "axolotl_stand_in:Kind.method(self, x)",
        "axolotl_nowhere:name()",
    )
    lines = host_names.differences(wrong)
    assert lines[0] == "axolotl_stand_in 9.9: axolotl_stand_in:keyword: takes (*, a), not (a)"
    assert "has no attribute 'gone'" in lines[1] and "has no attribute 'nothing'" in lines[2]
    assert lines[3].endswith("takes (self, x=), not (self, x)")
    assert "No module named 'axolotl_nowhere'" in lines[4]


@pytest.mark.parametrize(
    ("use", "recipe"),
    [
        ("data", {"ual": {}}),
        ("trainer", {"ual": {}}),
        ("sft", {"ual": {}}),
        ("preference", {"ual": {}, "rl": "dpo"}),
        ("reward", {"ual": {}, "reward_model": True}),
        ("reference", {"ual": {"smoothing": {"prior": "reference"}}}),
    ],
)
def test_a_difference_stops_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, use: host_names.Use, recipe: dict[str, Any]
) -> None:
    monkeypatch.setattr(PluginManager, "_instance", None)
    known_module(monkeypatch, SOURCE)
    monkeypatch.setitem(host_names.NAMES, use, ("axolotl_stand_in:plain(a)",))
    # From 0.21 on Axolotl has loaded the installed plugin by itself, and that one acts.
    loaded = PluginManager.get_instance().plugins.values()
    plugin = next((each for each in loaded if isinstance(each, UALPlugin)), None) or UALPlugin()
    with pytest.raises(UnsupportedError) as caught:
        plugin.load_datasets(DictDefault(recipe))
    assert "axolotl_stand_in:plain: takes (a, b, *rest, c, d=, **more)" in caught.value.problem
    assert caught.value.fix.endswith("pip install 'axolotl-ual[train]'")
