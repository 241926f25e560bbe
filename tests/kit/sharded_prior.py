"""Gradients with a reference as the prior, cut over processes, micro-batches and shards. A script.

`python sharded_prior.py OUTPUT` saves {case: {parameter: gradient}} with torch.save, where a case
is (kernel, engine, processes, micro-batches, reference, dtype): `adapter` trains LoRA with a
reference that is the model without it, `model` trains everything with a frozen model beside it, and
`kept` trains LoRA with the KEPT most likely tokens of a reference that has run before. As the
kernel "anchored" the reference is an anchor and no prior, and each token counts by its entropy.

In float64 a few casts to float32 stay, of transformers and ours (norms, rotations, the smoothing of
a token): they are the same casts of the same values wherever they are made.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

import torch
from sharded import global_batch, losses
from torch import Tensor

from engines import ENGINES, gradients, make_model, save_over_processes

REFERENCES = ("adapter", "model", "kept")
KEPT = 5
CUTS = [(1, 1), (1, 4), (2, 2), (4, 1)]
"""(processes, micro-batches of each)"""
ANCHORED_CUTS = [(1, 1), (2, 2), (4, 2)]
ANCHOR = 0.3


def make(reference: str) -> tuple[Any, Any]:
    """What trains, and the model before tuning, whole."""
    from peft import LoraConfig, inject_adapter_in_model

    before, model = make_model("trained"), make_model("trained")
    torch.manual_seed(2)
    if reference != "model":
        config = LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj", "down_proj"])
        model = inject_adapter_in_model(config, model)
        trained = [name for name, _ in model.named_parameters() if "lora_" in name]
    else:
        trained = [name for name, _ in model.named_parameters()]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
            if name in trained:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model.train(), before.eval()


def bound(kernel: str, reference: str, dtype: str) -> tuple[Any, Any]:
    """A model and its objective."""
    from axolotl_ual.losses.objective import SmoothedObjective
    from axolotl_ual.losses.reference import AdapterOff, FrozenModel
    from axolotl_ual.losses.rule import EACH_COUNTS_ONE, Rule

    rule = EACH_COUNTS_ONE
    if kernel == "anchored":
        kernel, rule = "auto", Rule(token="entropy", anchor=ANCHOR, prior=False)
    model, before = (made.to(getattr(torch, dtype)) for made in make(reference))
    if reference == "kept":
        return model, SmoothedObjective(model, kernel)
    if reference == "adapter":
        made: Any = functools.partial(AdapterOff, model)
    else:
        made = functools.partial(FrozenModel, before, num_rows=None)
    return model, SmoothedObjective(model, kernel, None, made, rule=rule)


@torch.no_grad()
def kept_mass(before: Any) -> tuple[Tensor, Tensor]:
    """The most likely tokens at each place of the global batch and their mass, (B, T, K)."""
    logits = before(input_ids=global_batch()["input_ids"]).logits
    # What is said of a place is predicted at the one before it.
    top = logits.softmax(dim=-1).roll(1, dims=1).topk(KEPT, dim=-1)
    return top.indices, top.values


def kept(reference: str) -> dict[str, Tensor]:
    """What a collator adds to a batch where the reference has run before."""
    from axolotl_ual.losses.encoding import encode_smoothing

    if reference != "kept":
        return {}
    ids, mass = kept_mass(make(reference)[1])
    return {
        "ual_reference_ids": ids.int(),
        "ual_reference_logprobs": encode_smoothing(mass.log()),
    }


Case = tuple[str, str, int, int, str, str]


def cases() -> Iterator[Case]:
    """Every cut in chunks; on top of the model's own loss with two processes; some anchored.

    In float64 what is anchored, and without ZeRO-3, whose gradients are float32 in any case.
    """
    for engine in ENGINES:
        for reference in REFERENCES:
            for processes, num_micro in CUTS:
                yield "chunked", engine, processes, num_micro, reference, "float32"
            yield "model", engine, 2, 2, reference, "float32"
            for processes, num_micro in ANCHORED_CUTS if reference != "kept" else ():
                yield "anchored", engine, processes, num_micro, reference, "float32"
            if engine != "zero3":
                yield "chunked", engine, 2, 2, reference, "float64"
            for processes, num_micro in ANCHORED_CUTS if engine != "zero3" else ():
                if reference != "kept":
                    yield "anchored", engine, processes, num_micro, reference, "float64"


def work(world: int) -> dict[Any, dict[str, Tensor]]:
    found = {}
    for case in cases():
        kernel, engine, processes, num_micro, reference, dtype = case
        if processes == world:
            model, objective = bound(kernel, reference, dtype)
            with objective.installed():
                cut = functools.partial(losses, objective, num_micro, **kept(reference))
                found[case] = gradients(engine, model, cut, num_micro)
    return found


if __name__ == "__main__":
    save_over_processes(sorted({processes for processes, _ in CUTS}), work, sys.argv[1])
