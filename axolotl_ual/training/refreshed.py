"""A reference of each stage's own: the policy that the stage before it left."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from axolotl.utils.logging import get_logger

from axolotl_ual.training.frozen import FrozenPolicy
from axolotl_ual.training.metrics import REFERENCE_STEP
from axolotl_ual.training.staged import StagedMixin

LOG = get_logger(__name__)


class RefreshedMixin(StagedMixin):
    """Freezes the policy at the stages' boundaries; without `refresh_reference` it does nothing.

    The first stage has the reference that the trainer has anyway, and so has validation, whose
    figures would otherwise be about nothing right after a boundary.
    """

    _resumed_from: str | None = None

    @cached_property
    def frozen(self) -> FrozenPolicy:
        """The frozen policy, empty in the first stage; to be asked for once training has begun."""
        inner, processes = self.accelerator.unwrap_model(self.model), self.accelerator
        return FrozenPolicy(inner, processes.process_index, processes.num_processes)

    def refresh_reference(self) -> None:
        """Freeze the policy as it is."""
        assert self.plan is not None and self.curriculum is not None
        self.frozen.take()
        step = self.state.global_step
        name = self.curriculum.phases[self.plan.phase_at(step)].name
        LOG.info(f"ual: stage {name}: its reference is the model after {step} steps")

    def _reference_step(self, step: int) -> int:
        """Steps done when the reference of a step, counted from 0, was frozen; 0: it was not."""
        if self.plan is None or self.curriculum is None:
            return 0
        if not self.curriculum.config.refresh_reference:
            return 0
        return max((b for b in self.plan.boundaries if b <= step), default=0)

    @property
    def _uses_frozen(self) -> bool:
        return self.model.training and self._reference_step(self.state.global_step) > 0

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, resume: str | None, trial: Any
    ) -> Any:
        """Note where the run goes on from: no engine has taken the model yet."""
        self._resumed_from = resume
        return super()._init_training_state(max_steps, steps_per_epoch, epochs, resume, trial)

    def resume_reference(self) -> None:
        """Take the reference of the stage that the checkpoint was saved in."""
        # At a boundary itself the model of the checkpoint is the reference.
        step = self.state.global_step
        if self._resumed_from is not None and 0 < self._reference_step(step) < step:
            self.frozen.load(Path(self._resumed_from))

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log beside the loss what it was measured against."""
        refreshes = self.curriculum is not None and self.curriculum.config.refresh_reference
        if refreshes and "loss" in logs:
            logs[REFERENCE_STEP] = float(self._reference_step(self.state.global_step - 1))
        super().log(logs, start_time)
