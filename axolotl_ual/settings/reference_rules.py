"""What contradicts `ual.curriculum.refresh_reference` in a recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.deepspeed import deepspeed_config
from axolotl_ual.settings.preference import SMOOTHED, kind_of_rl

_KEY = "ual.curriculum.refresh_reference: true"


def of_the_reference(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    """Settings with which the reference of a stage cannot be the policy before it.

    Args:
        recipe: the YAML as a mapping, whose `ual:` block asks for it.
    """
    rl = kind_of_rl(recipe)
    if rl not in SMOOTHED:
        yield ConfigError(
            f"{_KEY}: {'training without `rl:`' if rl is None else f'`rl: {rl}`'} compares with "
            "no reference that could be refreshed",
            f"set `rl:` to {' or '.join(SMOOTHED)}, or take it out",
        )
        return
    zero = deepspeed_config(recipe).get("zero_optimization") or {}
    if (zero.get("offload_param") or {}).get("device") == "nvme":
        yield UnsupportedError(
            f"{_KEY}: the DeepSpeed config keeps the shards of the parameters on NVMe "
            "(`offload_param`), where they cannot be exchanged with those of the frozen copy",
            "set `offload_param.device: cpu`",
        )
    for key, alone in (("zero_hpz_partition_size", 1), ("mics_shard_size", -1)):
        if zero.get(key, alone) != alone:
            yield UnsupportedError(
                f"{_KEY}: `{key}: {zero[key]}` of the DeepSpeed config keeps a second copy of "
                "each shard, which would not be the frozen one",
                f"take `{key}` out",
            )
