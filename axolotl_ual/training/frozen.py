"""What of a model trains, frozen as it was at some step: the reference of a stage.

As in Curri-DPO (arXiv 2403.07230), where the reference of a stage is the model that the stage
before it left. The copy holds the trained parameters alone, those of an adapter for example, and is
put in their place for as long as the reference runs: so it is the policy of that step to the bit,
whatever kind of adapter it is, and what is saved and merged afterwards is the adapter alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from torch import Tensor, nn

from axolotl_ual.errors import ConfigError

FROZEN_FILE: Final = "ual_reference.safetensors"
"""In each checkpoint of a run whose reference is a frozen policy."""


class FrozenPolicy:
    """A copy of a model's trained parameters.

    Args:
        model: the innermost model that trains; its parameters are whole on every process.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._copies: dict[str, Tensor] = {}

    def take(self) -> None:
        """Freeze the parameters as they are."""
        self._copies = {name: p.detach().clone() for name, p in self._parameters.items()}

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Run with the copies while the block runs; to be used without gradients.

        What autograd has saved for a backward pass is of the parameters, and finds them again
        afterwards.
        """
        own = {name: parameter.data for name, parameter in self._parameters.items()}
        try:
            for name, parameter in self._parameters.items():
                parameter.data = self._copies[name]
            yield
        finally:
            for name, parameter in self._parameters.items():
                parameter.data = own[name]

    def save(self, folder: Path) -> None:
        """Write the copies, if there are any, into a checkpoint."""
        from safetensors.torch import save_file

        if self._copies:
            whole = {name: copy.contiguous() for name, copy in self._copies.items()}
            save_file(whole, folder / FROZEN_FILE)

    def load(self, folder: Path) -> None:
        """Read the copies from a checkpoint.

        Raises:
            ConfigError: it has none, or those of another model.
        """
        from safetensors.torch import load_file

        path = folder / FROZEN_FILE
        copies = load_file(path) if path.is_file() else {}
        if copies.keys() != self._parameters.keys():
            raise ConfigError(
                f"resume_from_checkpoint: {folder}: {FROZEN_FILE} does not hold what this model "
                "trains, so the reference of the stage is not known",
                "resume from another checkpoint of the run, or train anew",
            )
        self._copies = {
            name: copy.to(self._parameters[name].device, self._parameters[name].dtype)
            for name, copy in copies.items()
        }
