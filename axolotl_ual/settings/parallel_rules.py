"""What a recipe may not ask of context, tensor and expert parallelism and of FSDP.

Imports neither torch nor axolotl.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from axolotl_ual.errors import ConfigError, UALError, UnsupportedError
from axolotl_ual.host import Host
from axolotl_ual.settings.ual import UALConfig, parse_ual
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
    seen = "a process sees the predictions of one part of each sequence"
    yield from _of_predictions(ual, f"with `{what}` {seen}")


def _of_predictions(ual: UALConfig, why: str) -> Iterator[UALError]:
    """Features that gather the predictions of every row, each from one process."""
    if ual.reestimate is not None:
        yield UnsupportedError(f"ual.reestimate: {why}", "take `reestimate:` out")
    if ual.curriculum.active and ual.curriculum.evaluate_at_boundary:
        yield UnsupportedError(
            f"ual.curriculum.evaluate_at_boundary: {why}",
            "set it to false; `eval_steps` evaluates all the same",
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


def of_layers(recipe: Mapping[str, Any], on: Host) -> Iterator[UALError]:
    """What does not go with layers whose weights are cut over processes: tensor parallelism.

    Args:
        recipe: the YAML as a mapping.
        on: the Axolotl to train with.
    """
    size = recipe.get("tensor_parallel_size")
    if not _above_one(size):
        return
    what, fix = f"tensor_parallel_size: {size}", "set it to 1, with FSDP2 or ZeRO-3"
    if recipe.get("adapter"):
        yield UnsupportedError(
            f"{what}: PEFT makes an adapter of the part of a weight that a process has, so each "
            f"process would train another one (`adapter: {recipe['adapter']}`)",
            f"{fix}, or take `adapter:` out",
        )
    else:
        yield from _host_stops(recipe, on, what, fix)
    if recipe.get("rl") or recipe.get("reward_model"):
        yield UnsupportedError(
            f"{what}: losses of pairs and of prompts are added up over processes, and those that "
            "share a model's layers have the same rows",
            fix,
        )
    if recipe.get("deepspeed"):
        yield UnsupportedError(
            f"{what}: with `deepspeed`, layers are cut twice: by transformers as the model loads, "
            "and by DeepSpeed once more",
            "take `deepspeed:` out, with FSDP (`fsdp_version: 2`) in its place",
        )
    try:
        ual = parse_ual(recipe.get("ual"))
    except ConfigError:
        return
    seen = "several processes see the predictions of the same rows"
    yield from _of_predictions(ual, f"with `{what}` {seen}")


def of_experts(recipe: Mapping[str, Any], on: Host) -> Iterator[UALError]:
    """What does not go with experts that lie on different processes: expert parallelism.

    Args:
        recipe: the YAML as a mapping.
        on: the Axolotl to train with.
    """
    size = recipe.get("expert_parallel_size")
    if not _above_one(size):
        return
    why = (
        "Axolotl hands experts out from a GPU of the first process, and there no test has compared "
        "the smoothed loss with that of one process"
    )
    if not on.cuts_layers:
        why = (
            f"Axolotl {on.version} sends tokens to their experts by DeepEP alone, kernels for GPUs "
            "with NVLink that are built from source, and where they are missing it goes on with "
            "all experts on every process"
        )
    yield UnsupportedError(
        f"expert_parallel_size: {size}: {why}", "set it to 1, with FSDP2 or ZeRO-3"
    )


def _host_stops(
    recipe: Mapping[str, Any], on: Host, what: str, fix: str
) -> Iterator[UnsupportedError]:
    """Where Axolotl does not train so, plugin or not."""
    if recipe.get("fsdp") or recipe.get("fsdp_config"):
        why = (
            "over several groups of processes Axolotl 0.21 stops before the first step, as "
            "transformers shards the layers while it loads them and Accelerate finds none of the "
            "class that it is to wrap; over one group there is nothing left to shard"
        )
        if not on.cuts_layers:
            why = (
                "Axolotl stops before the first step, as Accelerate imports `ReplicateParallel`, "
                "which this transformers does not have"
            )
        yield UnsupportedError(f"{what}: beside FSDP, {why}", f"{fix}, or take `fsdp_config:` out")
    if not on.cuts_layers:
        yield UnsupportedError(
            f"{what}: Axolotl {on.version} stops after the first backward pass, plugin or not: the "
            'norm of the gradients "got mixed torch.Tensor and DTensor", as embeddings and norms '
            "stay whole beside the layers that are cut",
            f"{fix}, or use Axolotl 0.20 or 0.21",
        )


def _above_one(value: Any) -> bool:
    return isinstance(value, (int, float)) and value > 1
