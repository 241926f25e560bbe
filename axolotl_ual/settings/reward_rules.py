"""What a recipe may not ask of a reward model: `reward_model: true`.

Axolotl loads its pairs as it loads samples, and computes a loss of whole responses. So what is of
tokens, of samples, or of a policy has no place there.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.parallel_rules import sequence_cuts
from axolotl_ual.settings.preference import REWARD_MODEL, trains_reward_model
from axolotl_ual.settings.ual import UALConfig, parse_ual

_WHAT: Final = f"{REWARD_MODEL}: true"


def of_reward_models(recipe: Mapping[str, Any], fsdp_generation: int) -> Iterator[UALError]:
    """What does not go with a reward model; nothing where the recipe trains none.

    Args:
        recipe: the YAML as a mapping. A `ual:` block that is wrong by itself gives nothing here.
        fsdp_generation: that Axolotl takes where a recipe names none.
    """
    if not recipe.get(REWARD_MODEL):
        return
    if not trains_reward_model(recipe):
        yield ConfigError(
            f"{_WHAT}: with `rl: {recipe['rl']}` there are two losses, and one can be trained",
            f"take `{REWARD_MODEL}:` or `rl:` out",
        )
        return
    yield from _of_data(recipe)
    yield from _of_engines(recipe, fsdp_generation)
    try:
        ual = parse_ual(recipe.get("ual"))
    except ConfigError:
        return
    yield from _of_samples(ual)
    yield from _of_tokens(ual)
    yield from _of_the_preference(ual)


def _of_data(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    for key, why in {
        "sample_packing": "packs rows of one text each, and a pair has two",
        "streaming": "streamed rows become batches of single texts, and a pair has two",
        "skip_prepare_dataset": "leaves tokenising to a collator, which knows nothing of pairs",
        "processor_type": "is for rows with images, and pairs of reward models are of text",
        "use_eaft": "weighs tokens, and the loss is of pairs",
    }.items():
        if recipe.get(key):
            shown = str(recipe[key]).lower() if recipe[key] is True else recipe[key]
            yield UnsupportedError(f"{key}: {shown}: {why} (`{_WHAT}`)", f"take `{key}:` out")


def _of_engines(recipe: Mapping[str, Any], fsdp_generation: int) -> Iterator[UALError]:
    for key, size in sequence_cuts(recipe):
        yield UnsupportedError(
            f"{key}: {size}: a reward is read from the end of a whole response, and a process "
            "would have a part of it",
            f"set `{key}: 1`",
        )
    config = recipe.get("fsdp_config") or {}
    if not (recipe.get("fsdp") or config):
        return
    named = [recipe.get("fsdp_version"), config.get("fsdp_version"), config.get("version")]
    version = next((value for value in named if value is not None), fsdp_generation)
    if str(version) != "2":
        yield UnsupportedError(
            f"fsdp_version: {version}: `{_WHAT}` trains the same on each process with the second "
            "generation of FSDP; the first is held to that for SFT alone",
            "set `fsdp_version: 2`",
        )


def _of_samples(ual: UALConfig) -> Iterator[UALError]:
    for key, what in {
        "annotate": "scores samples",
        "annotations": "is about samples",
        "pairs": "makes pairs of dialogues, whose `type:` Axolotl reads for `rl:` alone",
        "reestimate": "estimates the uncertainty of samples",
    }.items():
        if getattr(ual, key) is not None:
            yield ConfigError(
                f"ual.{key}: {what}, and `{_WHAT}` trains on pairs of `type: bradley_terry`",
                f"take `{key}:` out, and name the pairs under `datasets:`",
            )


def _of_tokens(ual: UALConfig) -> Iterator[UALError]:
    loss, smoothing = ual.loss, ual.smoothing
    message = None if loss.weight is None else loss.weight.message
    for key, value, neutral in (
        ("loss.kernel", loss.kernel, "auto"),
        ("loss.normalization", loss.normalization, "tokens"),
        ("loss.token_weight", loss.token_weight, "none"),
        ("loss.anchor.weight", None if loss.anchor is None else loss.anchor.weight, None),
        ("loss.weight.message", message, None),
        ("smoothing.prior", smoothing.prior, "uniform"),
    ):
        if value != neutral:
            yield UnsupportedError(
                f"ual.{key}: {value}: is of a loss of tokens, and `{_WHAT}` has one of pairs",
                "take it out",
            )


def _of_the_preference(ual: UALConfig) -> Iterator[UALError]:
    preference = ual.preference
    for key in ("beta", "weighting"):
        value = getattr(preference, key)
        if value is not None:
            yield ConfigError(
                f"ual.preference.{key}: {value}: is of a policy, and `{_WHAT}` trains none",
                "take it out",
            )
    orders = ual.curriculum.active or ual.curriculum.keep is not None
    if not (orders or preference.changes_the_loss or ual.loss.weight is not None):
        yield ConfigError(
            f"{_WHAT}: `ual.preference.smoothing` is false, `ual.curriculum.mode` none, and no "
            "pair has a margin or a weight: the plugin would have no effect",
            "set one of them, or take the plugin out",
        )
