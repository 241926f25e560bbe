"""Settings of a recipe that do not go with weights in its loss, known from the YAML alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.settings.eaft import WHAT, asks_for_eaft, of_eaft
from axolotl_ual.settings.loss import LossConfig
from axolotl_ual.settings.preference import SMOOTHED, kind_of_rl
from axolotl_ual.settings.ual import parse_ual


def of_weights(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    """An error for each such setting.

    Args:
        recipe: the YAML as a mapping. A `ual:` block that is wrong by itself gives nothing here.
    """
    try:
        loss = parse_ual(recipe.get("ual")).loss
    except ConfigError:
        return
    asked = [*_asked(loss), *([WHAT] if asks_for_eaft(recipe) else [])]
    if not asked:
        return
    if recipe.get("rl"):
        yield from _of_preferences(str(kind_of_rl(recipe)), loss, asked)
        return
    if has_adapter_on_head(recipe):
        yield UnsupportedError(
            f"{asked[0]}: is computed in chunks, and the head has an adapter",
            "leave `lm_head` out of `lora_target_modules`",
        )
    if asks_for_eaft(recipe):
        yield from of_eaft(recipe, loss)
    if loss.anchor is not None:
        yield from _of_the_anchor(recipe, loss)
    if loss.weight is not None and loss.weight.message is not None:
        yield from _of_messages(recipe, loss.weight.shown)


def has_adapter_on_head(recipe: Mapping[str, Any]) -> bool:
    """Whether the adapter of a recipe is on the head, as far as its YAML tells."""
    named = recipe.get("lora_target_modules") or []
    return "lm_head" in ([named] if isinstance(named, str) else named)


def _asked(loss: LossConfig) -> list[str]:
    """The settings that make tokens, rows or pairs count differently."""
    found = [] if loss.weight is None else [loss.weight.shown]
    if loss.token_weight != "none":
        found.append(f"ual.loss.token_weight: {loss.token_weight}")
    if loss.anchor is not None:
        found.append(f"ual.loss.anchor.weight: {loss.anchor.weight:g}")
    return found


def _of_preferences(rl: str, loss: LossConfig, asked: list[str]) -> Iterator[UALError]:
    weighs_pairs = rl in SMOOTHED and loss.weight is not None and loss.weight.message is None
    why = f"the loss of `rl: {rl}` is not weighted here"
    if rl in SMOOTHED:
        why = f"`rl: {rl}` has a loss of pairs, in which tokens and messages have no weight"
    for setting in asked[1:] if weighs_pairs else asked:
        yield UnsupportedError(f"{setting}: {why}", "take it out")


def _of_the_anchor(recipe: Mapping[str, Any], loss: LossConfig) -> Iterator[UALError]:
    smoothing = parse_ual(recipe.get("ual")).smoothing
    assert loss.anchor is not None
    named = loss.anchor.reference or smoothing.reference
    if named is None and not recipe.get("adapter"):
        yield UnsupportedError(
            f"ual.loss.anchor.weight: {loss.anchor.weight:g}: there is no `adapter:` that could be "
            "switched off to give the model before tuning",
            "set `ual.loss.anchor.reference` to the model before tuning, for example to the "
            "`base_model`",
        )


def _of_messages(recipe: Mapping[str, Any], shown: str) -> Iterator[UALError]:
    for entry in recipe.get("datasets") or []:
        kind = entry.get("type") if isinstance(entry, Mapping) else None
        if str(kind).partition(".")[0] != "chat_template":
            yield UnsupportedError(
                f"{shown}: type `{kind}` of `{entry.get('path')}` does not tell which token is of "
                "which message",
                "use `type: chat_template`, or a weight of each row (`ual.loss.weight: COLUMN`)",
            )
