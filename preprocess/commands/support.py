"""The page of support: what the rules say of each setting, for each kind of training and Axolotl.

A setting is put on top of a plain recipe and the rules are asked that `check` and the plugin ask.
Nothing here says what is refused: a rule that changes, changes the page.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from axolotl_ual.errors import ConfigError, UALError
from axolotl_ual.host import NEWEST, OLDEST, Host, describe
from axolotl_ual.settings.preference import (
    ON_PROMPTS,
    PREFERENCE_TRAINERS,
    REWARD_MODEL,
    SMOOTHED,
)
from axolotl_ual.settings.refusals import unsupported
from axolotl_ual.settings.ual import parse_ual

HOSTS: Final = [describe(f"{OLDEST[0]}.{minor}.0") for minor in range(OLDEST[1], NEWEST[1] + 1)]
"""An Axolotl of each minor version that the tests run on."""

_HEAD: Final = {"lora_target_modules": ["q_proj", "lm_head"]}
_PHASED: Final = {"ual": {"curriculum": {"mode": "phased"}}}
_SCALED: Final = {"ual": {"curriculum": {"mode": "phased", "learning_rate_scale": [1, 0.5, 0.5]}}}
_BOUNDARY: Final = {"ual": {"curriculum": {"mode": "phased", "evaluate_at_boundary": True}}}
_REFRESHED: Final = {"ual": {"curriculum": {"mode": "phased", "refresh_reference": True}}}
_REESTIMATED: Final = {
    "ual": {"curriculum": {"mode": "phased"}, "reestimate": {"estimator": "perplexity"}}
}
_REFERENCE: Final = {"ual": {"smoothing": {"prior": "reference"}}}
_IMAGES: Final = {"processor_type": "AutoProcessor", "skip_prepare_dataset": True}
_TOP_K: Final = {"ual": {"smoothing": {"prior": "reference", "reference_top_k": 64}}}


def _zero(stage: int, **more: Any) -> dict[str, Any]:
    return {"deepspeed": {"zero_optimization": {"stage": stage}, **more}}


SETTINGS: Final[dict[str, list[Mapping[str, Any]]]] = {
    "Weights and adapters": [
        {"adapter": "lora"},
        {"adapter": "qlora", "load_in_4bit": True},
        {"adapter": None},
        _HEAD,
        {**_HEAD, "peft_use_dora": True},
        {**_HEAD, "liger_fused_linear_cross_entropy": True},
        {**_HEAD, "ual": {"loss": {"kernel": "chunked"}}},
    ],
    "Kernels": [
        {"liger_fused_linear_cross_entropy": True},
        {"cut_cross_entropy": True},
        {"gradient_checkpointing": True},
        {"ual": {"loss": {"kernel": "chunked"}}},
    ],
    "Several GPUs": [
        _zero(1),
        _zero(2),
        _zero(3),
        {**_zero(3), **_HEAD},
        {"fsdp_version": 2, "fsdp_config": {"offload_params": False}},
        {"fsdp_version": 1, "fsdp_config": {"offload_params": False}},
        {"fsdp_config": {"offload_params": False}},
        {"context_parallel_size": 2},
        {"context_parallel": {"size": 2}},
        {"sequence_parallel_degree": 2},
        {"tensor_parallel_size": 2},
        {"tensor_parallel_size": 2, "adapter": None},
        {"expert_parallel_size": 2},
    ],
    "Data": [
        {"sample_packing": True},
        {"val_set_size": 0.05},
        {"streaming": True, "max_steps": 100},
        {"pretraining_dataset": "corpus", "max_steps": 100, "sample_packing": True},
        {"pretraining_dataset": "corpus", "max_steps": 100},
        {"skip_prepare_dataset": True},
        {"push_dataset_to_hub": "you/data"},
        {"processor_type": "AutoProcessor"},
    ],
    "Images": [
        _IMAGES,
        {**_IMAGES, "val_set_size": 0.05},
        {**_IMAGES, "sample_packing": True},
        {**_IMAGES, "group_by_length": True},
        {**_IMAGES, "remove_unused_columns": True},
        {**_IMAGES, "context_parallel_size": 2},
        {**_IMAGES, **_PHASED},
        {**_IMAGES, **_REFERENCE},
        {**_IMAGES, **_TOP_K},
        {**_IMAGES, "ual": {"loss": {"weight": "importance"}}},
        {**_IMAGES, "ual": {"loss": {"weight": {"message": "weight"}}}},
    ],
    "Losses": [
        {"ebft": {"mode": "strided"}},
        {"reward_model": True},
        {"process_reward_model": True},
        {"orpo_alpha": 0.1},
        {"kd_trainer": True},
        {"use_dft": True},
        {"use_eaft": True},
        {"plugins": ["axolotl.integrations.diffusion.DiffusionPlugin"]},
        {"label_smoothing_factor": 0.1},
        {"trainer_cls": "my.Trainer"},
        {"dpo_loss_type": ["ipo"]},
        {"dpo_loss_type": ["robust"]},
        {"dpo_label_smoothing": 0.1},
        {"dpo_loss_weights": [1.0]},
        {"dpo_use_weighting": True},
        {"dpo_use_liger_kernel": True},
        {"dpo_padding_free": True},
    ],
    "Priors": [
        _REFERENCE,
        {**_REFERENCE, "adapter": None},
        {"ual": {"smoothing": {"prior": "reference", "reference": "base"}}, "adapter": None},
        {**_TOP_K, "adapter": None},
    ],
    "What counts": [
        {"ual": {"loss": {"weight": "importance"}}},
        {"ual": {"loss": {"weight": {"from": "uncertainty", "at_1": 0.3}}}},
        {"ual": {"loss": {"weight": {"message": "weight"}}}},
        {"ual": {"loss": {"token_weight": "probability"}}},
        {"ual": {"loss": {"token_weight": "entropy"}}, "liger_fused_linear_cross_entropy": True},
        {"ual": {"loss": {"token_weight": "entropy"}}, **_HEAD},
        {"ual": {"loss": {"anchor": {"weight": 0.05}}}},
        {"ual": {"loss": {"anchor": {"weight": 0.05}}}, "adapter": None},
        {"ual": {"loss": {"anchor": {"weight": 0.05, "reference": "base"}}}, "adapter": None},
    ],
    "Annotations and pairs": [
        {"ual": {"annotate": {"output": "data", "estimator": "perplexity"}}},
        {"ual": {"annotations": "you/annotations"}},
        {"ual": {"pairs": {"output": "pairs", "judge": {"model": "gpt-4o"}}}},
        {"ual": {"preference": {"flips": "robust"}}},
        {"ual": {"preference": {"margin": {"mean": 0.5, "tau": 0.1}}}},
        {"ual": {"preference": {"weighting": "wpo"}}},
        {"ual": {"preference": {"smoothing": False}}},
        {"ual": {"preference": {"smoothing": False}, "curriculum": {"mode": "phased"}}},
    ],
    "Order": [
        {"balance_labels": True},
        {"full_determinism": True},
        {"eval_on_start": False},
        {"ual": {"curriculum": {"keep": {"by": "gap", "at_least": 0.5}}}},
        _PHASED,
        {"ual": {"curriculum": {"mode": "cumulative"}}},
        {**_PHASED, "sample_packing": True},
        {**_PHASED, "sample_packing_sequentially": True},
        {**_PHASED, "curriculum_sampling": True},
        {**_PHASED, "group_by_length": True},
        {**_PHASED, "balance_labels": True},
        {**_PHASED, "streaming": True, "max_steps": 100},
        {**_PHASED, "accelerator_config": {"split_batches": True}},
        {**_PHASED, "accelerator_config": {"dispatch_batches": True}},
        {**_PHASED, "num_epochs": 1.5},
        {**_SCALED, "lr_scheduler": "cosine"},
        {**_SCALED, "lr_scheduler": "reduce_lr_on_plateau"},
        {**_SCALED, **_zero(2, scheduler={"type": "WarmupLR"})},
        {**_BOUNDARY, "val_set_size": 0.05},
        _BOUNDARY,
        {**_BOUNDARY, "val_set_size": 0.05, "eval_on_start": False},
        {"ual": {"curriculum": {"mode": "phased"}, "preference": {"beta": [0.1, 0.2, 0.3]}}},
        _REFRESHED,
        {**_REFRESHED, "adapter": None},
        {**_REFRESHED, **_zero(2)},
        {**_REFRESHED, "precompute_ref_log_probs": True},
        _REESTIMATED,
        {**_REESTIMATED, "sample_packing": True},
        {**_REESTIMATED, **_zero(3)},
        {**_REESTIMATED, "context_parallel_size": 2},
        {"trl": {"async_prefetch": True}},
    ],
}
"""What is asked about, in groups: each is put on top of a plain recipe."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the rules say of a setting.

    Attributes:
        accepted: kind of training -> the hosts that it is accepted on.
        reasons: why not, where it is not, each with its fix.
    """

    accepted: dict[str, list[Host]]
    reasons: list[UALError]


REWARD: Final = "reward"
"""A reward model, whose recipe has no `rl:`."""
KINDS: Final = ("sft", *PREFERENCE_TRAINERS, REWARD)


def verdict(setting: Mapping[str, Any]) -> Verdict:
    """Ask the rules about a setting on top of a plain recipe of each kind, on each host."""
    accepted: dict[str, list[Host]] = {}
    reasons: dict[str, UALError] = {}
    for kind in KINDS:
        if not _concerns(setting, kind):
            continue
        accepted[kind] = []
        for host in HOSTS:
            found = problems(_on_top(plain(kind), setting), host)
            for error in found:
                # One reason for all kinds and versions that it is the same for.
                same = error.problem.replace(kind, "").replace(str(host.version), "")
                reasons.setdefault(same, error)
            accepted[kind] += [] if found else [host]
    return Verdict(accepted, list(reasons.values()))


def plain(kind: str) -> dict[str, Any]:
    """A recipe that is accepted: LoRA, and a curriculum for losses that smooth no pair."""
    recipe: dict[str, Any] = {"base_model": "model", "adapter": "lora", "num_epochs": 1}
    if kind == "sft":
        return recipe
    if kind == REWARD:
        return {**recipe, REWARD_MODEL: True}
    return {**recipe, "rl": kind, **({} if kind in SMOOTHED else _PHASED)}


def problems(recipe: Mapping[str, Any], host: Host) -> list[UALError]:
    """What stands against a recipe, as `axolotl-ual check` finds it from the YAML alone."""
    try:
        parse_ual(recipe.get("ual"))
    except ConfigError as error:
        return [error]
    return unsupported(recipe, host)


def _on_top(recipe: Mapping[str, Any], setting: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**recipe, **setting}
    for key, value in merged.items():
        if isinstance(value, Mapping):
            merged[key] = _on_top(recipe.get(key, {}), value)
    return merged


def _concerns(setting: Mapping[str, Any], kind: str) -> bool:
    """Whether a kind of training reads the setting at all."""
    ual = setting.get("ual", {})
    if any(key.startswith("dpo_") for key in setting):
        return kind in SMOOTHED
    if {"annotations", "reestimate"} & ual.keys() or setting.keys() >= _IMAGES.keys():
        return kind == "sft"
    if "ebft" in setting:
        return kind == "ebft"
    if "trl" in setting:
        return kind in ON_PROMPTS
    return kind != "sft" or not {"pairs", "preference"} & ual.keys()


def support_page() -> str:
    """Settings by group, and for each whether it is accepted; then what each Axolotl does."""
    parts = [_OPENING]
    for group, settings in SETTINGS.items():
        parts.append(f"\n## {group}\n\n| setting | {' | '.join(KINDS)} |\n")
        parts.append(f"|---|{'---|' * len(KINDS)}\n")
        verdicts = {_label(setting): verdict(setting) for setting in settings}
        parts += [_row(label, found) for label, found in verdicts.items()]
        why = [
            f"- `{label}`: {_sentence(error)}\n"
            for label, found in verdicts.items()
            for error in found.reasons
        ]
        parts += ["\nWhy not:\n\n", *why] if why else []
    return "".join([*parts, *_hosts()])


_OPENING: Final = """# Support

Written by `axolotl-ual agent-docs support`: each setting is put on top of a plain recipe (a LoRA
adapter; for `orpo`, `simpo`, `kto`, `grpo`, `gdpo` and `ebft` a curriculum; `reward` is
`reward_model: true`), and the rules are asked that `axolotl-ual check` and the plugin ask. *yes*:
accepted. *no*: the run stops before the model is loaded. A number: only on these versions of
Axolotl. A dash: this kind of training does not read it.

Accepted is what the rules accept. What Axolotl itself refuses is not in these tables; `axolotl-ual
check RECIPE` asks both. Settings that are not named here are Axolotl's own and left alone.
"""


def _row(label: str, found: Verdict) -> str:
    cells = [_cell(found.accepted[kind]) if kind in found.accepted else "-" for kind in KINDS]
    return f"| `{label}` | {' | '.join(cells)} |\n"


def _cell(hosts: list[Host]) -> str:
    if len(hosts) == len(HOSTS):
        return "yes"
    return ", ".join(map(_minor, hosts)) or "no"


def _minor(host: Host) -> str:
    return str(host.version).rpartition(".")[0]


def _label(setting: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}: {_value(value)}" for key, value in _leaves("", setting))


def _leaves(prefix: str, setting: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in setting.items():
        if isinstance(value, Mapping):
            yield from _leaves(f"{prefix}{key}.", value)
        else:
            yield prefix + key, value


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _sentence(error: UALError) -> str:
    return f"{' '.join(error.problem.split())}. Fix: {' '.join(error.fix.split())}."


def _hosts() -> Iterator[str]:
    yield "\n## Axolotl\n\n| | " + " | ".join(map(_minor, HOSTS)) + " |\n"
    yield f"|---|{'---|' * len(HOSTS)}\n"
    for what, of in {
        "loads the installed plugin without a line in the recipe": "loads_installed_plugins",
        "its own loss is one mean over the tokens of a step": "averages_tokens",
        "seeds before it makes the adapter; else the plugin does": "seeds_model",
    }.items():
        yield f"| {what} | {' | '.join('yes' if getattr(h, of) else 'no' for h in HOSTS)} |\n"
    generations = " | ".join(str(host.fsdp_generation) for host in HOSTS)
    yield f"| FSDP where the recipe names no version | {generations} |\n"
    lacks = [", ".join(f"`{key}`" for key in sorted(host.lacks)) or "-" for host in HOSTS]
    yield f"| settings that it would drop, so they are refused | {' | '.join(lacks)} |\n"
