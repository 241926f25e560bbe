"""Settings of a recipe that this plugin cannot train with correctly, known from the YAML alone.

Imports neither torch nor axolotl, so that `axolotl-ual check` can ask as well as the plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.host import host
from axolotl_ual.settings.curriculum_rules import (
    PREFERENCE_TRAINERS,
    conflicts,
    has_adapter_on_head,
    kind_of_rl,
    shown,
)
from axolotl_ual.settings.ual import parse_ual

TRAINER = "axolotl_ual.training.sft.UALTrainer"
"""The one `trainer_cls` that may be named: Axolotl stops where it cannot be imported."""


@dataclass(frozen=True, slots=True)
class _Rule:
    key: str
    why: str
    fix: str
    wrong: Callable[[Any], bool] = bool


def _above_one(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 1


def _size_above_one(value: Any) -> bool:
    return isinstance(value, Mapping) and _above_one(value.get("size"))


_OWN_LOSS = "brings a loss of its own, so the label smoothing of a sample would be left out"
_CUT_SEQUENCE = "cuts sequences or the head over devices, which the smoothed loss does not follow"
_NOT_ROWS = "does not give rows that carry their smoothing through tokenisation"

_RULES = (
    _Rule(
        "rl",
        _OWN_LOSS,
        f"take `rl:` out, use one of {', '.join(PREFERENCE_TRAINERS)}, or take the plugin out",
        lambda value: bool(value) and kind_of_rl({"rl": value}) not in PREFERENCE_TRAINERS,
    ),
    _Rule("reward_model", _OWN_LOSS, "take `reward_model:` out"),
    _Rule("process_reward_model", _OWN_LOSS, "take `process_reward_model:` out"),
    _Rule("use_eaft", _OWN_LOSS, "set `use_eaft: false`"),
    _Rule("use_dft", _OWN_LOSS, "set `use_dft: false`"),
    _Rule("orpo_alpha", _OWN_LOSS, "take `orpo_alpha:` out"),
    _Rule("kd_trainer", _OWN_LOSS, "take `kd_trainer:` out"),
    _Rule(
        "label_smoothing_factor",
        "one smoothing for all samples, on top of each sample's own",
        "take it out, and set `ual.smoothing.mean` to what you want on average",
    ),
    _Rule(
        "trainer_cls",
        "brings a trainer of its own, and only one trainer can train",
        f"take it out, or name `{TRAINER}`",
        lambda value: value not in (None, TRAINER, *PREFERENCE_TRAINERS.values()),
    ),
    _Rule("pretraining_dataset", _NOT_ROWS, "name the data under `datasets:`"),
    _Rule("streaming", _NOT_ROWS, "set `streaming: false`"),
    _Rule("skip_prepare_dataset", _NOT_ROWS, "set `skip_prepare_dataset: false`"),
    _Rule(
        "push_dataset_to_hub",
        "keeps prepared data under a name that does not change with the annotations, so that old "
        "ones could be trained on",
        "take `push_dataset_to_hub:` out",
    ),
    _Rule("processor_type", _NOT_ROWS, "train a text model without `processor_type:`"),
    _Rule("context_parallel_size", _CUT_SEQUENCE, "set it to 1", _above_one),
    _Rule(
        "context_parallel",
        _CUT_SEQUENCE,
        "set `context_parallel.size: 1`, or take `context_parallel:` out",
        _size_above_one,
    ),
    _Rule("sequence_parallel_degree", _CUT_SEQUENCE, "set it to 1", _above_one),
    _Rule("tensor_parallel_size", _CUT_SEQUENCE, "set it to 1", _above_one),
    _Rule("expert_parallel_size", _CUT_SEQUENCE, "set it to 1", _above_one),
)


_HOSTS_DO = {"balance_labels": False, "eval_on_start": True, "full_determinism": False}
"""What an Axolotl does by itself that lacks the setting."""


def unsupported(recipe: Mapping[str, Any]) -> list[UALError]:
    """Settings of a recipe that must stop a run before the model is loaded.

    Args:
        recipe: the YAML as a mapping.

    Returns:
        An error for each such setting, in a fixed order; empty where the plugin can train.
    """
    errors: list[UALError] = [
        UnsupportedError(f"{rule.key}: {shown(recipe[rule.key])}: {rule.why}", rule.fix)
        for rule in _RULES
        if rule.key in recipe and rule.wrong(recipe[rule.key])
        if not (rule.key == "orpo_alpha" and recipe.get("rl"))
    ]
    errors.extend(_unknown_to_the_host(recipe))
    errors.extend(conflicts(recipe))
    errors.extend(_first_generation_fsdp(recipe))
    errors.extend(_with_an_adapter_on_the_head(recipe))
    errors.extend(_with_a_reference(recipe))
    return errors


def _unknown_to_the_host(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    """Settings that the installed Axolotl would drop without a word."""
    for key, by_itself in _HOSTS_DO.items():
        value = recipe.get(key)
        if key in host().lacks and value is not None and bool(value) != by_itself:
            yield UnsupportedError(
                f"{key}: {shown(value)}: Axolotl {host().version} does not have this setting and "
                "would train without it",
                f"take `{key}` out, or train with a newer Axolotl",
            )


def _with_a_reference(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    try:
        smoothing = parse_ual(recipe.get("ual")).smoothing
    except ConfigError:
        return
    if smoothing.prior == "uniform":
        return
    if recipe.get("rl"):
        yield UnsupportedError(
            f"ual.smoothing.prior: reference: `rl: {recipe['rl']}` smooths preferences, which have "
            "no prior over tokens",
            "take `prior:` out",
        )
    elif smoothing.reference_top_k is not None:
        return
    elif smoothing.reference is None and not recipe.get("adapter"):
        yield UnsupportedError(
            "ual.smoothing.prior: reference: there is no `adapter:` that could be switched off to "
            "give the model before tuning",
            "set `ual.smoothing.reference` to the model before tuning, for example to the "
            "`base_model`, or compute its prediction before with `ual.smoothing.reference_top_k`",
        )


def _first_generation_fsdp(recipe: Mapping[str, Any]) -> list[UALError]:
    config = recipe.get("fsdp_config") or {}
    if not (recipe.get("fsdp") or config):
        return []
    named = [recipe.get("fsdp_version"), config.get("fsdp_version"), config.get("version")]
    version = next((value for value in named if value is not None), host().fsdp_generation)
    if str(version) == "2":
        return []
    return [
        UnsupportedError(
            f"fsdp_version: {version}: the first generation of FSDP flattens the head's weight, "
            "which the smoothed loss reads",
            "set `fsdp_version: 2`",
        )
    ]


def _with_an_adapter_on_the_head(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    if recipe.get("rl") or not has_adapter_on_head(recipe):
        return
    fix = "leave `lm_head` out of `lora_target_modules`"
    if recipe.get("peft_use_dora"):
        yield UnsupportedError(
            "peft_use_dora: true: the margin of a head with an adapter is known for plain LoRA",
            f"{fix}, or set `peft_use_dora: false`",
        )
    if recipe.get("liger_fused_linear_cross_entropy"):
        yield UnsupportedError(
            "liger_fused_linear_cross_entropy: true: reads the head's weight and leaves the "
            "adapter on it out",
            f"{fix}, or set `liger_fused_linear_cross_entropy: false`",
        )
    try:
        kernel = parse_ual(recipe.get("ual")).loss.kernel
    except ConfigError:
        return
    if kernel == "chunked":
        yield UnsupportedError(
            "ual.loss.kernel: chunked: the head has an adapter",
            f"{fix}, or set `ual.loss.kernel: model`",
        )
