"""Settings that a curriculum or a preference loss contradicts, known from the YAML alone."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from axolotl_ual.columns import SMOOTHING
from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.ual import UALConfig, parse_ual

PREFERENCE_TRAINERS = {
    "dpo": "axolotl_ual.training.dpo.UALDPOTrainer",
    "ipo": "axolotl_ual.training.dpo.UALDPOTrainer",
    "orpo": "axolotl_ual.training.dpo.UALORPOTrainer",
    "simpo": "axolotl_ual.training.dpo.UALCPOTrainer",
    "kto": "axolotl_ual.training.dpo.UALKTOTrainer",
}
"""The trainer of each `rl:` that this plugin trains with."""

SMOOTHED = ("dpo", "ipo")
"""Those whose loss smooths each pair."""

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
    "dpo_use_weighting": "weights pairs by log-probabilities over the whole vocabulary",
    "dpo_use_liger_kernel": "computes the loss in a kernel that knows no pair's smoothing; "
    "log-probabilities are taken in chunks without it",
    "dpo_padding_free": "is not what the trainer does; it pads",
}


def needed_column(recipe: Mapping[str, Any], ual: UALConfig) -> str:
    """The column without which a recipe cannot be trained as it says."""
    rl = kind_of_rl(recipe)
    if rl is None or (rl in SMOOTHED and ual.preference.smoothing):
        return SMOOTHING
    return ual.curriculum.column


def kind_of_rl(recipe: Mapping[str, Any]) -> str | None:
    """The recipe's `rl:` as text, also where Axolotl has made an enumeration of it."""
    value = recipe.get("rl")
    return None if not value else str(getattr(value, "value", value))


def shown(value: Any) -> str:
    """A value as YAML spells it, cut where it is long."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def has_adapter_on_head(recipe: Mapping[str, Any]) -> bool:
    """Whether the adapter of a recipe is on the head, as far as its YAML tells."""
    named = recipe.get("lora_target_modules") or []
    return "lm_head" in ([named] if isinstance(named, str) else named)


def conflicts(recipe: Mapping[str, Any]) -> list[UALError]:
    """What in a recipe contradicts its `ual.curriculum` and `ual.preference`.

    Args:
        recipe: the YAML as a mapping. A `ual:` block that is wrong by itself gives nothing here.
    """
    try:
        ual = parse_ual(recipe.get("ual"))
    except ConfigError:
        return []
    rl = kind_of_rl(recipe)
    found: list[UALError] = []
    if ual.curriculum.active:
        found += _of_the_curriculum(recipe, ual)
    if rl in PREFERENCE_TRAINERS and ual.annotate is not None:
        found.append(
            ConfigError(
                f"ual.annotate: scores samples, and `rl: {rl}` trains on pairs",
                "take `annotate:` out, and name the pairs under `datasets:`",
            )
        )
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
    owned = {"scheduler", "optimizer"} & _deepspeed(recipe).keys()
    if owned:
        yield UnsupportedError(
            f"ual.curriculum.learning_rate_scale: the DeepSpeed config has `{min(owned)}`, so "
            "DeepSpeed sets the rates",
            f"take `{min(owned)}` out of the DeepSpeed config; the recipe's own is used then",
        )


def _of_the_loss(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    for key, why in _OTHER_LOSSES.items():
        if recipe.get(key):
            yield UnsupportedError(f"{key}: {shown(recipe[key])}: {why}", f"take `{key}` out")
    named = recipe.get("dpo_loss_type")
    types = [named] if isinstance(named, str) else list(named or [])
    if types and types not in (["sigmoid"], ["ipo"]):
        yield UnsupportedError(
            f"dpo_loss_type: {named}: pairs are smoothed in the sigmoid and the IPO loss",
            "set `dpo_loss_type: [sigmoid]` or `[ipo]`, or take the plugin out",
        )
    zero = _deepspeed(recipe).get("zero_optimization") or {}
    if zero.get("stage") == 3 and has_adapter_on_head(recipe):
        yield UnsupportedError(
            "deepspeed: ZeRO-3 with an adapter on the head: its shards cannot be gathered for "
            "chunks of tokens",
            "leave `lm_head` out of `lora_target_modules`, or use ZeRO-2",
        )


def _without_effect(rl: str, ual: UALConfig) -> Iterator[UALError]:
    if rl not in SMOOTHED or not ual.preference.smoothing:
        yield ConfigError(
            f"rl: {rl}: no pair is smoothed ({' and '.join(SMOOTHED)} can, with "
            "`ual.preference.smoothing`), and `ual.curriculum.mode` is none: the plugin would "
            "have no effect",
            "set `ual.curriculum.mode`, or take the plugin out",
        )


def _without_smoothing(rl: str, ual: UALConfig) -> Iterator[UALError]:
    if ual.preference.beta is not None:
        yield ConfigError(
            f"ual.preference.beta: {ual.preference.beta}: of `rl: dpo` and `rl: ipo` only, and "
            f"this is `rl: {rl}`",
            "take it out",
        )


def _deepspeed(recipe: Mapping[str, Any]) -> Mapping[str, Any]:
    config = recipe.get("deepspeed")
    if isinstance(config, str) and Path(config).is_file():
        try:
            config = json.loads(Path(config).read_text(encoding="utf-8"))
        except ValueError:
            return {}
    return config if isinstance(config, Mapping) else {}
