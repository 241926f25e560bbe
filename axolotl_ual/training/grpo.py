"""Axolotl's GRPO trainer, in the order of a curriculum.

Rows are prompts. TRL samples responses to B prompts at a time, G to each, and trains on them in one
or several steps. Its sampler tells the dataloader so: each of B indices G times in a row, and all
that once for each micro-batch that is trained on. Here the indices are the plan's places, taken as
they are, so that stages, epochs and their order are those of `ual.curriculum`; what is left over of
an epoch goes into the next one's first B prompts, and only the end of the run loses some.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from axolotl.core.trainers.grpo.trainer import AxolotlGRPOTrainer
from torch.utils.data import Sampler
from trl.trainer.utils import RepeatSampler

from axolotl_ual.errors import UnsupportedError
from axolotl_ual.schedule.curriculum import Curriculum
from axolotl_ual.schedule.layout import Generation
from axolotl_ual.schedule.plan import Plan
from axolotl_ual.training.batches import StageCollator
from axolotl_ual.training.staged import StagedMixin


class PlannedPrompts(Sampler[int]):
    """TRL's repeating sampler over the places of a plan.

    Args:
        plan: of prompts.
        repeating: TRL's sampler over `range(plan.num_rows)`, which does not shuffle.
    """

    def __init__(self, plan: Plan, repeating: RepeatSampler) -> None:
        self.plan = plan
        self.repeating = repeating

    def __iter__(self) -> Iterator[int]:
        rows = self.plan.rows_R.tolist()
        return (rows[place] for place in self.repeating)

    def __len__(self) -> int:
        return len(self.repeating)


class UALGRPOTrainer(StagedMixin, AxolotlGRPOTrainer):
    """GRPO in the order of a curriculum."""

    scores_predictions = False

    def _generation(self) -> Generation:
        return Generation(
            self.num_generations, self.args.generation_batch_size, self.num_iterations
        )

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        if self.plan is None:
            return super()._get_train_sampler(dataset)
        repeating = RepeatSampler(
            data_source=range(self.plan.num_rows),
            mini_repeat_count=self.num_generations,
            batch_size=self.args.generation_batch_size // self.num_generations,
            repeat_count=self.num_iterations * self.args.steps_per_generation,
            shuffle=False,
        )
        return PlannedPrompts(self.plan, repeating)

    def _init_training_state(
        self, max_steps: int, steps_per_epoch: int, epochs: int, resume: str | None, trial: Any
    ) -> Any:
        """Count micro-batches from where the checkpoint was saved.

        TRL begins at 0 and samples by this count, so that a run which goes on in the midst of what
        is sampled at a time would train on these responses again in the place of the next ones.
        """
        result = super()._init_training_state(max_steps, steps_per_epoch, epochs, resume, trial)
        self._step = self.state.global_step * self.args.gradient_accumulation_steps
        return result

    def _require_plan(self, loader: Any, plan: Plan) -> None:
        """Stop where the dataloader takes its prompts from something else than the plan."""
        sampler: Any = getattr(loader, "batch_sampler", None)
        while hasattr(sampler, "batch_sampler"):
            sampler = sampler.batch_sampler
        sampler = getattr(sampler, "sampler", sampler)
        if not isinstance(sampler, PlannedPrompts) or sampler.plan is not plan:
            raise UnsupportedError(
                f"the trainer takes its prompts from {type(sampler).__name__}, not from the plan "
                "of `ual.curriculum`: they would be answered in another order than the stages'",
                "install versions of axolotl and trl that this plugin supports",
            )

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        if self.curriculum is not None and self.curriculum.column not in self._signature_columns:
            self._signature_columns.append(self.curriculum.column)

    def _staged(self, curriculum: Curriculum, plain: Any) -> Any:
        """TRL's batches are the rows themselves, which hold their stage already."""
        self._stages = StageCollator(_nothing, curriculum.staging, curriculum.column)
        return plain

    def _see(self, batch: Sequence[Any]) -> None:
        told = self._stages(batch)
        super()._see({name: values.to(self.args.device) for name, values in told.items()})

    def _shared_out(self, batches: Iterator[Any]) -> Iterator[Any]:
        """Every step of a plan of prompts is full."""
        return batches


def _nothing(rows: Sequence[Any]) -> dict[str, Any]:
    return {}
