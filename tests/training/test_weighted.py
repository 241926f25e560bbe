"""`axolotl train` where rows, messages and tokens count differently, against full logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from curriculum_data import pairs_entry

import tiny
from reference.token_weights import weighted_sum

pytestmark = pytest.mark.slow

PLUGIN = "axolotl_ual.UALPlugin"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its weights are large, so that its predictions differ from token to token."""
    folder = tmp_path_factory.mktemp("model") / "model"
    return tiny.make_model(folder, initializer_range=0.3)


@pytest.fixture(scope="module")
def adapter(model: Path) -> Path:
    """One that differs from nothing, so that the anchor is not at its minimum."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(model)
    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    made = get_peft_model(base, config)
    with torch.no_grad():
        for name, part in made.named_parameters():
            if "lora_B" in name:
                part.normal_(std=0.3)
    made.save_pretrained(model.parent / "adapter")
    return model.parent / "adapter"


def train(
    folder: Path, data: list[dict[str, Any]], entry: dict[str, Any], recipe: dict[str, Any]
) -> tiny.Run:
    launch = {key: recipe.pop(key) for key in ("processes", "imports") if key in recipe}
    path = tiny.write_rows(folder / "data.jsonl", data)
    settings = {"plugins": [PLUGIN], "max_grad_norm": 0.0, "save_strategy": "no", **recipe}
    base = settings.pop("model")
    made = tiny.recipe(base, folder, [{"path": str(path), **entry}], **settings)
    return tiny.axolotl(made, folder, **launch)


def rows(weights: list[float]) -> list[dict[str, Any]]:
    """Eight rows of several lengths; a weight of 2 is the row twice, 0 is no row."""
    return [
        {
            "instruction": f"Question {n}?",
            "output": "perhaps it is so " * (1 + n % 3),
            "ual_smoothing": (n % 4) / 10,
            "ual_stage": "moderate",
            "w": weight,
        }
        for n, weight in enumerate(weights)
    ]


def test_a_weight_of_2_is_the_row_twice(model: Path, adapter: Path, tmp_path: Path) -> None:
    """As one micro-batch; as eight on two processes, in the order of a curriculum, with Liger."""
    weights = [2.0, 0.0, 1.0, 1.0, 0.0, 2.0, 1.0, 2.0]
    data = rows(weights)
    repeated = [row for row in data for _ in range(int(row["w"]))]
    shared = {"model": model, "lora_model_dir": str(adapter), "max_steps": 1}
    alpaca = {"type": "alpaca"}
    loss = {"weight": "w"}
    twice = train(tmp_path / "twice", repeated, alpaca, {**shared, "micro_batch_size": 9})
    once = train(
        tmp_path / "once", data, alpaca, {**shared, "micro_batch_size": 8, "ual": {"loss": loss}}
    )
    cut = train(
        tmp_path / "cut",
        data,
        alpaca,
        {
            **shared,
            "micro_batch_size": 2,
            "gradient_accumulation_steps": 2,
            "ual": {"loss": loss, "curriculum": {"mode": "phased", "order": ["moderate"]}},
            "processes": 2,
        },
    )
    for key in ("loss", "loss/nll", "loss/smoothing", "grad_norm"):
        assert len(twice.values(key)) == 1
        assert once.values(key) == pytest.approx(twice.values(key), rel=1e-6), key
        assert cut.values(key) == pytest.approx(twice.values(key), rel=1e-6), key
    assert "ual.loss.weight: w: 8 training rows weigh 0 to 2, 1.1250 on average" in once.text
    # The file's own tokens count, whatever they weigh.
    assert once.values("ual/weight") == pytest.approx(cut.values("ual/weight"), rel=1e-6)
    assert "ual/weight" not in twice.log[0]


def expected(run: tiny.Run, model: Path, adapter: Path, token: str, anchor: float) -> list[float]:
    """Loss and gradient norm of a run's only step, from its prepared data, without packing."""
    import torch
    from datasets import load_from_disk
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model)
    before = AutoModelForCausalLM.from_pretrained(model)
    tuned = PeftModel.from_pretrained(base, adapter, is_trainable=True).train()
    (prepared,) = (run.output.parent / "prepared").glob("*/*/dataset_info.json")
    total, mass = torch.zeros(()), 0.0
    for row in load_from_disk(prepared.parent):
        ids, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"][1:])
        weight = torch.tensor(row["ual_weight"])[1:]
        with torch.no_grad():
            reference = before(input_ids=ids).logits[0, :-1]
        total = total + weighted_sum(
            tuned(input_ids=ids).logits[0, :-1],
            labels,
            torch.full(labels.shape, row["ual_smoothing"]),
            weight,
            token,
            anchor=anchor,
            reference_NR=reference,
        )
        mass += weight[labels != -100].sum().item()
    (total / mass).backward()
    gradients = [part.grad for part in tuned.parameters() if part.grad is not None]
    return [(total / mass).item(), torch.stack([part.norm() for part in gradients]).norm().item()]


@pytest.mark.parametrize("token", ["probability", "entropy"])
def test_messages_tokens_and_an_anchor(
    model: Path, adapter: Path, tmp_path: Path, token: str
) -> None:
    """Packed, with an adapter; `entropy` beside Liger's patch, whose loss is not asked."""
    chats = [
        [
            {"role": "user", "content": f"Question {n}?"},
            {"role": "assistant", "content": "Yes. " * (n + 1), "weight": 0.2},
            {"role": "user", "content": "Sure?"},
            {"role": "assistant", "content": "Quite sure, " + "really " * n},
        ]
        for n in range(4)
    ]
    data = [{"messages": chat, "ual_smoothing": n / 10} for n, chat in enumerate(chats)]
    ual = {"loss": {"weight": {"message": "weight"}, "token_weight": token}}
    ual["loss"]["anchor"] = {"weight": 0.5}
    recipe: dict[str, Any] = {
        "model": model,
        "lora_model_dir": str(adapter),
        "sample_packing": True,
        "micro_batch_size": 1,
        "sequence_len": 512,
        "max_steps": 1,
        "ual": ual,
    }
    if token == "entropy":
        recipe["plugins"] = [PLUGIN, "axolotl.integrations.liger.LigerPlugin"]
        recipe["liger_fused_linear_cross_entropy"] = True
    run = train(tmp_path, data, {"type": "chat_template", "roles_to_train": ["assistant"]}, recipe)
    loss, norm = expected(run, model, adapter, token, 0.5)
    assert run.values("loss") == pytest.approx([loss], rel=1e-5)
    assert run.values("grad_norm") == pytest.approx([norm], rel=1e-4)
    parts = ("loss/token_weighted", "loss/smoothing", "loss/anchor")
    assert sum(run.values(part)[0] for part in parts) == pytest.approx(loss, rel=1e-5)
    assert run.values("loss/nll")[0] > run.values("loss/token_weighted")[0] > 0.0
    assert 0.0 < run.values("ual/token_weight")[0] < 1.0
    assert run.values("ual/reference_kl")[0] > 0.01


def test_weights_of_an_uncertainty_need_no_smoothing(model: Path, tmp_path: Path) -> None:
    """`smoothing.mean: 0` trains data that were never annotated; the column is the user's own."""
    data = [{k: v for k, v in row.items() if k[:4] != "ual_"} for row in rows([0.0, 0.5, 1.0, 0.2])]
    ual = {"smoothing": {"mean": 0}, "loss": {"weight": {"from": "w", "at_1": 0.5}}}
    recipe = {"model": model, "micro_batch_size": 4, "max_steps": 1, "ual": ual}
    run = train(tmp_path, data, {"type": "alpaca"}, recipe)
    # 1 - w / 2: 1, 0.75, 0.5, 0.9.
    assert "ual.loss.weight.from: w: 4 training rows weigh 0.5 to 1, 0.7875 on average" in run.text
    assert run.values("loss/smoothing") == [0.0]
    assert run.values("loss") == pytest.approx(run.values("loss/nll"), rel=1e-6)


def pairs(weights: list[float]) -> list[dict[str, Any]]:
    """Preference pairs of several lengths; all of one stage."""
    return [
        {
            "messages": [{"role": "user", "content": f"Question {n}?"}],
            "chosen": {"role": "assistant", "content": "good " * (1 + n % 3)},
            "rejected": {"role": "assistant", "content": "bad " * (1 + n % 2)},
            "ual_smoothing": (n % 4) / 10,
            "ual_stage": "moderate",
            "w": weight,
        }
        for n, weight in enumerate(weights)
    ]


@pytest.mark.parametrize("rl", ["dpo", "ipo"])
def test_a_weight_of_2_is_the_pair_twice(
    model: Path, adapter: Path, tmp_path: Path, rl: str
) -> None:
    """DPO cut over two processes and micro-batches; IPO in the order of a curriculum.

    There the last step has two micro-batches, of two pairs and of one.
    """
    weights = [2.0, 0.0, 1.0, 1.0, 2.0, 1.0, 2.0] if rl == "ipo" else [2.0, 0.0, 1.0, 1.0]
    data = pairs(weights)
    repeated = [pair for pair in data for _ in range(int(pair["w"]))]
    shared = {
        "model": model,
        "lora_model_dir": str(adapter),
        "rl": rl,
        "chat_template": "tokenizer_default",
        "max_steps": None,
        "num_epochs": 1,
        "learning_rate": 0.0,
        "logging_steps": 1,
    }
    entry = {**pairs_entry(tmp_path), "type": "chat_template.default"}
    entry.pop("path")
    loss = {"loss": {"weight": "w"}}
    staged = {"curriculum": {"mode": "phased", "order": ["moderate"]}}
    cut: dict[str, Any] = {"micro_batch_size": 2, "gradient_accumulation_steps": 1, "processes": 2}
    if rl == "ipo":
        cut = {"micro_batch_size": 2, "gradient_accumulation_steps": 4}
    twice = train(
        tmp_path / "twice", repeated, entry, {**shared, "micro_batch_size": len(repeated)}
    )
    once = train(
        tmp_path / "once",
        data,
        entry,
        {**shared, **cut, "ual": {**loss, **staged} if rl == "ipo" else loss},
    )
    for key in ("loss", "loss/preference", "loss/smoothing", "grad_norm"):
        assert len(twice.values(key)) == 1
        assert once.values(key) == pytest.approx(twice.values(key), rel=1e-6), key
    count = len(data)
    assert once.values("ual/weight") == pytest.approx([sum(weights) / count])
    assert f"{count} training rows weigh 0 to 2" in once.text


def test_unsmoothed_eaft_is_axolotls_own(model: Path, tmp_path: Path) -> None:
    """Its weight has the recipe's own power and number of tokens, and no division by ln K."""
    data = [{key: row[key] for key in ("instruction", "output")} for row in rows([1.0] * 8)]
    settings = {
        **{"model": model, "max_steps": 2, "micro_batch_size": 4, "use_eaft": True},
        **{"eaft_k": 5, "eaft_alpha": 2.0, "adapter": None},
    }
    alpaca = {"type": "alpaca"}
    theirs = train(tmp_path / "theirs", data, alpaca, {**settings, "plugins": []})
    for folder, given, same in (("ours", 0.0, True), ("smoothed", 0.2, False)):
        made = [{**row, "ual_smoothing": given} for row in data]
        ours = train(tmp_path / folder, made, alpaca, settings)
        for key in ("loss", "grad_norm"):
            wanted = pytest.approx(theirs.values(key), rel=1e-4)
            assert (ours.values(key) == wanted) is same, key
        assert len(ours.values("ual/token_weight")) == 2
