"""Recipes that ask nothing of the plugin train as without it; all others are the plugin's."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.left_alone import left_alone
from axolotl_ual.settings.refusals import unsupported

UNSMOOTHED: list[dict[str, Any]] = [
    *({"rl": rl} for rl in ("orpo", "simpo", "kto", "grpo", "gdpo", "ebft")),
    {"process_reward_model": True},
]
PHASED = {"curriculum": {"mode": "phased"}}


@pytest.mark.parametrize("block", [{}, {"ual": None}, {"ual": {}}])
@pytest.mark.parametrize("keys", UNSMOOTHED)
def test_an_empty_block_leaves_them_alone(keys: dict[str, Any], block: dict[str, Any]) -> None:
    recipe = {**keys, **block, "group_by_length": True}
    ((name, value),) = keys.items()
    shown = str(value).lower()
    line = left_alone(recipe)
    assert line is not None and line.startswith(f"{name}: {shown}: its loss smooths neither")
    assert unsupported(recipe) == []


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"rl": "dpo"},
        {"rl": "ipo", "ual": {}},
        {"reward_model": True},
        {"reward_model": True, "process_reward_model": True},
        {"process_reward_model": False},
        {"rl": "dpo", "process_reward_model": True},
        *({**keys, "ual": PHASED} for keys in UNSMOOTHED),
        *({**keys, "ual": {"preference": {"smoothing": False}}} for keys in UNSMOOTHED),
        {"rl": "kto", "ual": {"no such key": 1}},
    ],
)
def test_all_others_are_the_plugins(recipe: dict[str, Any]) -> None:
    assert left_alone(recipe) is None


def plugin_of(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The plugin that acts: from 0.21 on Axolotl has loaded the installed one by itself."""
    from axolotl.integrations.base import PluginManager

    from axolotl_ual.plugin import UALPlugin

    monkeypatch.setattr(PluginManager, "_instance", None)
    loaded = PluginManager.get_instance().plugins.values()
    return next((each for each in loaded if isinstance(each, UALPlugin)), None) or UALPlugin()


@pytest.mark.parametrize("keys", UNSMOOTHED)
def test_no_hook_acts_on_them(keys: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    from axolotl.utils import logging
    from axolotl.utils.dict import DictDefault

    # Before the loggers are others: what Axolotl imports keeps the one that it gets.
    plugin = plugin_of(monkeypatch)
    said: list[str] = []
    told = type("Logger", (), {"warning": staticmethod(said.append)})
    monkeypatch.setattr(logging, "get_logger", lambda name: told)
    recipe = {**keys, "ual": {}, "seed": 1}
    cfg = DictDefault(recipe)
    plugin.register(cfg)
    assert cfg == DictDefault(recipe)
    assert said == [left_alone(recipe)]
    assert plugin.load_datasets(cfg) is None
    assert plugin.get_trainer_cls(cfg) is None
    assert plugin.add_callbacks_post_trainer(cfg, None) == []


def test_a_wrong_block_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from axolotl.utils.dict import DictDefault

    with pytest.raises(ConfigError, match="unknown key"):
        plugin_of(monkeypatch).register(DictDefault({"rl": "kto", "ual": {"curiculum": {}}}))
