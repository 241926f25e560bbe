"""The curriculum of a recipe: from its loaded data and settings to the plan of the run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal, cast

from axolotl.utils.logging import get_logger

from axolotl_ual.columns import PREFIX
from axolotl_ual.data.carry import load_datasets
from axolotl_ual.data.keep import keep_part, own_column
from axolotl_ual.data.preference import load_pairs, load_reward_pairs, with_margins
from axolotl_ual.data.preference import own_column as margin_column
from axolotl_ual.data.sources import trained_sources
from axolotl_ual.data.streamed import StreamedStrategy, split_again
from axolotl_ual.data.tables import is_streamed
from axolotl_ual.data.top_k import with_top_k
from axolotl_ual.data.weights import own_column as weight_column
from axolotl_ual.data.weights import weigher, with_weights
from axolotl_ual.errors import ConfigError, UnsupportedError
from axolotl_ual.schedule.layout import Generation, Layout, PackingArguments, Rows, lay_out
from axolotl_ual.schedule.plan import Phase, Plan, make_phases
from axolotl_ual.schedule.staging import Staging, fit_staging, stage_values
from axolotl_ual.settings.curriculum import CurriculumConfig
from axolotl_ual.settings.preference import ON_PROMPTS, kind_of_rl, trains_reward_model
from axolotl_ual.settings.ual import parse_ual

LOG = get_logger(__name__)

BY = "ual_by"
"""What a column of the user's own is called in the training data: collators leave it out."""


@dataclass(frozen=True, slots=True)
class Curriculum:
    """The curriculum of a run: which stage a row is in, and when it is trained on.

    Attributes:
        column: of the tokenised data, that stages are read from.
        layout: what the plan was made for.
        max_steps: of the recipe; None where it names none.
    """

    config: CurriculumConfig
    staging: Staging
    phases: tuple[Phase, ...]
    column: str
    plan: Plan
    layout: Layout
    max_steps: int | None

    @property
    def steps(self) -> int:
        """Optimizer steps of the run: those of the plan, or fewer where the recipe says so."""
        return min(self.plan.num_steps, self.max_steps or self.plan.num_steps)

    def scale_at(self, step: int) -> float:
        """Factor on the learning rate of a step."""
        name = self.phases[self.plan.phase_at(step)].name
        return self.config.stage_scales()[self.config.order.index(name)]

    def require(
        self,
        dataset: Any,
        *,
        processes: int,
        accumulation: int,
        micro_batch: int,
        packing: PackingArguments | None,
        generation: Generation | None = None,
    ) -> None:
        """Stop where a trainer would train with something else than the plan was made for.

        Raises:
            ConfigError: naming all that differs.
        """
        rows = Rows.read(dataset, self.column, self.staging, packed=packing is not None)
        digest = rows.digest()
        self.layout.require(
            Layout(processes, accumulation, micro_batch, packing, digest, generation)
        )


def load(cfg: Any, preprocess: bool, recipe_name: str) -> tuple[Any, Curriculum | None]:
    """Axolotl's loading of the datasets, with our columns, and the curriculum over them.

    Args:
        cfg: Axolotl's validated config.
        preprocess: whether this is `axolotl preprocess`.
        recipe_name: what messages call the recipe.

    Returns:
        Axolotl's `TrainDatasetMeta`, and None where the recipe has no curriculum.
    """
    ual = parse_ual(cfg.ual)
    with trained_sources(cfg, ual, recipe_name):
        if cfg.rl:
            loaded = load_pairs(cfg, ual, preprocess)
        else:
            column = ual.curriculum.column
            own = {} if column.startswith(PREFIX) else {BY: column}
            own = {**own, **own_column(ual.curriculum.keep), **weight_column(ual.loss.weight)}
            weigh = weigher(ual.loss.weight)
            if trains_reward_model(cfg):
                own = {**own, **margin_column(ual.preference.margin)}
                loaded = load_reward_pairs(cfg, ual, preprocess, own, weigh)
            else:
                loaded = load_datasets(cfg, preprocess, own, weigh, StreamedStrategy)
            if is_streamed(loaded.train_dataset) and cfg.sample_packing:
                loaded.train_dataset = split_again(loaded.train_dataset)
    if ual.curriculum.keep is not None:
        keep_part(cfg, ual.curriculum.keep, loaded)
    if ual.preference.margin is not None:
        loaded.train_dataset = with_margins(loaded.train_dataset, ual.preference.margin)
    if ual.loss.weight is not None:
        loaded.train_dataset, line = with_weights(loaded.train_dataset, ual.loss.weight)
        LOG.info(line)
    if ual.smoothing.reference_top_k is not None:
        loaded.train_dataset = with_top_k(cfg, ual.smoothing, loaded.train_dataset)
    if not ual.curriculum.active:
        return loaded, None
    curriculum, loaded = prepare(cfg, ual.curriculum, loaded)
    return loaded, curriculum


def _column_of_training(column: str, meta: Any) -> str:
    """The column that stages are read from; preference data still have the user's own name."""
    if column.startswith(PREFIX):
        return column
    for name in ("train_dataset", "eval_dataset"):
        dataset = getattr(meta, name)
        if (
            dataset is not None
            and column in dataset.column_names
            and BY not in dataset.column_names
        ):
            setattr(meta, name, dataset.rename_column(column, BY))
    return BY


def prepare(cfg: Any, config: CurriculumConfig, meta: Any) -> tuple[Curriculum, Any]:
    """Fix the curriculum on the loaded data, before the model is loaded.

    Args:
        cfg: Axolotl's validated config. Its `num_epochs` and the intervals that follow from it
            are set to what the curriculum makes of them.
        config: the section.
        meta: Axolotl's `TrainDatasetMeta`.

    Returns:
        The curriculum, and the metadata with the number of steps that there will be.

    Raises:
        ConfigError: see `fit_staging`; or `num_epochs` is no whole number.
        UnsupportedError: the data are streamed.
    """
    if not hasattr(meta.train_dataset, "__len__"):
        raise UnsupportedError(
            "ual.curriculum: a streaming dataset has no order to follow",
            "set `streaming: false`, or `ual.curriculum.mode: none`",
        )
    prompts = kind_of_rl(cfg) in ON_PROMPTS
    # Prompts keep their columns: rewards may read them.
    column = config.column if prompts else _column_of_training(config.column, meta)
    staging = fit_staging(stage_values(meta.train_dataset, column), config)
    epochs = config.stage_epochs(_num_epochs(cfg))
    phases = make_phases(cast("Literal['phased', 'cumulative']", config.mode), config.order, epochs)
    packing = _packing_of_recipe(cfg)
    rows = Rows.read(meta.train_dataset, column, staging, packed=packing is not None)
    layout = Layout(
        _processes(cfg),
        cfg.gradient_accumulation_steps,
        cfg.micro_batch_size,
        packing,
        rows.digest(),
        _generation_of_recipe(cfg) if prompts else None,
    )
    plan = lay_out(
        rows,
        layout,
        phases,
        seed=_seed(cfg),
        shuffle=config.shuffle,
        drop_last=cfg.dataloader_drop_last is True,
    )
    max_steps = cfg.max_steps if cfg.max_steps and cfg.max_steps > 0 else None
    curriculum = Curriculum(config, staging, phases, column, plan, layout, max_steps)
    if config.epochs is not None:
        _set_epochs(cfg, plan.num_rows / len(meta.train_dataset))
    meta.total_num_steps = curriculum.steps
    LOG.info(summary(curriculum))
    return curriculum, meta


def summary(curriculum: Curriculum) -> str:
    """What is trained in which order, for the log."""
    plan, steps = curriculum.plan, curriculum.steps
    lines = [
        f"curriculum: {curriculum.config.mode}, {plan.num_rows} samples in {plan.num_steps} steps"
    ]
    ends = [*plan.phase_starts[1:], plan.num_steps]
    for phase, start, end in zip(curriculum.phases, plan.phase_starts, ends, strict=True):
        where = f"steps {start + 1} to {end}" if end > start else "within the step that follows"
        lines.append(f"  {phase.name}: {phase.epochs} epoch(s), {where}")
    if steps < plan.num_steps:
        last = curriculum.phases[plan.phase_at(steps - 1)].name
        lines.append(f"  max_steps: {steps} ends the run in stage {last}")
    elif curriculum.max_steps and curriculum.max_steps > plan.num_steps:
        lines.append(f"  max_steps: {curriculum.max_steps} is beyond the last stage")
    generation = curriculum.layout.generation
    if generation is not None:
        lines[0] = (
            f"curriculum: {curriculum.config.mode}, {plan.num_rows} prompts with "
            f"{generation.num_generations} responses each, {generation.prompts} prompts at a time, "
            f"in {plan.num_steps} steps"
        )
        if plan.dropped:
            lines.append(f"  {plan.dropped} prompts do not fill the last of these times")
    elif plan.dropped:
        lines.append(f"  dataloader_drop_last: {plan.dropped} samples do not fill the last step")
    return "\n".join(lines)


def _seed(cfg: Any) -> int:
    """As the trainer's own shuffling: data_seed, else seed, else transformers' default."""
    return next((int(seed) for seed in (cfg.data_seed, cfg.seed) if seed is not None), 42)


def _num_epochs(cfg: Any) -> int:
    epochs = float(cfg.num_epochs or 1)
    if epochs != int(epochs):
        raise ConfigError(
            f"num_epochs: {epochs:g}: the stages of a curriculum are trained on whole epochs",
            "set a whole number, or `ual.curriculum.epochs`",
        )
    return int(epochs)


def _set_epochs(cfg: Any, passes: float) -> None:
    """`epochs` of the section takes the place of `num_epochs`, and of what Axolotl made of it."""
    cfg.num_epochs = passes
    for interval, per_epoch in (
        ("save_steps", "saves_per_epoch"),
        ("eval_steps", "evals_per_epoch"),
    ):
        if cfg[per_epoch] and cfg[interval]:
            cfg[interval] = min(1.0 / (cfg[per_epoch] * passes), 1.0)


def _processes(cfg: Any) -> int:
    """Groups of processes that get rows of their own."""
    same = (cfg.context_parallel_size or 1) * (cfg.tensor_parallel_size or 1)
    return max(1, int(os.environ.get("WORLD_SIZE", "1")) // int(same))


def _generation_of_recipe(cfg: Any) -> Generation:
    """How the trainer will sample, from what the recipe alone tells and TRL's defaults."""
    from trl.trainer.grpo_config import GRPOConfig

    said, defaults = cfg.trl or {}, GRPOConfig.__dataclass_fields__
    per_step = cfg.gradient_accumulation_steps * cfg.micro_batch_size
    per_step *= _processes(cfg)
    return Generation(
        num_generations=said.get("num_generations") or defaults["num_generations"].default,
        responses=said.get("generation_batch_size") or per_step,
        iterations=said.get("num_iterations") or defaults["num_iterations"].default,
    )


def _packing_of_recipe(cfg: Any) -> PackingArguments | None:
    """How the trainer will pack, from what the recipe alone tells."""
    if not cfg.sample_packing or cfg.rl:
        return None
    real_batches = (
        cfg.multipack_real_batches
        if cfg.multipack_real_batches is not None
        else not cfg.attn_supports_packing
    )
    return PackingArguments(
        sequence_len=cfg.sequence_len,
        real_batches=bool(real_batches),
        group_size=cfg.sample_packing_group_size,
        bin_size=cfg.sample_packing_bin_size,
        num_processes=cfg.dataset_num_proc,
        start_method=cfg.sample_packing_mp_start_method,
    )
