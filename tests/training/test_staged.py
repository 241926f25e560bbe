"""Stages, sampler and loss of a trainer in this process: what goes wrong there must be noticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from trainers import follow, logged, sft_trainer

import tiny
from axolotl_ual.columns import STAGES
from axolotl_ual.errors import ConfigError, UnsupportedError

PHASED = {"mode": "phased", "shuffle": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


def row(*ids: int, stage: int = 0, **changes: Any) -> dict[str, Any]:
    return {
        "input_ids": list(ids),
        "attention_mask": [1] * len(ids),
        "labels": list(ids),
        "ual_smoothing": 0.1,
        "ual_stage": STAGES[stage],
        "ual_uncertainty": stage / 2,
        **changes,
    }


def staged_rows() -> list[dict[str, Any]]:
    """Two rows of each stage, the last stage first."""
    return [row(8, 9, 10 + n, stage=2 - n // 2) for n in range(6)]


def test_stages_and_uncertainty_are_those_of_the_rows(model: Path, tmp_path: Path) -> None:
    trainer = sft_trainer(model, tmp_path, staged_rows(), ual={"curriculum": PHASED})
    trainer.train()
    assert logged(trainer, "ual/stage") == [1.0, 2.0, 3.0]
    assert logged(trainer, "ual/uncertainty") == [0.0, 0.5, 1.0]
    assert logged(trainer, "ual/exploratory/loss") == logged(trainer, "loss")[2:]


def test_the_logged_stage_is_that_of_the_batch_and_not_of_the_plan(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from axolotl_ual.training.batches import PlanSampler

    def backwards(self: Any) -> Iterator[Any]:
        return iter(list(self.plan.batches())[::-1])

    monkeypatch.setattr(PlanSampler, "__iter__", backwards)
    trainer = sft_trainer(model, tmp_path, staged_rows(), ual={"curriculum": PHASED})
    trainer.train()
    assert logged(trainer, "ual/stage") == [3.0, 2.0, 1.0]


def test_a_sampler_that_is_not_ours_stops_training(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the trainer had renamed the method that asks for it."""
    from axolotl_ual.training.staged import StagedMixin

    trainer = sft_trainer(model, tmp_path, staged_rows(), ual={"curriculum": PHASED})
    monkeypatch.delattr(StagedMixin, "_get_train_sampler")
    with pytest.raises(UnsupportedError, match=r"takes its batches from BatchSampler, not from"):
        trainer.train()


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        ({"micro_batch_size": 1}, "micro_batch_size: planned 1, in training 2"),
        (
            {"gradient_accumulation_steps": 3},
            "gradient_accumulation_steps: planned 3, in training 1",
        ),
    ],
)
def test_a_plan_for_other_steps_stops_training(
    model: Path, tmp_path: Path, recipe: dict[str, Any], said: str
) -> None:
    trainer = sft_trainer(model, tmp_path, staged_rows())
    follow(trainer, PHASED, **recipe)
    with pytest.raises(ConfigError) as caught:
        trainer.train()
    assert caught.value.problem.endswith(said)


def test_a_plan_for_other_rows_stops_training(model: Path, tmp_path: Path) -> None:
    trainer = sft_trainer(model, tmp_path, staged_rows())
    follow(trainer, PHASED)
    trainer.train_dataset = trainer.train_dataset.select([1, 0, 4, 2, 3, 5])
    with pytest.raises(ConfigError, match="rows of the training set"):
        trainer.train()


@pytest.mark.parametrize("normalization", ["tokens", "micro_batch"])
def test_a_first_label_is_predicted_by_nothing_and_counts_for_nothing(
    model: Path, tmp_path: Path, normalization: str
) -> None:
    """Rows whose first token has a label train exactly as those whose first is masked."""
    rows = [row(8, 9, 10, 11, 12, ual_smoothing=0.3), row(8, 13), row(8, 14, 15), row(8, 16)]
    masked = [{**r, "labels": [-100, *r["labels"][1:]]} for r in rows]
    found = []
    for data in (rows, masked, [rows[0], *masked[1:]]):
        trainer = sft_trainer(
            model,
            tmp_path,
            data,
            ual={"loss": {"normalization": normalization}},
            per_device_train_batch_size=1,
            gradient_accumulation_steps=4,
        )
        trainer.train()
        found.append([logged(trainer, key) for key in ("loss", "grad_norm", "ual/tokens")])
    # 4 + 1 + 2 + 1 labels follow a token.
    assert found[0][2] == [8.0]
    assert found[0] == found[1] == found[2]


def test_the_loss_does_not_rely_on_what_the_model_is_taken_for(model: Path, tmp_path: Path) -> None:
    """A trainer that believes the model divides by tokens leaves out the mean of micro-batches."""
    found = []
    for believed in (False, True):
        trainer = sft_trainer(
            model,
            tmp_path,
            [row(8, 9, 10, 11), row(8, 12), row(8, 13, 14), row(8, 15)],
            per_device_train_batch_size=1,
            gradient_accumulation_steps=4,
        )
        trainer.model_accepts_loss_kwargs = believed
        trainer.train()
        found.append([logged(trainer, key) for key in ("loss", "grad_norm")])
    assert found[0] == found[1]
