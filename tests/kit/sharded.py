"""Gradients of one global batch, cut over processes, micro-batches and shards. A script.

`python sharded.py OUTPUT` saves {case: {parameter: gradient}} with torch.save, where a case is
(kernel, engine, processes, micro-batches, head). One global batch of 8 sequences is trained on by a
Llama of two layers, smoothed as the trainer smooths it; as the kernel "weighted" each token counts
by a weight of its row and by its probability.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engines import ENGINES, HEADS, ROWS, VOCAB, gradients, make_model, save_over_processes

ALL = (*ENGINES, "fsdp1", "fsdp1_head")
CUTS = [(1, 1), (1, 2), (1, 8), (2, 1), (2, 4), (4, 1), (4, 2)]
"""(processes, micro-batches of each)"""
WEIGHTED_CUTS = [(1, 1), (1, 4), (2, 2), (4, 2)]


def global_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, VOCAB, (ROWS, 16), generator=generator)
    labels = ids.clone()
    for row in range(ROWS):
        labels[row, : 2 * row] = -100
    smoothing = torch.rand(ROWS, 1, generator=generator).expand(ROWS, 16) * 0.5
    return {"input_ids": ids, "labels": labels, "ual_smoothing": smoothing}


def weights() -> Tensor:
    """Of each token: a row's own, from 0 to 1.4."""
    return (torch.arange(ROWS, dtype=torch.float32) / 5)[:, None].expand(ROWS, 16)


def micro_batches(num_micro: int, **more: Tensor) -> Iterator[dict[str, Tensor]]:
    """This process's part of the global batch, with `more` of each row."""
    from axolotl_ual.losses.encoding import encode_smoothing

    rank, world = dist.get_rank(), dist.get_world_size()
    size = ROWS // world // num_micro
    batch = global_batch()
    batch["ual_smoothing"] = encode_smoothing(batch["ual_smoothing"].contiguous())
    batch.update(more)
    for index in range(num_micro):
        start = (index * world + rank) * size
        yield {key: value[start : start + size] for key, value in batch.items()}


def losses(objective: Any, num_micro: int, model: Any, **more: Tensor) -> Iterator[Tensor]:
    """The micro-batches' losses as the trainer hands them to backward."""
    from axolotl_ual.losses.encoding import encode_smoothing
    from axolotl_ual.losses.rule import Weights

    if objective.rule.weighted:
        more["ual_weight"] = encode_smoothing(weights().contiguous())
    total = mass({**global_batch(), **more})
    shares = dist.get_world_size() * num_micro
    for batch in micro_batches(num_micro, **more):
        part = mass(batch)
        objective.weights = Weights(part / total * shares, shares / total, part)
        yield model(**batch).loss / num_micro


def mass(batch: dict[str, Tensor]) -> Tensor:
    """Trained tokens, or the sum of their weights."""
    from axolotl_ual.losses.encoding import decode_smoothing

    trained = (batch["labels"][:, 1:] != -100).double()
    if "ual_weight" not in batch:
        return trained.sum()
    return (trained * decode_smoothing(batch["ual_weight"])[:, 1:]).sum()


def cases() -> Iterator[tuple[str, str, int, int, str]]:
    """Every cut with the model's own loss; in chunks with two processes; weighted some."""
    for engine in ALL:
        for head in HEADS:
            for processes, num_micro in CUTS:
                yield "model", engine, processes, num_micro, head
            yield "chunked", engine, 2, 4, head
        for processes, num_micro in WEIGHTED_CUTS:
            yield "weighted", engine, processes, num_micro, "trained"


def work(world: int) -> dict[Any, dict[str, Tensor]]:
    from axolotl_ual.losses.objective import SmoothedObjective
    from axolotl_ual.losses.rule import Rule

    found = {}
    for case in cases():
        kernel, engine, processes, num_micro, head = case
        if processes == world:
            model = make_model(head)
            if kernel == "weighted":
                rule = Rule(weighted=True, token="probability")
                objective = SmoothedObjective(model, rule=rule)
            else:
                objective = SmoothedObjective(model, kernel)
            with objective.installed():
                cut = functools.partial(losses, objective, num_micro)
                found[case] = gradients(engine, model, cut, num_micro)
    return found


if __name__ == "__main__":
    save_over_processes(sorted({processes for processes, _ in CUTS}), work, sys.argv[1])
