"""Reward models: the loss of pairs against its formula in float64, and real runs of Axolotl."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from axolotl_ual.columns import MARGIN, SMOOTHING, WEIGHT
from reference.preference import robust_pair, sigmoid_pair

EPS = [0.0, 0.1, 0.45, 0.2]
MARGINS = [0.3, -0.2, 0.0, 0.1]
WEIGHTS = [1.0, 0.0, 2.5, 0.5]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Not much smaller than the rewards' own scale, so that they are not all alike.
    return tiny.make_reward_model(tmp_path_factory.mktemp("model"), initializer_range=0.3)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The `ual:` block that a trainer finds."""
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.dict import DictDefault

    cfg = DictDefault({"ual": {"preference": {"smoothing": True}}})
    monkeypatch.setattr(PluginManager.get_instance(), "_cfg", cfg)
    yield cfg.ual


def tokenised() -> list[dict[str, Any]]:
    """Four pairs of different lengths."""
    chosen = [[7, 8, 9], [20], [31, 32, 33, 34, 35], [40, 41]]
    rejected = [[7, 12], [20, 21, 22, 23], [31], [44, 41, 45]]
    told = zip(chosen, rejected, EPS, MARGINS, WEIGHTS, strict=True)
    return [
        {"chosen_ids": c, "rejected_ids": r, SMOOTHING: eps, MARGIN: margin, WEIGHT: weight}
        for c, r, eps, margin, weight in told
    ]


def make_trainer(
    base: Path, folder: Path, *, plain: bool = False, dtype: Any = torch.float64, **args: Any
) -> Any:
    from axolotl.core.trainers import AxolotlRewardTrainer
    from axolotl.core.training_args import AxolotlRewardConfig
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl.trainer.reward_trainer import DataCollatorForPreference

    from axolotl_ual.training.reward import UALRewardTrainer

    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        **args,
    }
    cls = AxolotlRewardTrainer if plain else UALRewardTrainer
    return cls(
        model=AutoModelForSequenceClassification.from_pretrained(base, dtype=dtype),
        args=AxolotlRewardConfig(output_dir=str(folder), **settings),
        train_dataset=Dataset.from_list(tokenised()),
        processing_class=AutoTokenizer.from_pretrained(base),
        data_collator=DataCollatorForPreference(pad_token_id=0),
    )


def step_of(trainer: Any) -> tuple[dict[str, Any], Any]:
    """All four pairs as a step of one micro-batch, as the trainer takes it."""
    torch.manual_seed(0)
    trainer.current_gradient_accumulation_steps = 1
    loader = iter(trainer.get_train_dataloader())
    (batch,), items = trainer.get_batch_samples(loader, 1, torch.device("cpu"))
    assert (batch["attention_mask"] == 0).any()
    return dict(batch), items


def gradients(trainer: Any, loss: Tensor) -> dict[str, Tensor]:
    named = dict(trainer.model.named_parameters())
    return dict(zip(named, torch.autograd.grad(loss, list(named.values())), strict=True))


def reward(model: Any, ids: list[int]) -> Tensor:
    """Of a response by itself, without padding: what the head says at its last token."""
    hidden: Tensor = model.model(input_ids=torch.tensor([ids])).last_hidden_state
    score: Tensor = model.score(hidden[0, -1])
    return score[0]


VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "smoothed": ({}, {}),
    "robust": ({"preference": {"flips": "robust"}}, {}),
    "margins": ({"preference": {"margin": {"mean": 0.5, "tau": 0.1}}}, {}),
    "weights and centering": (
        {"loss": {"weight": "w"}},
        {"center_rewards_coefficient": 0.25},
    ),
    "nothing smoothed": ({"preference": {"smoothing": False, "flips": "conservative"}}, {}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_loss_and_gradients_equal_the_formula(
    variant: str, base: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    ual, args = VARIANTS[variant]
    recipe.update(ual)
    trainer = make_trainer(base, tmp_path, **args)
    trainer.model.train()
    batch, items = step_of(trainer)
    ours = trainer.compute_loss(trainer.model, batch, num_items_in_batch=items)
    formula = robust_pair if variant == "robust" else sigmoid_pair
    centering = args.get("center_rewards_coefficient", 0.0)
    losses, weights = [], []
    for row in tokenised():
        chosen = reward(trainer.model, row["chosen_ids"])
        rejected = reward(trainer.model, row["rejected_ids"])
        # What is float32 in the batch is so here.
        eps, margin = (float(torch.tensor(row[name])) for name in (SMOOTHING, MARGIN))
        z = chosen - rejected - (margin if variant == "margins" else 0.0)
        loss = formula(z, 0.0 if variant == "nothing smoothed" else eps, 1.0)
        losses.append(loss + centering * (chosen + rejected) ** 2)
        weights.append(row[WEIGHT] if "loss" in ual else 1.0)
    weights_P = torch.tensor(weights, dtype=torch.float64)
    slow = (torch.stack(losses) * weights_P).sum() / weights_P.sum()
    torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-12)
    found, expected = gradients(trainer, ours), gradients(trainer, slow)
    assert any("score" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-12)


def test_nothing_asked_leaves_the_loss_to_the_bit(
    base: Path, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A smoothing of 0 and a weight of 1 for each pair, beside Axolotl's trainer."""
    monkeypatch.setattr(f"{__name__}.EPS", [0.0] * 4)
    monkeypatch.setattr(f"{__name__}.WEIGHTS", [1.0] * 4)
    recipe.update({"loss": {"weight": "w"}})
    args = {"dtype": torch.float32, "center_rewards_coefficient": 0.01}
    found = []
    for plain in (True, False):
        trainer = make_trainer(base, tmp_path, plain=plain, **args)
        trainer.model.train()
        batch, items = step_of(trainer)
        loss = trainer.compute_loss(trainer.model, batch, num_items_in_batch=items)
        found.append((loss, gradients(trainer, loss)))
    (theirs, expected), (ours, ownings) = found
    assert torch.equal(ours, theirs)
    for name, gradient in expected.items():
        assert torch.equal(ownings[name], gradient), name


def test_validation_is_of_the_plain_loss(
    base: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    trainer = make_trainer(base, tmp_path)
    trainer.model.eval()
    batch, _ = step_of(trainer)
    with torch.no_grad():
        plain = trainer.compute_loss(trainer.model, dict(batch))
        scores = trainer.scores(batch)
    gained = [
        float(reward(trainer.model, row["chosen_ids"]) - reward(trainer.model, row["rejected_ids"]))
        for row in tokenised()
    ]
    losses = [math.log1p(math.exp(-z)) for z in gained]
    assert float(plain) == pytest.approx(sum(losses) / 4, rel=1e-9)
    assert sorted(scores.loss_M.tolist()) == pytest.approx(sorted(losses), rel=1e-9)
    sure = [1 / (1 + math.exp(-abs(z))) for z in gained]
    assert sorted(scores.confidence_M.tolist()) == pytest.approx(sorted(sure), rel=1e-9)
    assert sum(scores.hit_M.tolist()) == sum(z > 0 for z in gained)


STAGES = ("conservative", "moderate", "exploratory")
SIZES = (4, 4, 3)


def rows() -> list[dict[str, Any]]:
    """Eleven pairs, mixed in their stages: 4, 4 and 3."""
    stages = [stage for stage, size in zip(STAGES, SIZES, strict=True) for _ in range(size)]
    return [
        {
            "system": "be brief" if n % 3 else "",
            "input": f"question {n}",
            "chosen": "good " * (1 + n % 3),
            "rejected": "bad " * (1 + n % 2),
            "ual_smoothing": n * 0.04,
            "ual_stage": stages[n * 5 % 11],
            "w": 0.5 + n / 8,
        }
        for n in range(11)
    ]


def train(base: Path, folder: Path, processes: int, **overrides: Any) -> tiny.Run:
    path = tiny.write_rows(folder / "pairs.jsonl", rows())
    held = [{k: v for k, v in row.items() if k[:4] != "ual_"} for row in rows()[:3]]
    test = tiny.write_rows(folder / "held.jsonl", held)
    kind = {"type": "bradley_terry.chat_template"}
    settings: dict[str, Any] = {
        "plugins": ["axolotl_ual.UALPlugin"],
        "reward_model": True,
        "chat_template": "tokenizer_default",
        "pad_to_sequence_len": False,
        "test_datasets": [{"path": str(test), "split": "train", **kind}],
        "lora_modules_to_save": ["score"],
        "max_steps": None,
        "learning_rate": 0.0,
        "max_grad_norm": 0.0,
        "save_strategy": "no",
        "gradient_accumulation_steps": 2 // processes,
        "ual": {
            "loss": {"weight": "w"},
            "curriculum": {"mode": "phased", "evaluate_at_boundary": True},
        },
        **overrides,
    }
    made = tiny.recipe(base, folder, [{"path": str(path), **kind}], **settings)
    return tiny.axolotl(made, folder, processes=processes)


@pytest.mark.slow
def test_stages_over_two_processes_are_those_of_one(base: Path, tmp_path: Path) -> None:
    """Four pairs a step, three in the last; the first against the formula in float64."""
    from datasets import load_from_disk
    from transformers import AutoModelForSequenceClassification

    one = train(base, tmp_path / "one", 1)
    two = train(base, tmp_path / "two", 2)
    assert one.values("ual/stage") == two.values("ual/stage") == [1, 2, 3]
    for key in ("loss", "loss/preference", "loss/smoothing", "ual/weight", "grad_norm"):
        assert len(one.values(key)) == 3
        assert two.values(key) == pytest.approx(one.values(key), rel=1e-6), key
    for key in ("accuracy", "margin", "min_reward", "mean_reward", "max_reward"):
        assert two.values(key) == pytest.approx(one.values(key), rel=1e-5), key
    assert two.values("num_tokens") == one.values("num_tokens")
    # Tokens of an entry are those of a step; TRL adds them up.
    tokens = one.values("ual/tokens")
    assert two.values("ual/tokens") == tokens
    assert one.values("num_tokens")[-1] == sum(tokens)
    assert "11 training pairs carry smoothing, 0.2000 on average" in one.text
    # At the start, and after each stage; the model stays what it was.
    assert len(set(one.values("eval_loss"))) == 1
    assert one.values("eval_ece_width_15") == pytest.approx(
        two.values("eval_ece_width_15"), rel=1e-6
    )
    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float64)
    (prepared,) = [
        place.parent
        for place in (tmp_path / "one" / "prepared").glob("*/*/dataset_info.json")
        if "ual_stage" in place.read_text()
    ]
    total, mass = 0.0, 0.0
    for row in load_from_disk(prepared):
        if row["ual_stage"] == STAGES[0]:
            with torch.no_grad():
                z = reward(model, row["chosen_ids"]) - reward(model, row["rejected_ids"])
            total += row["ual_weighed_by"] * float(sigmoid_pair(z, row["ual_smoothing"], 1.0))
            mass += row["ual_weighed_by"]
    assert one.values("loss")[0] == pytest.approx(total / mass, rel=1e-6)
