"""`engine:`, as a recipe spells it."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.ual import UALConfig, parse_ual


def parse(engine: dict[str, Any]) -> UALConfig:
    return parse_ual({"annotate": {"output": "o", "judge": {"model": "m"}, "engine": engine}})


def test_keys_of_ray_are_refused_where_they_are_not_used() -> None:
    with pytest.raises(ConfigError, match="`workers: 8` is of no use to `kind: local`"):
        parse({"workers": 8})
    with pytest.raises(ConfigError, match=r"engine\.worker: unknown key; did you mean `workers`"):
        parse({"kind": "ray", "worker": 8})


def test_a_remote_client_is_refused() -> None:
    with pytest.raises(ConfigError, match="ray job submit"):
        parse({"kind": "ray", "address": "ray://head:10001"})


def test_annotations_do_not_depend_on_it() -> None:
    """Rows that were scored by workers are those that a recipe without workers asks for."""
    with_workers = parse({"kind": "ray", "workers": 8, "address": "auto"})
    assert with_workers.result_settings(None) == parse({}).result_settings(None)
