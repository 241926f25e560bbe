"""What happens at the boundaries of a curriculum's stages, and at every step between them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from transformers import TrainerCallback
from transformers.trainer_utils import IntervalStrategy

from axolotl_ual.errors import ConfigError
from axolotl_ual.schedule.plan import Plan

PROGRESS_FILE: Final = "ual_curriculum.json"
"""In each checkpoint: the stage it was saved in, and the order that it belongs to."""


def order_digest(plan: Plan) -> str:
    """64 hexadecimal digits that change with which rows any step trains on."""
    digest = hashlib.sha256(repr((plan.geometry.step, plan.num_steps)).encode())
    for array in (plan.rows_R, plan.unit_ends_U):
        if array is not None:
            digest.update(array.tobytes())
    return digest.hexdigest()


def write_progress(
    folder: Path,
    plan: Plan,
    names: list[str],
    step: int,
    refreshes: bool = False,
    estimates: str | None = None,
) -> None:
    """Write down which stage a checkpoint was saved in.

    Args:
        folder: of the checkpoint.
        plan: of the run.
        names: stage of each phase.
        step: optimizer steps done.
        refreshes: whether each stage has a reference of its own.
        estimates: how the smoothing of each stage is estimated; None: it is that of the data.
    """
    phase = plan.phase_at(max(step - 1, 0))
    record = {
        "stage": names[phase],
        "phase": phase + 1,
        "num_phases": len(names),
        "step": step,
        "samples": plan.rows_until(step),
        "boundary": step in plan.boundaries,
        "order": order_digest(plan),
        "refresh_reference": refreshes,
        "reestimate": estimates,
    }
    (folder / PROGRESS_FILE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def check_resume(
    folder: Path, plan: Plan, refreshes: bool = False, estimates: str | None = None
) -> None:
    """Stop where a checkpoint was trained in another order than the run that resumes from it.

    Args:
        folder: of the checkpoint.
        plan: of the run.
        refreshes: whether each stage has a reference of its own.
        estimates: how the smoothing of each stage is estimated; None: it is that of the data.

    Raises:
        ConfigError: order, references or estimates differ, or the checkpoint tells of none.
    """
    path = folder / PROGRESS_FILE
    if not path.is_file():
        raise ConfigError(
            f"resume_from_checkpoint: {folder} was trained without this curriculum "
            f"(it has no {PROGRESS_FILE})",
            "resume from a checkpoint of a run with a curriculum, or train anew",
        )
    record = json.loads(path.read_text(encoding="utf-8"))
    if record.get("refresh_reference", False) != refreshes:
        raise ConfigError(
            f"ual.curriculum.refresh_reference: {str(refreshes).lower()}: {folder} was trained "
            "with the opposite, and so towards another reference",
            "resume with what that run had, or train anew",
        )
    if record.get("reestimate") != estimates:
        raise ConfigError(
            f"ual.reestimate: {estimates or 'not set'}: {folder} was trained with "
            f"{record.get('reestimate') or 'the smoothing of the data'}",
            "resume with what that run had, or train anew",
        )
    if record["order"] != order_digest(plan):
        raise ConfigError(
            f"resume_from_checkpoint: {folder} was trained in another order: the data, the seed, "
            "`ual.curriculum` or the samples of a step have changed since",
            "resume with the recipe and the data of that run, or train anew",
        )


class StagedSchedule:
    """A learning rate schedule whose rates are multiplied by a factor for each step.

    The wrapped scheduler always sees the rates it set itself, so that schedulers which continue
    from the last rate stay right.

    Args:
        base: any scheduler of torch.
        optimizer: whose rates it sets.
        factor: of a step, counted from 0.
    """

    def __init__(self, base: Any, optimizer: Any, factor: Callable[[int], float]) -> None:
        self.base = base
        self.optimizer = optimizer
        self.factor = factor
        self._step = 0
        self._plain: list[Any] = []
        self._scale()

    def step(self, *args: Any) -> None:
        """Go on to the next step."""
        for group, rate in zip(self.optimizer.param_groups, self._plain, strict=True):
            group["lr"] = rate
        self.base.step(*args)
        self._step += 1
        self._scale()

    def get_last_lr(self) -> list[Any]:
        """The rates that the optimizer uses."""
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"base": self.base.state_dict(), "step": self._step, "plain": list(self._plain)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a saved schedule was; the optimizer's rates come with its own state."""
        self.base.load_state_dict(state["base"])
        self._step, self._plain = state["step"], list(state["plain"])

    def _scale(self) -> None:
        self._plain = [group["lr"] for group in self.optimizer.param_groups]
        for group in self.optimizer.param_groups:
            group["lr"] = group["lr"] * self.factor(self._step)


class CurriculumCallback(TrainerCallback):
    """Epochs as rows trained on, and what is due when a stage ends.

    Args:
        trainer: a `StagedMixin` whose curriculum and plan are set when training begins.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Evaluate before the first stage, where boundaries are evaluated; or go on in a stage."""
        if self.trainer.curriculum.config.refresh_reference:
            self.trainer.resume_reference()
        if self.trainer.curriculum.config.evaluate_at_boundary and state.global_step == 0:
            args.eval_on_start = True

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Freeze the reference of a stage before its first step, after what the last one is due."""
        refreshes = self.trainer.curriculum.config.refresh_reference
        if refreshes and state.global_step in self.trainer.plan.boundaries:
            self.trainer.refresh_reference()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set what the trainer does after this step."""
        plan, config = self.trainer.plan, self.trainer.curriculum.config
        step, rows = state.global_step, len(self.trainer.train_dataset)
        before, state.epoch = plan.rows_until(step - 1) / rows, plan.rows_until(step) / rows
        ends = step >= state.max_steps
        if int(state.epoch) > int(before) and not ends:
            control.should_save |= args.save_strategy == IntervalStrategy.EPOCH
            control.should_evaluate |= args.eval_strategy == IntervalStrategy.EPOCH
            control.should_log |= args.logging_strategy == IntervalStrategy.EPOCH
        if step in plan.boundaries or ends:
            control.should_log |= args.logging_strategy != IntervalStrategy.NO
            control.should_evaluate |= config.evaluate_at_boundary
            control.should_save |= config.save_at_boundary

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the stage into the checkpoint."""
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        refreshes = self.trainer.curriculum.config.refresh_reference
        if refreshes:
            self.trainer.frozen.save(folder)
        self.trainer.keep_estimate(folder)
        if state.is_world_process_zero and folder.is_dir():
            names = [phase.name for phase in self.trainer.curriculum.phases]
            write_progress(
                folder,
                self.trainer.plan,
                names,
                state.global_step,
                refreshes,
                self.trainer.estimates,
            )
