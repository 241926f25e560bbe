"""Gradients of one global batch, cut over processes, micro-batches and shards. A script.

`python sharded.py OUTPUT` saves {case: {parameter: gradient}} with torch.save, where a case is
(kernel, engine, processes, micro-batches, head). One global batch of 8 sequences is trained on by a
Llama of two layers, smoothed as the trainer smooths it.
"""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

ROWS = 8
ENGINES = ("ddp", "fsdp2", "zero3")
HEADS = ("frozen", "trained")
CUTS = [(1, 1), (1, 2), (1, 8), (2, 1), (2, 4), (4, 1), (4, 2)]
"""(processes, micro-batches of each)"""


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
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).train()
    if head == "frozen":
        model.lm_head.requires_grad_(False)
        model.model.embed_tokens.requires_grad_(False)
    return model


def global_batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 61, (ROWS, 16), generator=generator)
    labels = ids.clone()
    for row in range(ROWS):
        labels[row, : 2 * row] = -100
    smoothing = torch.rand(ROWS, 1, generator=generator).expand(ROWS, 16) * 0.5
    return {"input_ids": ids, "labels": labels, "ual_smoothing": smoothing}


def micro_batches(num_micro: int) -> Iterator[dict[str, Tensor]]:
    """This process's part of the global batch."""
    from axolotl_ual.losses.smoothed_ce import encode_smoothing

    rank, world = dist.get_rank(), dist.get_world_size()
    size = ROWS // world // num_micro
    batch = global_batch()
    batch["ual_smoothing"] = encode_smoothing(batch["ual_smoothing"].contiguous())
    for index in range(num_micro):
        start = (index * world + rank) * size
        yield {key: value[start : start + size] for key, value in batch.items()}


def losses(model: Any, objective: Any, num_micro: int) -> Iterator[Tensor]:
    """The micro-batches' losses as the trainer hands them to backward."""
    from axolotl_ual.losses.objective import Weights

    total = (global_batch()["labels"][:, 1:] != -100).sum().float()
    shares = dist.get_world_size() * num_micro
    for batch in micro_batches(num_micro):
        tokens = (batch["labels"][:, 1:] != -100).sum().float()
        objective.weights = Weights(tokens / total * shares, shares / total, tokens)
        yield model(**batch).loss / num_micro


def ddp(model: Any, objective: Any, num_micro: int) -> dict[str, Tensor]:
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    for loss in losses(wrapped, objective, num_micro):
        loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def fsdp2(model: Any, objective: Any, num_micro: int) -> dict[str, Tensor]:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    for loss in losses(model, objective, num_micro):
        loss.backward()
    return {
        name: parameter.grad.full_tensor()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def zero3(model: Any, objective: Any, num_micro: int) -> dict[str, Tensor]:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=[part for part in model.parameters() if part.requires_grad],
        config={
            "train_micro_batch_size_per_gpu": ROWS // dist.get_world_size() // num_micro,
            "gradient_accumulation_steps": num_micro,
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
            "zero_force_ds_cpu_optimizer": False,
            "optimizer": {"type": "Adam", "params": {"torch_adam": True}},
        },
    )
    assert model.lm_head.weight.numel() == 0, "the head is not sharded"
    for loss in losses(engine, objective, num_micro):
        engine.backward(loss, scale_wrt_gas=False)
        gradients = {
            name: safe_get_full_grad(parameter)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }
        engine.step()
    return gradients


def cases() -> Iterator[tuple[str, str, int, int, str]]:
    """Every cut with the model's own loss; in chunks with two processes."""
    for engine in ENGINES:
        for head in HEADS:
            for processes, num_micro in CUTS:
                yield "model", engine, processes, num_micro, head
            yield "chunked", engine, 2, 4, head


def run(kernel: str, engine: str, num_micro: int, head: str) -> dict[str, Tensor]:
    from axolotl_ual.losses.objective import SmoothedObjective

    model = make_model(head)
    objective = SmoothedObjective(model, kernel)
    compute: Callable[..., dict[str, Tensor]] = globals()[engine]
    with objective.installed():
        found = compute(model, objective, num_micro)
    return {
        name: gradient.detach().clone() for name, gradient in found.items() if gradient is not None
    }


def work(rank: int, world: int, port: int, output: Path) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    dist.init_process_group("gloo", rank=rank, world_size=world)
    results = {}
    for kernel, engine, processes, num_micro, head in cases():
        if processes == world:
            found = run(kernel, engine, num_micro, head)
            results[kernel, engine, processes, num_micro, head] = found
    if rank == 0:
        torch.save(results, output)
    dist.barrier()
    dist.destroy_process_group()


def main(output: str) -> None:
    # Once for all the processes that are forked below.
    importlib.import_module("deepspeed")
    importlib.import_module("transformers.models.llama.modeling_llama")
    merged = {}
    with tempfile.TemporaryDirectory() as folder:
        for world in sorted({processes for processes, _ in CUTS}):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = free.getsockname()[1]
            path = Path(folder) / f"{world}.pt"
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
