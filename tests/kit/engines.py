"""Gradients of a small Llama under training engines, in processes of one machine."""

from __future__ import annotations

import importlib
import os
import socket
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

VOCAB = 61
ROWS = 8
"""Sequences of the global batch."""
HEADS = ("frozen", "trained")

Losses = Callable[[Any], Iterator[Tensor]]
"""The losses of a process's micro-batches, from the model as the engine wraps it."""
Gradients = dict[str, Tensor]


def make_model(head: str, vocab_size: int = VOCAB) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab_size,
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


def ddp(model: Any, losses: Losses, num_micro: int) -> Gradients:
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    for loss in losses(wrapped):
        loss.backward()
    return {name: part.grad for name, part in model.named_parameters() if part.grad is not None}


def fsdp2(model: Any, losses: Losses, num_micro: int) -> Gradients:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for part in (*model.model.layers, model):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
    for loss in losses(model):
        loss.backward()
    return {
        name: part.grad.full_tensor()
        for name, part in model.named_parameters()
        if part.grad is not None
    }


def fsdp1(
    model: Any, losses: Losses, num_micro: int, units: Callable[[Any], bool] | None = None
) -> Gradients:
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.fsdp.wrap import CustomPolicy

    layer = type(model.model.layers[0])
    trained = {name for name, part in model.named_parameters() if part.requires_grad}
    wrapped = FullyShardedDataParallel(
        model,
        auto_wrap_policy=CustomPolicy(units or (lambda module: isinstance(module, layer))),
        device_id=torch.device("cpu"),
        use_orig_params=True,
    )
    for loss in losses(wrapped):
        loss.backward()
    with FullyShardedDataParallel.summon_full_params(wrapped, with_grads=True):
        # What is frozen lies in the same flat parameter as what trains, and shares its gradient.
        return {
            name: part.grad.clone()
            for long, part in wrapped.named_parameters()
            if (name := long.replace("_fsdp_wrapped_module.", "")) in trained
        }


def fsdp1_head(model: Any, losses: Losses, num_micro: int) -> Gradients:
    """The head is a unit of its own, whole within a call of its unit alone."""
    alone = (type(model.model.layers[0]), torch.nn.Linear)
    gradients = fsdp1(
        model, losses, num_micro, lambda module: isinstance(module, alone) and module is not model
    )
    assert type(model.lm_head).__name__ == "FullyShardedDataParallel"
    return gradients


def zero3(model: Any, losses: Losses, num_micro: int) -> Gradients:
    import deepspeed
    from deepspeed.utils import safe_get_full_grad

    trained = {name: part for name, part in model.named_parameters() if part.requires_grad}
    engine, *_ = deepspeed.initialize(
        model=model,
        model_parameters=list(trained.values()),
        config={
            "train_micro_batch_size_per_gpu": ROWS // dist.get_world_size() // num_micro,
            "gradient_accumulation_steps": num_micro,
            "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
            "zero_force_ds_cpu_optimizer": False,
            "optimizer": {"type": "Adam", "params": {"torch_adam": True}},
        },
    )
    assert model.lm_head.weight.numel() == 0, "the head is not sharded"
    found: Gradients = {}
    for loss in losses(engine):
        engine.backward(loss, scale_wrt_gas=False)
        found = {name: safe_get_full_grad(part) for name, part in trained.items()}
        engine.step()
    return found


ENGINES = {"ddp": ddp, "fsdp2": fsdp2, "zero3": zero3}


def gradients(engine: str, model: Any, losses: Losses, num_micro: int = 1) -> Gradients:
    """Gradients of the sum of the losses by parameter, whole, on every process."""
    found = {**ENGINES, "fsdp1": fsdp1, "fsdp1_head": fsdp1_head}[engine](model, losses, num_micro)
    return {name: gradient.detach().clone() for name, gradient in found.items()}


def save_over_processes(
    worlds: Iterable[int], work: Callable[[int], dict[Any, Gradients]], output: str
) -> None:
    """Save what `work(world)` gives on the first of so many processes, for all worlds together."""
    # Once for all the processes that are forked below. They talk by gloo: DeepSpeed's own way
    # through shared memory is C++ that it would compile.
    backend: Any = importlib.import_module("deepspeed.comm.torch")
    backend.build_shm_op = lambda: None
    importlib.import_module("transformers.models.llama.modeling_llama")
    merged: dict[Any, Gradients] = {}
    with tempfile.TemporaryDirectory() as folder:
        for world in worlds:
            path = Path(folder) / f"{world}.pt"
            _fork(world, work, path)
            merged.update(torch.load(path))
    torch.save(merged, output)


def _fork(world: int, work: Callable[[int], dict[Any, Gradients]], path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(world):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                _join(rank, world, port, work, path)
                code = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children.append(child)
    if any([os.waitpid(child, 0)[1] for child in children]):
        raise SystemExit(f"a process of {world} failed")


def _join(
    rank: int, world: int, port: int, work: Callable[[int], dict[Any, Gradients]], path: Path
) -> None:
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(world),
        LOCAL_WORLD_SIZE=str(world),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    dist.init_process_group("gloo", rank=rank, world_size=world)
    found = work(world)
    if rank == 0:
        torch.save(found, path)
    dist.barrier()
    dist.destroy_process_group()
