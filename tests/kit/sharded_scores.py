"""Gradients of token scores under training engines, cut over processes. A script.

`python sharded_scores.py OUTPUT` saves {(engine, processes, head): {parameter: gradient}}. One
batch of 8 sequences, each with its own number of scored tokens, is weighted and summed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from engines import ENGINES, HEADS, ROWS, VOCAB, gradients, make_model, save_over_processes


def losses(model: Any) -> Iterator[Tensor]:
    """This process's part, times the number of processes, which average their gradients."""
    world, size = dist.get_world_size(), ROWS // dist.get_world_size()
    mine = slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)
    ids = torch.randint(3, VOCAB, (ROWS, 16), generator=torch.Generator().manual_seed(1))
    first = torch.arange(ROWS)[:, None] * 2
    labels = ids.masked_fill(torch.arange(16)[None] < first, -100)
    weights = torch.linspace(-1, 1, ROWS)[mine]
    scores = model(input_ids=ids[mine], ual_labels=labels[mine], use_cache=False).logits
    yield (scores.sum(-1) * weights).sum() * world / ROWS


def work(world: int) -> dict[Any, dict[str, Tensor]]:
    from axolotl_ual.losses.scoring import TokenScorer

    found = {}
    for engine in ENGINES if world > 1 else ("ddp",):
        for head in HEADS:
            model = make_model(head)
            with TokenScorer(model, chunk=3).installed():
                found[engine, world, head] = gradients(engine, model, losses)
    return found


if __name__ == "__main__":
    save_over_processes((1, 2), work, sys.argv[1])
