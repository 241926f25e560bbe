"""The section `ual.smoothing`: what belongs to which prior."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.ual import parse_ual


@pytest.mark.parametrize(
    "setting", [{"reference": "base"}, {"reference_temperature": 2.0}, {"reference_top_k": 8}]
)
def test_settings_of_a_reference_need_it(setting: dict[str, Any]) -> None:
    (name, value), *_ = setting.items()
    with pytest.raises(ConfigError, match=f"`{name}: {value}` is of no use to `prior: uniform`"):
        parse_ual({"smoothing": setting})
    smoothing = parse_ual({"smoothing": {"prior": "reference", **setting}}).smoothing
    assert getattr(smoothing, name) == value


@pytest.mark.parametrize("kept", [0, 1025])
def test_how_many_tokens_are_kept(kept: int) -> None:
    with pytest.raises(ConfigError, match="reference_top_k"):
        parse_ual({"smoothing": {"prior": "reference", "reference_top_k": kept}})
