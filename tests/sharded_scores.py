"""Gradients of token scores under training engines, cut over processes. A script.

`python sharded_scores.py OUTPUT` saves {(engine, processes, head): {parameter: gradient}}. One
batch of 8 sequences, each with its own number of scored tokens, is weighted and summed.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

ROWS = 8
ENGINES = ("ddp", "fsdp2", "zero3")
HEADS = ("frozen", "trained")


def make_model(head: str) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
    )
    model = LlamaForCausalLM(config).train()
    if head == "frozen":
        model.lm_head.requires_grad_(False)
        model.model.embed_tokens.requires_grad_(False)
    return model


def loss_of(model: Any) -> Tensor:
    """This process's part, times the number of processes, which average their gradients."""
    world, size = dist.get_world_size(), ROWS // dist.get_world_size()
    mine = slice(dist.get_rank() * size, (dist.get_rank() + 1) * size)
    ids = torch.randint(3, 61, (ROWS, 16), generator=torch.Generator().manual_seed(1))
    first = torch.arange(ROWS)[:, None] * 2
    labels = ids.masked_fill(torch.arange(16)[None] < first, -100)
    weights = torch.linspace(-1, 1, ROWS)[mine]
    scores = model(input_ids=ids[mine], ual_labels=labels[mine], use_cache=False).logits
    return (scores.sum(-1) * weights).sum() * world / ROWS


def ddp(model: Any) -> dict[str, Tensor]:
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    loss_of(wrapped).backward()
    return {name: part.grad for name, part in model.named_parameters() if part.requires_grad}


def fsdp2(model: Any) -> dict[str, Tensor]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (*model.model.layers, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    loss_of(model).backward()
    return {
        name: part.grad.full_tensor()
        for name, part in model.named_parameters()
        if part.requires_grad
    }


def zero3(model: Any) -> dict[str, Tensor]:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[part for part in model.parameters() if part.requires_grad],
        config={
            "train_micro_batch_size_per_gpu": ROWS // dist.get_world_size(),
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
            "zero_force_ds_cpu_optimizer": False,
            "optimizer": {"type": "Adam", "params": {"torch_adam": True}},
        },
    )
    assert model.lm_head.weight.numel() == 0, "the head is not sharded"
    engine.backward(loss_of(engine))
    return {
        name: safe_get_full_grad(part)
        for name, part in model.named_parameters()
        if part.requires_grad
    }


def work(rank: int, world: int, port: int, output: Path) -> None:
    from axolotl_ual.losses.scoring import TokenScorer

    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    dist.init_process_group("gloo", rank=rank, world_size=world)
    found = {}
    for engine in ENGINES if world > 1 else ("ddp",):
        for head in HEADS:
            model = make_model(head)
            with TokenScorer(model, chunk=3).installed():
                gradients = globals()[engine](model)
            found[engine, world, head] = {n: g.detach().clone() for n, g in gradients.items()}
    if rank == 0:
        torch.save(found, output)
    dist.barrier()
    dist.destroy_process_group()


def main(output: str) -> None:
    import deepspeed  # noqa: F401  (once, before the processes fork)

    merged = {}
    for world in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        path = Path(tempfile.mkdtemp()) / "gradients.pt"
        children = []
        for rank in range(world):
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    work(rank, world, port, path)
                    code = 0
                finally:
                    sys.stderr.flush()
                    os._exit(code)
            children.append(child)
        if any(os.waitpid(child, 0)[1] for child in children):
            raise SystemExit(f"a process of {world} failed")
        merged.update(torch.load(path))
    torch.save(merged, output)


if __name__ == "__main__":
    main(sys.argv[1])
