"""Gradients of one batch where each layer's weights are cut over processes. A script.

`python cut_layers.py OUTPUT` saves {case: {parameter: gradient}} with torch.save, where a case is
(kernel, processes, micro-batches). transformers cuts the Llama of `engines` by its own plan, the
head's rows among them, and each process has all 8 sequences.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from sharded import global_batch, mass, weights
from torch import Tensor

from engines import ROWS, make_model, save_over_processes

CLASSES = 60
KERNELS = ("model", "chunked", "weighted")
PROCESSES = (1, 2)
CASES: list[tuple[Any, int, int]] = [
    (kernel, world, num) for kernel in KERNELS for world in PROCESSES for num in (1, 2)
]


def make(folder: Path) -> None:
    """Save the model in float64, with a vocabulary that two processes can cut."""
    make_model("trained", CLASSES).double().save_pretrained(folder)


def cut_model(world: int, folder: Path) -> Any:
    """The model, whole for one process."""
    from torch.distributed.device_mesh import init_device_mesh
    from transformers import LlamaForCausalLM
    from transformers.distributed import DistributedConfig

    cut: dict[str, Any] = {}
    if world > 1:
        mesh = init_device_mesh("cpu", (world,), mesh_dim_names=("tp",))
        plan = DistributedConfig(tp_size=world, tp_plan="auto")
        cut = {"distributed_config": plan, "device_mesh": mesh}
    kind = {"dtype": torch.float64, "attn_implementation": "eager"}
    return LlamaForCausalLM.from_pretrained(folder, **kind, **cut).train()


def batch() -> dict[str, Tensor]:
    """The batch of `sharded`, of tokens that the vocabulary has."""
    made = global_batch()
    for name in ("input_ids", "labels"):
        made[name] = made[name].clamp(max=CLASSES - 1)
    return made


def losses(objective: Any, model: Any, num_micro: int) -> Iterator[Tensor]:
    """The micro-batches' losses, as the trainer hands them to backward."""
    from axolotl_ual.losses.encoding import encode_smoothing
    from axolotl_ual.losses.rule import Weights

    given, size = batch(), ROWS // num_micro
    given["ual_smoothing"] = encode_smoothing(given["ual_smoothing"].contiguous())
    if objective.rule.weighted:
        given["ual_weight"] = encode_smoothing(weights().contiguous())
    total = mass(given)
    for start in range(0, ROWS, size):
        part = {key: value[start : start + size] for key, value in given.items()}
        own = mass(part)
        objective.weights = Weights(own / total * num_micro, num_micro / total, own)
        yield model(**part).loss / num_micro


def work(folder: Path, world: int) -> dict[Any, dict[str, Tensor]]:
    from axolotl_ual.losses.objective import SmoothedObjective
    from axolotl_ual.losses.rule import Rule

    found = {}
    for case in CASES:
        kernel, processes, num_micro = case
        if processes != world:
            continue
        model = cut_model(world, folder)
        if kernel == "weighted":
            objective = SmoothedObjective(model, rule=Rule(weighted=True, token="probability"))
        else:
            objective = SmoothedObjective(model, kernel)
        with objective.installed():
            logged = []
            for loss in losses(objective, model, num_micro):
                loss.backward()
                logged.append(loss.detach())
        found[case] = {name: _whole(part.grad) for name, part in model.named_parameters()}
        found[case]["loss"] = torch.stack(logged).sum()
        if world > 1:
            assert hasattr(model.lm_head.weight, "to_local"), "the head is not cut"
    return found


def _whole(gradient: Any) -> Tensor:
    return gradient.full_tensor() if hasattr(gradient, "full_tensor") else gradient


if __name__ == "__main__":
    saved = Path(sys.argv[1]).with_suffix(".model")
    make(saved)
    save_over_processes(PROCESSES, functools.partial(work, saved), sys.argv[1])
