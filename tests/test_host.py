"""Which Axolotl does what by itself, and which recipes ask for the plugin."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from importlib.util import find_spec
from typing import Any

import pytest

from axolotl_ual import host as module
from axolotl_ual.host import asks_for_plugin, describe, names_plugin, runs_without_a_line

pytestmark = pytest.mark.host


@pytest.mark.parametrize(
    ("version", "tokens", "fsdp", "loads", "seeds", "cuts"),
    [
        ("0.19.0", False, 1, False, False, False),
        ("0.20.0", True, 2, False, False, True),
        ("0.21.0", True, 2, True, True, True),
        ("0.21.3.dev0", True, 2, True, True, True),
        ("0.22.0.dev0", True, 2, True, True, True),
        ("1.0", True, 2, True, True, True),
        (None, True, 2, True, True, True),
    ],
)
def test_what_each_host_does(
    version: str | None, tokens: bool, fsdp: int, loads: bool, seeds: bool, cuts: bool
) -> None:
    found = describe(version)
    assert (found.averages_tokens, found.fsdp_generation) == (tokens, fsdp)
    assert (found.loads_installed_plugins, found.seeds_model) == (loads, seeds)
    assert found.cuts_layers == cuts


@pytest.mark.parametrize(
    ("version", "newer"),
    [("0.19.0", False), ("0.21.9", False), ("0.22.0.dev0", True), ("1.0", True), (None, False)],
)
def test_only_what_is_newer_is_warned_of(version: str | None, newer: bool) -> None:
    said = describe(version).untested
    assert (said is not None) == newer
    if said is not None:
        assert said.startswith(f"Axolotl {version} is newer than 0.21")
        assert "Not tested there: how data are loaded" in said


def test_the_host_is_the_one_that_is_installed() -> None:
    """What the version says is what the package has."""
    from axolotl import train
    from axolotl.core.trainers import base as trainers
    from axolotl.integrations import base as plugins
    from axolotl.utils.schemas import config as config
    from axolotl.utils.schemas import validation

    found = module.host()
    assert found.untested is None
    assert found.seeds_model == hasattr(train, "seed_model_initialization")
    assert found.loads_installed_plugins == hasattr(plugins, "PLUGIN_ENTRY_POINT_GROUP")
    assert found.averages_tokens == hasattr(trainers, "model_loss_accepts_num_items_in_batch")
    assert found.cuts_layers == (find_spec("axolotl.monkeypatch.accelerate.tp") is not None)
    schema = config.AxolotlInputConfig.model_fields
    assert found.lacks == {name for name in describe("0.1").lacks if name not in schema}
    assert (found.fsdp_generation == 2) == hasattr(validation, "FSDP1_MIGRATION_DOCS")


@pytest.mark.parametrize(
    ("recipe", "named", "asked"),
    [
        ({}, False, False),
        ({"plugins": None}, False, False),
        ({"plugins": ["axolotl.integrations.liger.LigerPlugin"]}, False, False),
        ({"ual": None}, False, True),
        ({"ual": {}, "plugins": ["other.Plugin"]}, False, True),
        ({"plugins": ["axolotl_ual.UALPlugin"]}, True, True),
        ({"plugins": ["axolotl_ual:UALPlugin"]}, True, True),
        ({"plugins": ["a.B", "axolotl_ual.plugin.UALPlugin"]}, True, True),
    ],
)
def test_which_recipes_ask_for_the_plugin(recipe: dict[str, Any], named: bool, asked: bool) -> None:
    assert names_plugin(recipe) == named
    assert asks_for_plugin(recipe) == asked


@pytest.mark.parametrize(
    ("version", "value", "runs"),
    [
        ("0.21.0", "axolotl_ual:UALPlugin", True),
        ("0.21.0", "other:Plugin", False),
        ("0.19.0", "axolotl_ual:UALPlugin", False),
    ],
)
def test_it_runs_without_a_line_where_it_is_installed_and_loaded(
    monkeypatch: pytest.MonkeyPatch, version: str, value: str, runs: bool
) -> None:
    point = EntryPoint("ual", value, "axolotl.plugins")
    monkeypatch.setattr(module, "host", lambda: describe(version))
    monkeypatch.setattr(module, "entry_points", lambda group: [point])
    assert runs_without_a_line() == runs


def test_the_installed_package_says_so_too() -> None:
    assert runs_without_a_line() == module.host().loads_installed_plugins
