"""The preference trainer against the formula in float64, and against TRL's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from axolotl_ual.columns import MARGIN, SMOOTHING, STAGE
from axolotl_ual.errors import ConfigError, UnsupportedError
from axolotl_ual.schedule.staging import Staging
from reference.preference import (
    collision,
    ipo_pair,
    log_prob,
    robust_ipo_pair,
    robust_pair,
    sigmoid_pair,
)

EPS = [0.0, 0.1, 0.45, 0.2]
MARGINS = [0.3, -0.2, 0.0, 0.1]
STAGES = ["conservative", "moderate", "conservative", "exploratory"]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Not much smaller than the logits' own scale, so that margins are not all alike.
    return tiny.make_model(tmp_path_factory.mktemp("model"), initializer_range=0.3)


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """The `ual:` block that a trainer finds."""
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.dict import DictDefault

    cfg = DictDefault({"ual": {"preference": {"chunk_tokens": 5}}})
    monkeypatch.setattr(PluginManager.get_instance(), "_cfg", cfg)
    yield cfg.ual


def pairs() -> Any:
    """Four pairs of different lengths."""
    from datasets import Dataset

    rows: list[dict[str, Any]] = [
        {"prompt": "What is it?", "chosen": "red", "rejected": "green or blue, who knows"},
        {"prompt": "And", "chosen": "a long answer with many words in it", "rejected": "no"},
        {"prompt": "Why is that so, then?", "chosen": "because", "rejected": "because"},
        {"prompt": "Say more", "chosen": "one two three", "rejected": "four five"},
    ]
    for row, eps, margin, stage in zip(rows, EPS, MARGINS, STAGES, strict=True):
        row[SMOOTHING], row[MARGIN], row[STAGE] = eps, margin, stage
    return Dataset.from_list(rows)


def make_trainer(
    cls: Any, base: Path, folder: Path, *, adapter: bool, dtype: torch.dtype, **args: Any
) -> Any:
    from axolotl.core.trainers.dpo.args import AxolotlDPOConfig
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    reference = None if adapter else AutoModelForCausalLM.from_pretrained(base, dtype=dtype)
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "max_length": 64,
        "use_cpu": True,
        "bf16": False,
        "report_to": [],
        "beta": 0.5,
        "remove_unused_columns": False,
        **args,
    }
    trainer = cls(
        model,
        None if args.get("precompute_ref_log_probs") else reference,
        args=AxolotlDPOConfig(output_dir=str(folder), **settings),
        train_dataset=pairs(),
        processing_class=AutoTokenizer.from_pretrained(base),
        **(
            {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "lm_head", "down_proj"])}
            if adapter
            else {}
        ),
    )
    generator = torch.Generator().manual_seed(1)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            # A fresh adapter changes nothing, and a fresh model is its own reference.
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.data += 0.05 * noise.to(parameter.dtype)
    if dtype == torch.float64:
        trainer.model.double()
    return trainer


def batch_of(trainer: Any) -> dict[str, Any]:
    """All four pairs in one batch; the shorter completions are padded."""
    torch.manual_seed(0)
    batch = next(iter(trainer.get_train_dataloader()))
    assert (batch["attention_mask"] == 0).any()
    return dict(batch)


def gradients(trainer: Any, loss: Tensor) -> dict[str, Tensor]:
    named = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: g for name, g in zip(named, found, strict=True) if g is not None}


def slow_loss(
    trainer: Any,
    batch: dict[str, Any],
    beta: list[float],
    formula: Callable[[Tensor, float, float], Tensor],
) -> Tensor:
    """The mean over pairs, each completion run by itself without padding."""
    reference = trainer.ref_model

    def weight(index: int) -> Tensor:
        kept = batch["attention_mask"][index].bool()
        ids, completion = batch["input_ids"][index][kept], batch["completion_mask"][index][kept]
        with torch.no_grad():
            logits = trainer.model(input_ids=ids[None]).logits[0]
        positions = [t for t in range(1, len(ids)) if completion[t]]
        terms = [log_prob(logits[t - 1], int(ids[t])) - collision(logits[t - 1]) for t in positions]
        return torch.stack(terms).mean().exp()

    def score(index: int, with_reference: bool) -> Tensor:
        kept = batch["attention_mask"][index].bool()
        ids, completion = batch["input_ids"][index][kept], batch["completion_mask"][index][kept]
        if not with_reference:
            logits = trainer.model(input_ids=ids[None]).logits[0]
        elif reference is not None:
            logits = reference.double()(input_ids=ids[None]).logits[0]
        else:
            with trainer.model.disable_adapter():
                logits = trainer.model(input_ids=ids[None]).logits[0]
        positions = [t for t in range(1, len(ids)) if completion[t]]
        total = torch.stack([log_prob(logits[t - 1], int(ids[t])) for t in positions])
        return total.mean() if trainer.loss_types == ["ipo"] else total.sum()

    count = len(beta)
    losses = []
    for pair in range(count):
        with torch.no_grad():
            there = score(pair, True) - score(pair + count, True)
        margin = score(pair, False) - score(pair + count, False) - there
        if MARGIN in batch:
            margin = margin - float(batch[MARGIN][pair].view(torch.float32)) / beta[pair]
        eps = float(batch[SMOOTHING][pair].view(torch.float32))
        loss = formula(margin, eps, beta[pair])
        if trainer.ual.preference.weighting:
            loss = loss * weight(pair) * weight(pair + count)
        losses.append(loss)
    return torch.stack(losses).mean()


def trainer_class() -> Any:
    from axolotl_ual.training.dpo import UALDPOTrainer

    return UALDPOTrainer


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
@pytest.mark.parametrize("adapter", [True, False])
def test_loss_and_gradients_equal_the_formula(
    kind: str, adapter: bool, base: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    trainer = make_trainer(
        trainer_class(), base, tmp_path, adapter=adapter, dtype=torch.float64, loss_type=[kind]
    )
    if trainer.ref_model is not None:
        trainer.ref_model.double()
    batch = batch_of(trainer)
    # The smoothing is float32 in the batch: so it is in the reference.
    assert sorted(batch[SMOOTHING].view(torch.float32).tolist()) == pytest.approx(sorted(EPS))
    formula = sigmoid_pair if kind == "sigmoid" else ipo_pair
    trainer.model.train()
    ours = trainer.compute_loss(trainer.model, dict(batch))
    trainer.model.eval()
    slow = slow_loss(trainer, batch, [0.5] * 4, formula)
    torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-12)
    expected = gradients(trainer, slow)
    found = gradients(trainer, ours)
    assert found.keys() == expected.keys()
    assert any("lm_head" in name for name in found)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-12)


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
@pytest.mark.parametrize("weighting", [None, "wpo"])
def test_robust_pairs_with_margins_and_weights_equal_the_formula(
    kind: str, weighting: str | None, base: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe["preference"].update(
        {"flips": "robust", "margin": {"mean": 0.5, "tau": 0.1}, "weighting": weighting}
    )
    trainer = make_trainer(
        trainer_class(), base, tmp_path, adapter=True, dtype=torch.float64, loss_type=[kind]
    )
    batch = batch_of(trainer)
    assert sorted(batch[MARGIN].view(torch.float32).tolist()) == pytest.approx(sorted(MARGINS))
    formula = robust_pair if kind == "sigmoid" else robust_ipo_pair
    ours = trainer.compute_loss(trainer.model, dict(batch))
    slow = slow_loss(trainer, batch, [0.5] * 4, formula)
    torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-12)
    expected, found = gradients(trainer, slow), gradients(trainer, ours)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-12)
    logged = trainer._means["train"].report(lambda sums: sums)
    assert ("ual/policy_weight" in logged) == (weighting is not None)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"flips": "robust"}, {"loss_type": ["robust"], "label_smoothing": 0.25}),
        ({"smoothing": False, "weighting": "wpo"}, {"use_weighting": True}),
        (
            {"smoothing": False, "weighting": "wpo"},
            {"use_weighting": True, "loss_type": ["ipo"]},
        ),
    ],
)
def test_robust_and_weighted_losses_are_those_of_trl(
    ours: dict[str, Any],
    theirs: dict[str, Any],
    base: Path,
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With one flip probability for all pairs, and by the policy's own log-probabilities."""
    from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer

    monkeypatch.setattr(f"{__name__}.EPS", [0.25] * 4)
    recipe["preference"].update(ours)
    results = []
    kind = {"loss_type": ["ipo"]} if theirs.get("loss_type") == ["ipo"] else {}
    for cls, args in ((trainer_class(), kind), (AxolotlDPOTrainer, theirs)):
        trainer = make_trainer(cls, base, tmp_path, adapter=True, dtype=torch.float64, **args)
        loss = trainer.compute_loss(trainer.model, batch_of(trainer))
        results.append((loss, gradients(trainer, loss)))
    (loss, found), (wanted, expected) = results
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-7)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("weighting", [None, "wpo"])
def test_the_reference_may_be_the_policy_as_it_was(
    weighting: str | None, base: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    recipe["preference"]["weighting"] = weighting
    trainer = make_trainer(trainer_class(), base, tmp_path, adapter=True, dtype=torch.float64)
    batch = batch_of(trainer)
    trainer._reference_step = lambda step: 1
    trainer.refresh_reference = trainer.frozen.take
    trainer.refresh_reference()
    trainer.model.train()
    trainer.compute_loss(trainer.model, dict(batch))
    logged = trainer._means["train"].report(lambda sums: sums)
    # Against itself, to the bit: no margin, and no smoothing of one.
    assert logged["rewards/margins"] == logged["loss/smoothing"] == 0.0
    same = make_trainer(trainer_class(), base, tmp_path, adapter=True, dtype=torch.float64)
    trainer.ref_model = same.model
    noise = torch.Generator().manual_seed(3)
    for parameter in trainer.model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.05 * torch.randn(
                parameter.shape, generator=noise, dtype=parameter.dtype
            )
    slow = slow_loss(trainer, batch, [0.5] * 4, sigmoid_pair)
    trainer.ref_model = None
    ours = trainer.compute_loss(trainer.model, dict(batch))
    torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-12)
    expected, found = gradients(trainer, slow), gradients(trainer, ours)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-7, atol=1e-12)
    # Validation keeps the first reference: the model without its adapter.
    trainer.model.eval()
    chosen, _ = trainer.compute_ref_log_probs(trainer.model, dict(batch))
    with trainer.model.disable_adapter():
        sums, _ = trainer._sums(trainer.model, dict(batch))
    assert chosen.equal(sums[:4])


def test_a_frozen_policy_comes_back_from_a_checkpoint(tmp_path: Path) -> None:
    from axolotl_ual.training.frozen import FrozenPolicy

    model = torch.nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    frozen, was = FrozenPolicy(model), model.weight.detach().clone()
    frozen.save(tmp_path)
    assert not list(tmp_path.iterdir()), "the first stage has none"
    frozen.take()
    frozen.save(tmp_path)
    model.weight.data += 1.0
    now = model.weight.detach().clone()
    again = FrozenPolicy(model)
    again.load(tmp_path)
    with again.in_place():
        assert model.weight.equal(was)
    assert model.weight.equal(now)
    with pytest.raises(ConfigError) as caught:
        FrozenPolicy(torch.nn.Linear(3, 2)).load(tmp_path)
    assert "ual_reference.safetensors does not hold what this model trains" in str(caught.value)


def test_each_stage_has_its_beta(base: Path, recipe: dict[str, Any], tmp_path: Path) -> None:
    recipe["curriculum"] = {"mode": "phased"}
    recipe["preference"]["beta"] = [0.9, 0.4, 0.1]
    trainer = make_trainer(trainer_class(), base, tmp_path, adapter=True, dtype=torch.float64)
    batch = batch_of(trainer)
    stages = [1, 0, 2, 0]
    batch[STAGE] = torch.tensor(stages)
    ours = trainer.compute_loss(trainer.model, dict(batch))
    betas = [[0.9, 0.4, 0.1][stage] for stage in stages]
    slow = slow_loss(trainer, batch, betas, sigmoid_pair)
    torch.testing.assert_close(ours, slow, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precompute", [False, True])
@pytest.mark.parametrize("adapter", [True, False])
@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_without_smoothing_it_is_the_loss_of_trl(
    kind: str,
    adapter: bool,
    precompute: bool,
    base: Path,
    recipe: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    recipe["preference"]["smoothing"] = False
    results = []
    for cls in (trainer_class(), AxolotlDPOTrainer):
        trainer = make_trainer(
            cls,
            base,
            tmp_path,
            adapter=adapter,
            dtype=torch.float32,
            loss_type=[kind],
            precompute_ref_log_probs=precompute,
        )
        batch = batch_of(trainer)
        assert ("ref_chosen_logps" in batch) == precompute
        loss = trainer.compute_loss(trainer.model, batch)
        results.append((loss, gradients(trainer, loss)))
    (ours, found), (theirs, expected) = results
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-5)


def test_padding_has_no_weight_and_shares_add_up(
    base: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    from axolotl_ual.training.pairs import SHARE

    trainer = make_trainer(trainer_class(), base, tmp_path, adapter=True, dtype=torch.float64)
    batch = batch_of(trainer)
    plain = trainer.compute_loss(trainer.model, dict(batch))
    half = trainer.compute_loss(trainer.model, {**batch, SHARE: 0.5})
    torch.testing.assert_close(half, plain * 0.5)
    none = trainer.compute_loss(trainer.model, {**batch, SHARE: 0.0})
    assert none.item() == 0.0
    assert all(not g.any() for g in gradients(trainer, none).values())


def test_each_pair_has_its_own_smoothing(
    base: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    """Whatever the order of a batch: pairs are known by the text of their chosen completion."""
    trainer = make_trainer(trainer_class(), base, tmp_path, adapter=False, dtype=torch.float32)
    data = {row["chosen"]: row for row in pairs()}
    orders = set()
    for seed in range(4):
        torch.manual_seed(seed)
        batch = next(iter(trainer.get_train_dataloader()))
        chosen = [
            trainer.processing_class.decode(ids[mask == 1]).removesuffix("</s>")
            for ids, mask in zip(batch["input_ids"][:4], batch["completion_mask"][:4], strict=True)
        ]
        orders.add(tuple(chosen))
        found = batch[SMOOTHING].view(torch.float32).tolist()
        assert found == pytest.approx([data[text][SMOOTHING] for text in chosen])
    assert len(orders) > 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"loss_type": ["hinge"]}, "loss_type: ['hinge']: pairs are smoothed in the sigmoid"),
        ({"loss_type": ["robust"], "label_smoothing": 0.1}, "loss_type: ['robust']"),
        ({"loss_type": ["sigmoid", "ipo"]}, "loss_type: ['sigmoid', 'ipo']"),
        ({"ld_alpha": 0.5}, "ld_alpha: 0.5: has no effect"),
        ({"f_divergence_type": "js_divergence"}, "f_divergence_type: js_divergence: has no eff"),
        ({"label_smoothing": 0.1}, "label_smoothing: 0.1: has no effect"),
        ({"use_weighting": True}, "use_weighting: True: has no effect"),
        ({"loss_weights": [2.0]}, "loss_weights: [2.0]: has no effect"),
    ],
)
def test_arguments_without_effect_are_refused(
    base: Path, recipe: dict[str, Any], tmp_path: Path, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(UnsupportedError) as caught:
        make_trainer(
            trainer_class(), base, tmp_path, adapter=False, dtype=torch.float32, **arguments
        )
    assert caught.value.problem.startswith(said)
    assert "train with TRL's own trainer" in caught.value.fix


def test_dropout_of_an_adapter_on_the_head_is_the_same_in_both_passes(
    base: Path, recipe: dict[str, Any], tmp_path: Path
) -> None:
    """The directional derivative by differences, from one seed, is that of the backward pass."""
    trainer = make_trainer(
        trainer_class(), base, tmp_path, adapter=True, dtype=torch.float64, disable_dropout=False
    )
    trainer.model.get_base_model().lm_head.lora_dropout["default"] = torch.nn.Dropout(0.5)
    batch = batch_of(trainer)
    trainer.model.train()
    # Of the head alone: the model's norms are in float32, too coarse for differences.
    named = {n: p for n, p in trainer.model.named_parameters() if "lm_head.lora_" in n}
    assert len(named) == 2
    generator = torch.Generator().manual_seed(2)
    step = {n: torch.randn(p.shape, generator=generator, dtype=p.dtype) for n, p in named.items()}

    def loss(size: float, seed: int = 5) -> Tensor:
        with torch.no_grad():
            for name, parameter in named.items():
                parameter += size * step[name]
        torch.manual_seed(seed)
        value: Tensor = trainer.compute_loss(trainer.model, dict(batch))
        return value

    assert loss(0.0).item() != loss(0.0, seed=6).item(), "nothing is dropped"
    below, above = loss(-1e-6).item(), loss(2e-6).item()
    found = gradients(trainer, loss(-1e-6))
    slope = sum((found[name] * step[name]).sum().item() for name in named)
    assert slope == pytest.approx((above - below) / 2e-6, rel=1e-5)


def test_a_transform_that_is_not_known_stops_training(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    from axolotl_ual.losses.scoring import TokenScorer

    model = AutoModelForCausalLM.from_pretrained(base)
    plain = model.forward

    def doubled(**inputs: Any) -> Any:
        outputs = plain(**inputs)
        outputs["logits"] = outputs["logits"] * 2.0
        return outputs

    model.forward = doubled
    ids = torch.tensor([[1, 2, 3]])
    with TokenScorer(model).installed(), pytest.raises(UnsupportedError) as caught:
        model(input_ids=ids, ual_labels=ids)
    assert "LlamaForCausalLM: does something to the output of its head" in caught.value.problem
    assert caught.value.fix == "take the plugin out for this model"


def test_a_sharded_head_with_an_adapter_is_refused(
    base: Path, recipe: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cls = trainer_class()
    monkeypatch.setattr("axolotl_ual.training.dpo.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(UnsupportedError) as caught:
        make_trainer(cls, base, tmp_path, adapter=True, dtype=torch.float32)
    assert caught.value.problem.startswith("deepspeed: ZeRO-3 with an adapter on the head")
    assert caught.value.fix == "leave `lm_head` out of the adapter, or use ZeRO-2"


def test_a_head_that_sees_no_hidden_states_is_refused(base: Path) -> None:
    from transformers import AutoModelForCausalLM

    from axolotl_ual.losses.scoring import TokenScorer

    model = AutoModelForCausalLM.from_pretrained(base)
    plain = model.forward

    def last_only(**inputs: Any) -> Any:
        return plain(**inputs, logits_to_keep=1)

    model.forward = last_only
    ids = torch.tensor([[1, 2, 3]])
    with TokenScorer(model).installed(), pytest.raises(UnsupportedError) as caught:
        model(input_ids=ids, ual_labels=ids)
    assert "LlamaForCausalLM: its head does not see the last hidden" in caught.value.problem
    assert caught.value.fix == "take the plugin out for this model"


def test_models_that_scale_or_cap_their_logits_score_as_they_predict() -> None:
    """The transform is checked against the model's own last logits, and its scores are theirs."""
    from transformers import (
        CohereConfig,
        CohereForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        GraniteConfig,
        GraniteForCausalLM,
    )

    from axolotl_ual.losses.scoring import TokenScorer

    common = {
        "vocab_size": 67,
        "hidden_size": 16,
        "intermediate_size": 32,
        "pad_token_id": 0,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    }
    models = [
        GraniteForCausalLM(GraniteConfig(**common, logits_scaling=8.0)),
        CohereForCausalLM(CohereConfig(**common, logit_scale=0.0625)),
        Gemma2ForCausalLM(Gemma2Config(**common, head_dim=8, final_logit_softcapping=2.0)),
    ]
    for model in models:
        model.eval()
        ids = torch.randint(1, 67, (2, 9))
        labels = ids.masked_fill(torch.arange(9) < 4, -100)
        logits = model(input_ids=ids).logits
        with TokenScorer(model, chunk=3).installed():
            scores = model(input_ids=ids, ual_labels=labels).logits
        logp = torch.log_softmax(logits.float(), -1)[:, :-1].gather(2, ids[:, 1:, None])[..., 0]
        torch.testing.assert_close(scores[:, 4:], logp[:, 3:], rtol=1e-4, atol=1e-5)
        assert not scores[:, :4].any()
        torch.testing.assert_close(model(input_ids=ids).logits, logits)


def test_kto_compares_with_completions_of_its_own_batch() -> None:
    from axolotl_ual.training.batches import StageCollator
    from axolotl_ual.training.pairs import PairCollator

    seen: list[Any] = []
    pairs = PairCollator(lambda rows: seen.extend(rows) or {})
    batch = StageCollator(pairs, Staging(("easy", "hard")), STAGE)(
        [
            {"completion_ids": [1], "KL_completion_ids": [9], STAGE: "hard"},
            {"completion_ids": [2, 2], "KL_completion_ids": [9], STAGE: "easy"},
        ]
    )
    assert [row["KL_completion_ids"] for row in seen] == [[2, 2], [1]]
    assert batch[STAGE].tolist() == [1, 0]
    assert all(STAGE not in row for row in seen)
