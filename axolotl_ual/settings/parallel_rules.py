"""What a recipe may not ask of context, tensor and expert parallelism and of FSDP.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.host import Host
from axolotl_ual.settings.ual import parse_ual
from axolotl_ual.settings.weighing import has_adapter_on_head

_CONTEXT = ("context_parallel_size", "sequence_parallel_degree")


def of_context(recipe: Mapping[str, Any]) -> Iterator[UALError]:
    """What does not go with sequences that are cut over processes.

    Args:
        recipe: the YAML as a mapping.
    """
    said = _context(recipe)
    if said is None:
        return
    what, fix = said
    if recipe.get("rl"):
        yield UnsupportedError(
            f"{what}: `rl: {recipe['rl']}` compares whole responses, and a process would have a "
            "part of each",
            fix,
        )
        return
    if recipe.get("deepspeed"):
        yield UnsupportedError(
            f"{what}: with `deepspeed`, sequences are split in DeepSpeed's own way, whose trainer "
            "computes the loss past the plugin",
            f"take `deepspeed:` out, with FSDP (`fsdp_version: 2`) in its place, or {fix}",
        )
    if has_adapter_on_head(recipe):
        yield UnsupportedError(
            f"{what}: the loss of a part of a sequence is computed in chunks, and the head has an "
            "adapter",
            "leave `lm_head` out of `lora_target_modules`",
        )
    yield from _of_ual(recipe, what)


def _of_ual(recipe: Mapping[str, Any], what: str) -> Iterator[UALError]:
    try:
        ual = parse_ual(recipe.get("ual"))
    except ConfigError:
        return
    if ual.loss.kernel == "model":
        yield UnsupportedError(
            f"ual.loss.kernel: model: with `{what}` it would be a mean over one part of each "
            "sequence, and not over the tokens of a step",
            "set `ual.loss.kernel: auto`",
        )
    if ual.reestimate is not None:
        yield UnsupportedError(
            f"ual.reestimate: with `{what}` a process sees the predictions of one part of each "
            "sequence",
            "take `reestimate:` out",
        )
    if ual.curriculum.active and ual.curriculum.evaluate_at_boundary:
        yield UnsupportedError(
            f"ual.curriculum.evaluate_at_boundary: with `{what}` a process sees the predictions of "
            "one part of each sequence",
            "set it to false; `eval_steps` evaluates with context parallelism as well",
        )


def _context(recipe: Mapping[str, Any]) -> tuple[str, str] | None:
    """The setting that cuts sequences, and how it is taken back; None where none does."""
    for key in _CONTEXT:
        if _above_one(recipe.get(key)):
            return f"{key}: {recipe[key]}", f"set `{key}: 1`"
    block = recipe.get("context_parallel")
    if isinstance(block, Mapping) and _above_one(block.get("size")):
        return (
            f"context_parallel.size: {block['size']}",
            "set `context_parallel.size: 1`, or take `context_parallel:` out",
        )
    return None


def sequence_cuts(recipe: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Keys by which a recipe cuts sequences over processes, and over how many."""
    block = recipe.get("context_parallel")
    sizes = {key: recipe.get(key) for key in ("context_parallel_size", "sequence_parallel_degree")}
    sizes["context_parallel.size"] = block.get("size") if isinstance(block, Mapping) else None
    yield from ((key, size) for key, size in sizes.items() if isinstance(size, int) and size > 1)


def of_fsdp(recipe: Mapping[str, Any], on: Host) -> Iterator[UALError]:
    """What does not go with the first generation of FSDP, which only Axolotl 0.19 has."""
    config = recipe.get("fsdp_config") or {}
    if not (recipe.get("fsdp") or config):
        return
    named = [recipe.get("fsdp_version"), config.get("fsdp_version"), config.get("version")]
    version = next((value for value in named if value is not None), on.fsdp_generation)
    if str(version) == "2":
        return
    what, fix = f"fsdp_version: {version}", "set `fsdp_version: 2`"
    if on.fsdp_generation > 1:
        axolotl = "Axolotl" if on.version is None else f"Axolotl {on.version}"
        yield UnsupportedError(f"{what}: {axolotl} has the second generation of FSDP alone", fix)
        return
    if recipe.get("rl"):
        yield UnsupportedError(
            f"{what}: `rl: {recipe['rl']}` trains the same on each process with the second "
            "generation of FSDP; the first is held to that for SFT alone",
            fix,
        )


def _above_one(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 1
