"""Settings of a recipe that this plugin cannot train with correctly, known from the YAML alone.

Imports neither torch nor axolotl, so that `axolotl-ual check` can ask as well as the plugin.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.host import Host, host
from axolotl_ual.settings.deepspeed import deepspeed_config
from axolotl_ual.settings.image_rules import of_images
from axolotl_ual.settings.left_alone import left_alone
from axolotl_ual.settings.parallel_rules import of_context, of_experts, of_fsdp, of_layers
from axolotl_ual.settings.preference import (
    ON_PROMPTS,
    PREFERENCE_TRAINERS,
    SMOOTHED,
    TRAINED_ON_PAIRS,
    kind_of_rl,
    trains_reward_model,
)
from axolotl_ual.settings.prompts_rules import of_prompts
from axolotl_ual.settings.reestimate_rules import of_reestimation
from axolotl_ual.settings.reference_rules import of_the_reference
from axolotl_ual.settings.reward_rules import of_reward_models
from axolotl_ual.settings.rivals import of_plugins
from axolotl_ual.settings.sentence_rules import of_sentence_units
from axolotl_ual.settings.streaming_rules import of_streaming
from axolotl_ual.settings.ual import UALConfig, parse_ual
from axolotl_ual.settings.weighing import has_adapter_on_head, of_weights

TRAINER = "axolotl_ual.training.sft.UALTrainer"
"""The one `trainer_cls` that may be named: Axolotl stops where it cannot be imported."""


@dataclass(frozen=True, slots=True)
class _Rule:
    key: str
    why: str
    fix: str
    wrong: Callable[[Any], bool] = bool


_OWN_LOSS = "brings a loss of its own, so the label smoothing of a sample would be left out"

_RULES = (
    _Rule(
        "rl",
        "is trained in an order and with a loss of its own, which the plugin does not reach",
        f"use one of {', '.join(PREFERENCE_TRAINERS)}, or take `rl:` out",
        lambda value: bool(value) and kind_of_rl({"rl": value}) not in PREFERENCE_TRAINERS,
    ),
    _Rule(
        "process_reward_model",
        "learns labels of the steps of a response, and a smoothing is of a sample or a pair",
        "leave `ual:` empty, or take `process_reward_model:` out",
    ),
    _Rule(
        "use_dft",
        _OWN_LOSS,
        "set `use_dft: false`, and `ual.loss.token_weight: probability`, which is computed in "
        "chunks",
    ),
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
    _Rule(
        "push_dataset_to_hub",
        "keeps prepared data under a name that does not change with the annotations, so that old "
        "ones could be trained on",
        "take `push_dataset_to_hub:` out",
    ),
)


_HOSTS_DO = {"balance_labels": False, "eval_on_start": True, "full_determinism": False}
"""What an Axolotl does by itself that lacks the setting."""
_OWN_ORDER = {
    "curriculum_sampling": "takes the data in the order they are in",
    "sample_packing_sequentially": "packs the data in the order they are in",
    "group_by_length": "batches rows by their length",
    "balance_labels": "batches rows by how many of their tokens are trained",
}
_OTHER_LOSSES = {
    "dpo_label_smoothing": "is one smoothing for all pairs, and Axolotl's sigmoid loss does not "
    "even use it; each pair has its own `ual_smoothing`",
    "dpo_loss_weights": "weights several losses, and one is smoothed here",
    "dpo_use_weighting": "weights pairs by log-probabilities over the whole vocabulary; "
    "`ual.preference.weighting: wpo` does so in chunks",
    "dpo_use_liger_kernel": "computes the loss in a kernel that knows no pair's smoothing; "
    "log-probabilities are taken in chunks without it",
    "dpo_padding_free": "is not what the trainer does; it pads",
}


def unsupported(recipe: Mapping[str, Any], on: Host | None = None) -> list[UALError]:
    """Settings of a recipe that must stop a run before the model is loaded.

    Args:
        recipe: the YAML as a mapping.
        on: the Axolotl to train with; None: the one of this environment.

    Returns:
        An error for each such setting, in a fixed order; empty where the plugin can train.
    """
    if left_alone(recipe) is not None:
        return []
    on = on or host()
    errors: list[UALError] = [
        UnsupportedError(f"{rule.key}: {_shown(recipe[rule.key])}: {rule.why}", rule.fix)
        for rule in _RULES
        if rule.key in recipe and rule.wrong(recipe[rule.key])
        if not (rule.key == "orpo_alpha" and recipe.get("rl"))
    ]
    errors.extend(of_plugins(recipe))
    errors.extend(_unknown_to_the_host(recipe, on))
    errors.extend(_conflicts(recipe))
    errors.extend(of_layers(recipe, on))
    errors.extend(of_experts(recipe, on))
    errors.extend(of_reward_models(recipe, on.fsdp_generation))
    if trains_reward_model(recipe):
        return errors
    errors.extend(of_context(recipe))
    errors.extend(of_images(recipe))
    errors.extend(of_fsdp(recipe, on))
    errors.extend(_with_an_adapter_on_the_head(recipe))
    errors.extend(_with_a_reference(recipe))
    errors.extend(of_weights(recipe))
    errors.extend(of_streaming(recipe))
    errors.extend(of_sentence_units(recipe))
    return errors


def _unknown_to_the_host(recipe: Mapping[str, Any], on: Host) -> Iterator[UALError]:
    """Settings that an Axolotl would drop without a word."""
    for key, by_itself in _HOSTS_DO.items():
        value = recipe.get(key)
        if key in on.lacks and value is not None and bool(value) != by_itself:
            yield UnsupportedError(
                f"{key}: {_shown(value)}: Axolotl {on.version} does not have this setting and "
                "would train without it",
                f"take `{key}` out, or train with a newer Axolotl",
            )


def _with_a_reference(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    try:
        smoothing = parse_ual(recipe.get("ual")).smoothing
    except ConfigError:
        return
    if smoothing.prior == "uniform" or kind_of_rl(recipe) in ON_PROMPTS:
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


def _conflicts(recipe: Mapping[str, Any]) -> list[UALError]:
    """What in a recipe contradicts its `ual.curriculum` and `ual.preference`.

    Args:
        recipe: the YAML as a mapping. A `ual:` block that is wrong by itself gives nothing here.
    """
    try:
        ual = parse_ual(recipe.get("ual"))
    except ConfigError:
        return []
    rl = kind_of_rl(recipe)
    found: list[UALError] = [*of_reestimation(recipe, ual)]
    if ual.curriculum.active:
        found += _of_the_curriculum(recipe, ual)
    if ual.curriculum.refresh_reference:
        found += of_the_reference(recipe)
    if rl in PREFERENCE_TRAINERS and ual.annotate is not None:
        what = "prompts" if rl in ON_PROMPTS else "pairs"
        found.append(
            ConfigError(
                f"ual.annotate: scores samples, and `rl: {rl}` trains on {what}",
                f"take `annotate:` out, and name the {what} under `datasets:`",
            )
        )
    if rl in PREFERENCE_TRAINERS and rl not in TRAINED_ON_PAIRS and ual.pairs is not None:
        found.append(
            ConfigError(
                f"ual.pairs: `rl: {rl}` is not trained on a dialogue with two answers",
                f"set `rl:` to one of {', '.join(TRAINED_ON_PAIRS)}, or take `pairs:` out",
            )
        )
    if rl in ON_PROMPTS:
        return [*found, *of_prompts(recipe, ual)]
    if rl in PREFERENCE_TRAINERS and not ual.curriculum.active:
        found += _without_effect(str(rl), ual)
    if rl in SMOOTHED:
        found += _of_the_loss(recipe)
    elif rl in PREFERENCE_TRAINERS:
        found += _without_smoothing(rl, ual)
    return found


def _of_the_curriculum(recipe: Mapping[str, Any], ual: UALConfig) -> Iterator[UALError]:
    for key, what in _OWN_ORDER.items():
        if recipe.get(key):
            yield UnsupportedError(
                f"{key}: true: {what}, and `ual.curriculum` orders them by stage",
                f"set `{key}: false`; packing stays tight inside each stage",
            )
    for key in ("streaming", "pretraining_dataset"):
        if recipe.get(key):
            yield UnsupportedError(
                f"ual.curriculum: a streaming dataset (`{key}`) has no order to follow",
                f"take `{key}` out, or set `ual.curriculum.mode: none`",
            )
    for key in ("split_batches", "dispatch_batches"):
        if (recipe.get("accelerator_config") or {}).get(key):
            yield UnsupportedError(
                f"accelerator_config.{key}: true: the curriculum shares the batches out itself",
                "set it to false",
            )
    epochs = recipe.get("num_epochs")
    if ual.curriculum.epochs is None and isinstance(epochs, float) and epochs != int(epochs):
        yield ConfigError(
            f"num_epochs: {epochs:g}: the stages of a curriculum are trained on whole epochs",
            "set a whole number, or `ual.curriculum.epochs`",
        )
    evaluated = recipe.get("val_set_size") or recipe.get("test_datasets")
    if ual.curriculum.evaluate_at_boundary and not evaluated:
        yield ConfigError(
            "ual.curriculum.evaluate_at_boundary: there is nothing to evaluate on",
            "set `val_set_size` or `test_datasets`",
        )
    if ual.curriculum.evaluate_at_boundary and recipe.get("eval_on_start") is False:
        yield ConfigError(
            "eval_on_start: false: `ual.curriculum.evaluate_at_boundary` evaluates before the "
            "first stage, which the table of transitions starts from",
            "take `eval_on_start` out, or set `ual.curriculum.evaluate_at_boundary: false`",
        )
    yield from _of_the_scale(recipe, ual)


def _of_the_scale(recipe: Mapping[str, Any], ual: UALConfig) -> Iterator[UALError]:
    if all(scale == 1.0 for scale in ual.curriculum.stage_scales()):
        return
    scheduler = recipe.get("lr_scheduler")
    if scheduler in ("reduce_lr_on_plateau", "greedy"):
        yield UnsupportedError(
            f"ual.curriculum.learning_rate_scale: `lr_scheduler: {scheduler}` sets rates by the "
            "loss, not by the step",
            "use another scheduler, or no scale",
        )
    owned = {"scheduler", "optimizer"} & deepspeed_config(recipe).keys()
    if owned:
        yield UnsupportedError(
            f"ual.curriculum.learning_rate_scale: the DeepSpeed config has `{min(owned)}`, so "
            "DeepSpeed sets the rates",
            f"take `{min(owned)}` out of the DeepSpeed config; the recipe's own is used then",
        )


def _of_the_loss(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    for key, why in _OTHER_LOSSES.items():
        if recipe.get(key):
            yield UnsupportedError(f"{key}: {_shown(recipe[key])}: {why}", f"take `{key}` out")
    named = recipe.get("dpo_loss_type")
    types = [named] if isinstance(named, str) else list(named or [])
    if types and types not in (["sigmoid"], ["ipo"]):
        yield UnsupportedError(
            f"dpo_loss_type: {named}: pairs are smoothed in the sigmoid and the IPO loss",
            "set `dpo_loss_type: [sigmoid]` or `[ipo]`, or take the plugin out",
        )
    zero = deepspeed_config(recipe).get("zero_optimization") or {}
    if zero.get("stage") == 3 and has_adapter_on_head(recipe):
        yield UnsupportedError(
            "deepspeed: ZeRO-3 with an adapter on the head: its shards cannot be gathered for "
            "chunks of tokens",
            "leave `lm_head` out of `lora_target_modules`, or use ZeRO-2",
        )


def _without_effect(rl: str, ual: UALConfig) -> Iterator[UALError]:
    changes_the_loss = ual.preference.changes_the_loss or ual.loss.weight is not None
    if ual.curriculum.keep is None and not (rl in SMOOTHED and changes_the_loss):
        yield ConfigError(
            f"rl: {rl}: no pair is smoothed ({' and '.join(SMOOTHED)} can, with "
            "`ual.preference.smoothing`), and `ual.curriculum.mode` is none: the plugin would "
            "have no effect",
            "set `ual.curriculum.mode`, or take the plugin out",
        )


def _without_smoothing(rl: str, ual: UALConfig) -> Iterator[UALError]:
    for key, value in ual.preference.of_dpo_only():
        yield ConfigError(
            f"ual.preference.{key}: {value}: of `rl: dpo` and `rl: ipo` only, and this is "
            f"`rl: {rl}`",
            "take it out",
        )


def _shown(value: Any) -> str:
    """A value as YAML spells it, cut where it is long."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
