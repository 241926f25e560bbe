"""What of a model trains, frozen as it was at some step: the reference of a stage.

As in Curri-DPO (arXiv 2403.07230), where the reference of a stage is the model that the stage
before it left. The copy holds the trained parameters alone, those of an adapter for example, and is
put in their place for as long as the reference runs: so it is the policy of that step to the bit,
whatever kind of adapter it is, and what is saved and merged afterwards is the adapter alone.

Where an engine shards the parameters, each process copies, exchanges and saves its own shards, and
nothing is gathered for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from axolotl_ual.errors import ConfigError
from axolotl_ual.training.shards import drop_gathered, is_sharded, shard

FROZEN_FILE: Final = "ual_reference"
"""In each checkpoint of a run whose reference is a frozen policy; a file a process for shards."""


class FrozenPolicy:
    """A copy of a model's trained parameters.

    Args:
        model: the innermost model that trains, after an engine has taken it.
        rank: of this process.
        processes: of the run.
    """

    def __init__(self, model: nn.Module, rank: int = 0, processes: int = 1) -> None:
        self._model = model
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._sharded = any(is_sharded(parameter) for parameter in self._parameters.values())
        self._copies: dict[str, Tensor] = {}
        self._writes = self._sharded or rank == 0
        part = f"-{rank + 1:05d}-of-{processes:05d}" if self._sharded else ""
        self.file = f"{FROZEN_FILE}{part}.safetensors"

    def take(self) -> None:
        """Freeze the parameters as they are."""
        self._copies = {name: shard(p).clone() for name, p in self._parameters.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run with the copies while the block runs; to be used without gradients.

        Copies and parameters are exchanged, so that a second copy of one parameter alone exists.
        Nothing that autograd has saved may depend on the parameters: the reference runs first.
        """
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        drop_gathered(self._model, self._parameters.values())
        for name, parameter in self._parameters.items():
            own, copy = shard(parameter), self._copies[name]
            before = own.clone()
            own.copy_(copy)
            copy.copy_(before)

    def save(self, folder: Path) -> None:
        """Write what this process has of the copies, if there are any, into a checkpoint."""
        from safetensors.torch import save_file

        if self._copies and self._writes:
            folder.mkdir(parents=True, exist_ok=True)
            whole = {name: copy.contiguous() for name, copy in self._copies.items()}
            save_file(whole, folder / self.file)

    def load(self, folder: Path) -> None:
        """Read the copies from a checkpoint.

        Raises:
            ConfigError: it has none, or those of another model or number of processes.
        """
        from safetensors.torch import load_file

        path = folder / self.file
        copies = load_file(path) if path.is_file() else {}
        if _shapes(copies) != _shapes({n: shard(p) for n, p in self._parameters.items()}):
            number = ", or was saved by another number of processes" if self._sharded else ""
            raise ConfigError(
                f"resume_from_checkpoint: {folder}: {self.file} does not hold what this model "
                f"trains{number}, so the reference of the stage is not known",
                "resume from another checkpoint of the run, or train anew",
            )
        self._copies = {
            name: copy.to(shard(self._parameters[name])) for name, copy in copies.items()
        }


def _shapes(tensors: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}
