"""Trainers of the plugin in this process, on a few rows, as Axolotl would make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def sft_trainer(
    model: Path,
    output: Path,
    rows: Sequence[Mapping[str, Any]],
    *,
    ual: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Any:
    """A `UALTrainer` that trains every parameter; it follows the curriculum of `ual`, if any.

    Args:
        model: folder of a saved model with its tokenizer.
        rows: tokenised, with their smoothing.
        arguments: of the trainer.
    """
    from axolotl.core.training_args import AxolotlTrainingArguments
    from axolotl.utils.collators import DataCollatorForSeq2Seq
    from axolotl.utils.dict import DictDefault
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from axolotl_ual.training.sft import UALTrainer

    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "num_train_epochs": 1,
        "learning_rate": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "disable_tqdm": True,
        **arguments,
    }
    tokenizer = AutoTokenizer.from_pretrained(model)
    trainer = UALTrainer(
        AutoModelForCausalLM.from_pretrained(model),
        args=AxolotlTrainingArguments(output_dir=str(output), **settings),
        train_dataset=Dataset.from_list([dict(row) for row in rows]),
        processing_class=tokenizer,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
    )
    trainer.axolotl_cfg = DictDefault({"ual": dict(ual or {})})
    if ual and "curriculum" in ual:
        follow(trainer, ual["curriculum"])
    return trainer


def follow(trainer: Any, curriculum: Mapping[str, Any], **recipe: Any) -> None:
    """Have a trainer follow a curriculum, laid out for a recipe that says what the trainer does.

    Args:
        recipe: what the recipe says otherwise.
    """
    from axolotl.utils.dict import DictDefault

    from axolotl_ual.schedule.curriculum import prepare
    from axolotl_ual.settings.curriculum import CurriculumConfig
    from axolotl_ual.training.boundaries import CurriculumCallback

    cfg = DictDefault(
        {
            "num_epochs": 1,
            "seed": 1,
            "micro_batch_size": trainer.args.per_device_train_batch_size,
            "gradient_accumulation_steps": trainer.args.gradient_accumulation_steps,
            **recipe,
        }
    )
    data = SimpleNamespace(
        train_dataset=trainer.train_dataset, eval_dataset=None, total_num_steps=None
    )
    made, _ = prepare(cfg, CurriculumConfig(**curriculum), data)
    trainer.follow(made)
    trainer.add_callback(CurriculumCallback(trainer))


def logged(trainer: Any, key: str) -> list[float]:
    """A quantity that a trainer has logged, step by step."""
    return [entry[key] for entry in trainer.state.log_history if key in entry]
