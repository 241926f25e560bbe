"""The curriculum of a recipe: from its loaded data and settings to the plan of the run."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from axolotl.common import datasets
from axolotl.utils.logging import get_logger
from axolotl.utils.samplers.multipack import pack_parallel
from axolotl.utils.samplers.utils import get_dataset_lengths

from axolotl_ual.columns import PREFIX, SMOOTHING
from axolotl_ual.data.answers import exact_answers
from axolotl_ual.data.carry import command_line, load_datasets
from axolotl_ual.data.top_k import with_top_k
from axolotl_ual.errors import AnnotationError, ConfigError, DataError, UnsupportedError
from axolotl_ual.schedule.plan import Geometry, Packing, Phase, Plan, build_plan, make_phases
from axolotl_ual.schedule.staging import Staging, fit_staging, stage_values
from axolotl_ual.settings.curriculum import CurriculumConfig
from axolotl_ual.settings.curriculum_rules import SMOOTHED, kind_of_rl
from axolotl_ual.settings.ual import UALConfig, parse_ual

LOG = get_logger(__name__)

BY = "ual_by"
"""What a column of the user's own is called in the training data: collators leave it out."""


@dataclass
class Curriculum:
    """The curriculum of a run: which stage a row is in, and which phases follow one another.

    Attributes:
        column: of the tokenised data, that stages are read from.
        max_steps: of the recipe; None where it names none.
    """

    config: CurriculumConfig
    staging: Staging
    phases: tuple[Phase, ...]
    column: str
    seed: int
    drop_last: bool
    max_steps: int | None
    _plans: dict[Any, Plan] = field(default_factory=dict)

    def plan(self, dataset: Any, geometry: Geometry, packing: Packing | None, key: Any) -> Plan:
        """Lay the run out over a training set; once for the same dataset, geometry and `key`."""
        whole_key = (dataset._fingerprint, len(dataset), geometry, key)
        if whole_key not in self._plans:
            values = stage_values(dataset, self.column)
            self._plans[whole_key] = build_plan(
                self.staging.number(values),
                self.phases,
                geometry,
                seed=self.seed,
                shuffle=self.config.shuffle,
                values_N=None if self.staging.cuts is None else self.staging.keys(values),
                packing=packing,
                drop_last=self.drop_last,
            )
        return self._plans[whole_key]

    def steps(self, plan: Plan) -> int:
        """Optimizer steps of a run: those of the plan, or fewer where the recipe says so."""
        return min(plan.num_steps, self.max_steps or plan.num_steps)

    def scale_at(self, plan: Plan, step: int) -> float:
        """Factor on the learning rate of a step."""
        name = self.phases[plan.phase_at(step)].name
        return self.config.stage_scales()[self.config.order.index(name)]


def load(cfg: Any, preprocess: bool) -> tuple[Any, Curriculum | None]:
    """Axolotl's loading of the datasets, with our columns, and the curriculum over them.

    Args:
        cfg: Axolotl's validated config.
        preprocess: whether this is `axolotl preprocess`.

    Returns:
        Axolotl's `TrainDatasetMeta`, and None where the recipe has no curriculum.
    """
    ual = parse_ual(cfg.ual)
    if cfg.rl:
        loaded = load_pairs(cfg, ual, preprocess)
    else:
        column = ual.curriculum.column
        own = {} if column.startswith(PREFIX) else {BY: column}
        loaded = load_datasets(cfg, preprocess, own)
        if ual.smoothing.reference_top_k is not None:
            loaded.train_dataset = with_top_k(cfg, ual.smoothing, loaded.train_dataset)
    if not ual.curriculum.active:
        return loaded, None
    curriculum, loaded = prepare(cfg, ual.curriculum, loaded)
    return loaded, curriculum


def load_pairs(cfg: Any, ual: UALConfig, preprocess: bool) -> Any:
    """Axolotl's loading of preference data, whose smoothing is checked.

    Raises:
        AnnotationError: pairs are to be smoothed and have no `ual_smoothing`.
        DataError: a smoothing is null or outside [0, 0.5).
    """
    with exact_answers():
        loaded = datasets.load_preference_datasets(cfg=cfg, cli_args=command_line(preprocess))
    rl = kind_of_rl(cfg)
    if rl not in SMOOTHED:
        LOG.warning(
            f"rl: {rl} has no smoothing of pairs: `{SMOOTHING}` is not used, order and stages are"
        )
    elif ual.preference.smoothing:
        LOG.info(_checked_pairs(loaded.train_dataset))
    return loaded


def _checked_pairs(dataset: Any) -> str:
    if SMOOTHING not in dataset.column_names:
        raise AnnotationError(
            f"datasets: the pairs have no column `{SMOOTHING}`",
            "make pairs that have it, or set `ual.preference.smoothing: false`",
        )
    values = np.asarray(stage_values(dataset, SMOOTHING), dtype=np.float64)
    wrong = np.flatnonzero(~((values >= 0.0) & (values < 0.5)))
    if wrong.size:
        raise DataError(
            f"datasets: pair {int(wrong[0])}: `{SMOOTHING}` is {values[wrong[0]]}, and the "
            f"probability that a label is flipped must be in [0, 0.5) ({wrong.size} such pairs)",
            "make the pairs again, or repair the column",
        )
    return f"ual: {len(values)} training pairs carry smoothing, {values.mean():.4f} on average"


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
    column = _column_of_training(config.column, meta)
    curriculum = Curriculum(
        config=config,
        staging=fit_staging(stage_values(meta.train_dataset, column), config),
        phases=make_phases(
            cast("Literal['phased', 'cumulative']", config.mode),
            config.order,
            config.stage_epochs(_num_epochs(cfg)),
        ),
        column=column,
        seed=_seed(cfg),
        drop_last=cfg.dataloader_drop_last is True,
        max_steps=cfg.max_steps if cfg.max_steps and cfg.max_steps > 0 else None,
    )
    plan = _plan_of_recipe(cfg, curriculum, meta.train_dataset)
    if config.epochs is not None:
        _set_epochs(cfg, plan.num_rows / len(meta.train_dataset))
    meta.total_num_steps = curriculum.steps(plan)
    LOG.info(summary(curriculum, plan))
    return curriculum, meta


def summary(curriculum: Curriculum, plan: Plan) -> str:
    """What is trained in which order, for the log."""
    lines = [
        f"curriculum: {curriculum.config.mode}, {plan.num_rows} samples in {plan.num_steps} steps"
    ]
    ends = [*plan.phase_starts[1:], plan.num_steps]
    for phase, start, end in zip(curriculum.phases, plan.phase_starts, ends, strict=True):
        where = f"steps {start + 1} to {end}" if end > start else "within the step that follows"
        lines.append(f"  {phase.name}: {phase.epochs} epoch(s), {where}")
    steps = curriculum.steps(plan)
    if steps < plan.num_steps:
        last = curriculum.phases[plan.phase_at(steps - 1)].name
        lines.append(f"  max_steps: {steps} ends the run in stage {last}")
    elif curriculum.max_steps and curriculum.max_steps > plan.num_steps:
        lines.append(f"  max_steps: {curriculum.max_steps} is beyond the last stage")
    if plan.dropped:
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


def _plan_of_recipe(cfg: Any, curriculum: Curriculum, dataset: Any) -> Plan:
    """The plan as the trainer will make it, from what the recipe alone tells."""
    real_batches = (
        cfg.multipack_real_batches
        if cfg.multipack_real_batches is not None
        else not cfg.attn_supports_packing
    )
    return packed_plan(
        curriculum,
        dataset,
        world_size=int(os.environ.get("WORLD_SIZE", "1")),
        accumulation=cfg.gradient_accumulation_steps,
        micro_batch=cfg.micro_batch_size,
        packing=PackingArguments(
            sequence_len=cfg.sequence_len,
            real_batches=bool(real_batches),
            group_size=cfg.sample_packing_group_size,
            bin_size=cfg.sample_packing_bin_size,
            num_processes=cfg.dataset_num_proc,
            start_method=cfg.sample_packing_mp_start_method,
        )
        if cfg.sample_packing and not cfg.rl
        else None,
    )


@dataclass(frozen=True, slots=True)
class PackingArguments:
    """Axolotl's settings of sample packing.

    Attributes:
        real_batches: a micro-batch is several bins of `sequence_len`, not one long one.
        bin_size: most rows in a bin.
    """

    sequence_len: int
    real_batches: bool
    group_size: int
    bin_size: int | None
    num_processes: int | None
    start_method: str | None


def packed_plan(
    curriculum: Curriculum,
    dataset: Any,
    *,
    world_size: int,
    accumulation: int,
    micro_batch: int,
    packing: PackingArguments | None,
) -> Plan:
    """The plan of a run, with Axolotl's own packing inside each epoch of a stage."""
    if packing is None:
        geometry = Geometry(world_size, accumulation, micro_batch)
        return curriculum.plan(dataset, geometry, None, None)
    bins = micro_batch if packing.real_batches else 1
    capacity = packing.sequence_len * (1 if packing.real_batches else micro_batch)
    pack = partial(
        pack_parallel,
        bin_capacity=capacity,
        group_size=packing.group_size,
        bin_size=packing.bin_size or capacity,
        num_processes=min(4, packing.num_processes or 1),
        safe_mode=True,
        mp_start_method=packing.start_method or "fork",
    )
    lengths_N = np.asarray(get_dataset_lengths(dataset), dtype=np.int32)
    return curriculum.plan(
        dataset,
        Geometry(world_size, accumulation, bins),
        Packing(lengths_N, pack, packing.group_size),
        (capacity, packing),
    )
