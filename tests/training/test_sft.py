"""`axolotl train` with the plugin: the loss it trains on, step by step, against plain trainers."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version
from safetensors.torch import load_file

import tiny
from axolotl_ual.errors import AnnotationError, DataError, UALError, UnsupportedError
from axolotl_ual.host import host
from reference.smoothed_ce import shifted

PLUGIN = "axolotl_ual.UALPlugin"
# Outputs of many lengths, so that a mean over micro-batches is not one over tokens.
WORDS = ["yes", "no", "perhaps it is so", "nobody knows", "ask again later when it is over"]


def rows(smoothing: float | None = None) -> list[dict[str, Any]]:
    """40 samples; smoothing 0 to 0.4 from row to row, or the same for all."""
    return [
        {
            "instruction": f"Question {n}?",
            "output": WORDS[n % len(WORDS)] * (1 + n % 3),
            "ual_smoothing": (n % 5) / 10 if smoothing is None else smoothing,
            "ual_uncertainty": (n % 5) / 4,
            "ual_stage": "moderate",
        }
        for n in range(40)
    ]


class Bench:
    """One tiny model and one saved adapter: runs that differ in what a test is about."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        texts = [row["output"] for row in rows()]
        self.model = tiny.make_model(folder / "model", texts=texts)
        self.adapter = self._make_adapter()
        self.count = 0

    def _make_adapter(self) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM

        torch.manual_seed(3)
        base = AutoModelForCausalLM.from_pretrained(self.model)
        config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
        get_peft_model(base, config).save_pretrained(self.folder / "adapter")
        return self.folder / "adapter"

    def train(self, data: list[dict[str, Any]], *, check: bool = True, **settings: Any) -> tiny.Run:
        self.count += 1
        run = self.folder / f"run{self.count}"
        launch = {
            key: settings.pop(key)
            for key in ("processes", "launcher", "environment")
            if key in settings
        }
        path = tiny.write_rows(run / "data.jsonl", data)
        recipe = tiny.recipe(
            self.model,
            run,
            [{"path": str(path), "type": "alpaca"}],
            **{
                "lora_model_dir": str(self.adapter),
                # The order of the file: runs that are cut differently see the same batches.
                "shuffle_merged_datasets": False,
                "curriculum_sampling": True,
                **settings,
            },
        )
        return tiny.axolotl(recipe, run, check=check, **launch)

    def first_step(self, run: tiny.Run, quantization: dict[str, Any] | None) -> tuple[float, float]:
        """Loss and gradient norm of a run's first batch, token by token from full logits."""
        import torch
        from datasets import load_from_disk
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, BitsAndBytesConfig

        if quantization is not None:
            four = {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True}
            config = BitsAndBytesConfig(load_in_4bit=True, **four, **quantization)
            base = AutoModelForCausalLM.from_pretrained(self.model, quantization_config=config)
        else:
            base = AutoModelForCausalLM.from_pretrained(self.model)
        # In evaluation, bitsandbytes repacks weights for the CPU, in place.
        model = PeftModel.from_pretrained(base, self.adapter, is_trainable=True).train()
        (prepared,) = (run.output.parent / "prepared").glob("*/*/dataset_info.json")
        total, count = torch.zeros(()), 0
        for row in load_from_disk(prepared.parent).select(range(2)):
            labels = torch.tensor([row["labels"]])
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits
            smoothing = torch.full(labels.shape, row["ual_smoothing"])
            total = total + shifted(logits, labels, smoothing)
            count += int((labels[:, 1:] != -100).sum())
        (total / count).backward()
        gradients = [part.grad for part in model.parameters() if part.grad is not None]
        norm = torch.stack([gradient.norm() for gradient in gradients]).norm()
        return (total / count).item(), norm.item()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("trainer"))


def adapter(run: tiny.Run) -> dict[str, Any]:
    return load_file(run.output / "adapter_model.safetensors")


def assert_same_weights(found: tiny.Run, wanted: tiny.Run) -> None:
    left, right = adapter(found), adapter(wanted)
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_no_smoothing_is_axolotl_bit_for_bit(bench: Bench, packed: bool) -> None:
    shared: dict[str, Any] = {"sample_packing": packed, "lora_dropout": 0.1}
    stock = bench.train(rows(0.0), **shared)
    ours = bench.train(rows(0.0), plugins=[PLUGIN], **shared)
    assert ours.values("loss") == stock.values("loss")
    assert ours.values("grad_norm") == stock.values("grad_norm")
    assert len(ours.values("loss")) == 4
    assert_same_weights(ours, stock)
    assert ours.values("loss/smoothing") == [0.0] * 4
    assert "this run is plain supervised fine-tuning" in ours.text


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_constant_smoothing_is_pytorchs(bench: Bench, packed: bool) -> None:
    theirs = bench.train(rows(), sample_packing=packed, plugins=["tiny_plugins.TorchSmoothing"])
    ours = bench.train(rows(0.1), sample_packing=packed, plugins=[PLUGIN])
    assert ours.values("loss") == pytest.approx(theirs.values("loss"), rel=1e-6)
    assert ours.values("grad_norm") == pytest.approx(theirs.values("grad_norm"), rel=1e-5)
    parts = zip(ours.values("loss/nll"), ours.values("loss/smoothing"), strict=True)
    assert [nll + smoothing for nll, smoothing in parts] == pytest.approx(
        ours.values("loss"), rel=1e-6
    )
    assert "UAL: 40 of 40 training rows carry smoothing, mean 0.1000" in ours.text


@pytest.mark.slow
def test_the_model_before_tuning_as_the_prior(bench: Bench) -> None:
    """The adapter switched off is the base model, and at the first step the model itself."""
    shared: dict[str, Any] = {"plugins": [PLUGIN], "sample_packing": True, "lora_dropout": 0.1}
    smoothing = {"prior": "reference"}
    off = bench.train(rows(), ual={"smoothing": smoothing}, **shared)
    named = {"smoothing": {**smoothing, "reference": str(bench.model)}}
    base = bench.train(rows(), ual=named, **shared)
    uniform = bench.train(rows(), **shared)
    keys = ("loss", "loss/nll", "loss/smoothing", "ual/reference_kl", "ual/reference_entropy")
    for key in keys:
        assert len(off.values(key)) == 4
        assert base.values(key) == pytest.approx(off.values(key), rel=1e-6, abs=1e-6), key
    assert off.values("loss/nll")[0] == uniform.values("loss/nll")[0]
    assert off.values("loss/smoothing") != uniform.values("loss/smoothing")
    # What dropout does to nothing is nothing: the adapter starts as 0, and then departs.
    kl = off.values("ual/reference_kl")
    assert abs(kl[0]) < 1e-5 < kl[1] < kl[3]
    assert all(entropy > 0.1 for entropy in off.values("ual/reference_entropy"))
    assert "ual/reference_kl" not in uniform.log[0]


@pytest.mark.slow
def test_the_prediction_of_the_model_before_tuning_kept_with_the_data(bench: Bench) -> None:
    """With every token kept it is the reference itself; with few, what it says of its error."""
    shared: dict[str, Any] = {"plugins": [PLUGIN], "sample_packing": True}
    asked = {"prior": "reference", "reference_temperature": 1.5}
    beside = bench.train(rows(), ual={"smoothing": asked}, **shared)
    tokens = json.loads((bench.model / "config.json").read_text())["vocab_size"]
    whole = bench.train(rows(), ual={"smoothing": {**asked, "reference_top_k": 1024}}, **shared)
    for key in ("loss", "loss/nll", "loss/smoothing"):
        assert whole.values(key) == pytest.approx(beside.values(key), rel=1e-5, abs=1e-6), key
    assert f"of {tokens:,} tokens keep 100.00% of the reference's mass" in whole.text
    asked["reference_top_k"] = 4
    few = bench.train(rows(), ual={"smoothing": asked}, processes=2, **shared)
    assert few.text.count("reference_top_k: 4 of") == 1
    assert len(few.values("loss/smoothing")) == 4
    (kept,) = (few.output.parent / "prepared").rglob("ual-reference-*.arrow")
    assert kept.stat().st_size > 0


@pytest.mark.slow
def test_a_prior_without_smoothing_changes_no_bit(bench: Bench) -> None:
    shared: dict[str, Any] = {"lora_dropout": 0.1}
    stock = bench.train(rows(0.0), **shared)
    ual = {"smoothing": {"prior": "reference"}}
    ours = bench.train(rows(0.0), plugins=[PLUGIN], ual=ual, **shared)
    assert ours.values("loss") == stock.values("loss")
    assert_same_weights(ours, stock)


@pytest.mark.slow
def test_rows_that_are_not_kept_might_as_well_not_be_there(bench: Bench) -> None:
    """`level` is 0 to 4 from row to row: 24 of 40 rows are at most 2, and fill 12 steps."""
    data = [{**row, "level": n % 5} for n, row in enumerate(rows())]
    shared: dict[str, Any] = {"plugins": [PLUGIN], "max_steps": None, "num_epochs": 1}
    keep = {"by": "level", "at_most": 0.5, "quantile": True}
    kept = bench.train(data, ual={"curriculum": {"keep": keep}}, **shared)
    without = bench.train([row for row in data if row["level"] <= 2], **shared)
    assert "24 of 40 training rows stay, with `level` from -inf to 2" in kept.text
    assert kept.values("loss") == without.values("loss")
    assert len(kept.values("loss")) == 12
    assert_same_weights(kept, without)


@pytest.mark.slow
def test_evaluation_is_plain(bench: Bench) -> None:
    shared: dict[str, Any] = {"val_set_size": 8, "eval_steps": 4, "learning_rate": 0.0}
    stock = bench.train(rows(), **shared)
    ours = bench.train(rows(), plugins=[PLUGIN], **shared)
    assert ours.values("eval_loss") == stock.values("eval_loss")
    assert ours.values("loss") != stock.values("loss")


@pytest.mark.slow
def test_a_step_is_the_same_however_it_is_cut(bench: Bench) -> None:
    """8 samples a step as 8, 2 x 4, 8 x 1 micro-batches, and over two processes."""
    shared: dict[str, Any] = {"plugins": [PLUGIN], "max_steps": 3, "logging_steps": 3}
    cuts = [
        {"micro_batch_size": 8},
        {"micro_batch_size": 2, "gradient_accumulation_steps": 4},
        {"micro_batch_size": 1, "gradient_accumulation_steps": 8},
        {"micro_batch_size": 2, "gradient_accumulation_steps": 2, "processes": 2},
        {"micro_batch_size": 4, "processes": 2, "launcher": "torchrun"},
    ]
    runs = [bench.train(rows(), **shared, **cut) for cut in cuts]
    for run in runs[1:]:
        for key in ("loss", "loss/nll", "loss/smoothing"):
            assert run.values(key) == pytest.approx(runs[0].values(key), rel=1e-5, abs=1e-6)
        for name, wanted in adapter(runs[0]).items():
            found = adapter(run)[name]
            assert (found - wanted).norm() <= 1e-4 * wanted.norm().clamp(min=1e-3)


@pytest.mark.slow
def test_full_fine_tuning_with_deepspeed_zero_3(bench: Bench, tmp_path: Path) -> None:
    """Two processes that share one model's shards train as one process does."""
    zero = {
        "zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0},
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        "gradient_accumulation_steps": "auto",
        "zero_force_ds_cpu_optimizer": False,
    }
    (tmp_path / "zero3.json").write_text(json.dumps(zero))
    shared: dict[str, Any] = {
        "adapter": None,
        "lora_model_dir": None,
        "learning_rate": 1e-3,
        "max_grad_norm": 0.0,
        "max_steps": 2,
        "save_strategy": "no",
    }
    one = bench.train(rows(), plugins=[PLUGIN], micro_batch_size=4, **shared)
    two = bench.train(
        rows(),
        plugins=["tiny_plugins.DeepSpeedOnCPU", PLUGIN],
        micro_batch_size=2,
        deepspeed=str(tmp_path / "zero3.json"),
        processes=2,
        environment={"ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"},
        **shared,
    )
    for key in ("loss", "loss/nll", "loss/smoothing"):
        # The smoothing part is a difference of logits of order 1: it rounds as they do.
        assert two.values(key) == pytest.approx(one.values(key), rel=1e-6, abs=1e-6)


SHARDED: dict[str, tuple[int, str | None, dict[str, Any]]] = {
    "every parameter": (2, None, {}),
    "adapter": (2, "lora", {}),
}
if host().fsdp_generation == 1:
    # Axolotl 0.20 and 0.21 have the second generation alone.
    reference = {"smoothing": {"prior": "reference"}}
    SHARDED["first generation"] = (1, None, {})
    SHARDED["first generation, adapter"] = (1, "lora", {"ual": reference})
    # A head that trains beside an adapter is a unit of its own, and so is one above a size.
    copy = {"lora_model_dir": None, "lora_modules_to_save": ["lm_head"]}
    SHARDED["first generation, copy of the head"] = (1, "lora", {"ual": reference, **copy})
    on_head = {"lora_target_linear": False, "lora_target_modules": ["q_proj", "lm_head"]}
    SHARDED["first generation, adapter on the head"] = (
        1,
        "lora",
        {"lora_model_dir": None, "ual": {"loss": {"kernel": "model"}}, **on_head},
    )
    by_size = {"auto_wrap_policy": "SIZE_BASED_WRAP", "min_num_params": 3000}
    SHARDED["first generation, by size"] = (1, None, {"fsdp_config": by_size})


OF_GENERATION: dict[int, dict[str, Any]] = {
    1: {"use_orig_params": True, "sync_module_states": False, "cpu_ram_efficient_loading": False},
    2: {"reshard_after_forward": True},
}


@pytest.mark.slow
@pytest.mark.parametrize(("generation", "adapter", "more"), SHARDED.values(), ids=SHARDED)
def test_fsdp(bench: Bench, generation: int, adapter: str | None, more: dict[str, Any]) -> None:
    """Two processes that share one model's shards train as one with twice the accumulation."""
    layers = {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
    }
    more = dict(more)
    wrapped = more.pop("fsdp_config", layers)
    shared: dict[str, Any] = {
        "adapter": adapter,
        "lora_model_dir": adapter and str(bench.adapter),
        "learning_rate": 1e-3,
        "max_steps": 2,
        "save_strategy": "no",
        **more,
    }
    one = bench.train(rows(), plugins=[PLUGIN], gradient_accumulation_steps=4, **shared)
    two = bench.train(
        rows(),
        plugins=[f"tiny_plugins.{'FirstFSDP' if generation == 1 else 'FSDP'}OnCPU", PLUGIN],
        gradient_accumulation_steps=2,
        fsdp_version=generation,
        fsdp_config={
            **wrapped,
            "state_dict_type": "FULL_STATE_DICT",
            **OF_GENERATION[generation],
        },
        processes=2,
        **shared,
    )
    assert len(two.values("loss")) == 2
    for key in ("loss", "loss/nll", "loss/smoothing", "grad_norm"):
        assert two.values(key) == pytest.approx(one.values(key), rel=1e-6, abs=1e-6), key


HEADS = {"head of 32 bits": ["lm_head"]}
if Version(version("axolotl")) < Version("0.20"):
    # With Axolotl 0.20 and 0.21 the same recipe stops on a CPU without the plugin, too:
    # "shape '[384, 16]' is invalid for input of size 12288", in bitsandbytes 0.50.2.
    HEADS["head of 4 bits"] = ["model.layers.0"]


@pytest.mark.slow
@pytest.mark.parametrize("skipped", HEADS.values(), ids=HEADS)
def test_qlora(bench: Bench, skipped: list[str]) -> None:
    """The first step, against the full logits of a model quantised and adapted as the run's."""
    kwargs = {"llm_int8_skip_modules": skipped}
    run = bench.train(
        rows(),
        plugins=[PLUGIN],
        adapter="qlora",
        load_in_4bit=True,
        bnb_config_kwargs=kwargs,
        # Axolotl casts a head's weight to float32 otherwise, packed or not.
        embeddings_skip_upcast=True,
        max_steps=1,
        max_grad_norm=0.0,
        save_strategy="no",
    )
    wanted = bench.first_step(run, kwargs)
    assert run.values("loss") == pytest.approx([wanted[0]], rel=1e-6)
    assert run.values("grad_norm") == pytest.approx([wanted[1]], rel=1e-5)
    # It is the loss of no other model than the quantised one.
    assert run.values("loss") != pytest.approx([bench.first_step(run, None)[0]], rel=1e-4)


@pytest.mark.slow
def test_without_smoothing_accumulation_is_axolotls(bench: Bench) -> None:
    """By itself an Axolotl does one of the two normalizations, and newer ones another than 0.19."""
    shared: dict[str, Any] = {"micro_batch_size": 1, "gradient_accumulation_steps": 3}
    stock = bench.train(rows(0.0), **shared)
    ours = {
        normalization: bench.train(
            rows(0.0), plugins=[PLUGIN], ual={"loss": {"normalization": normalization}}, **shared
        )
        for normalization in ("tokens", "micro_batch")
    }
    same, other = ("tokens", "micro_batch") if host().averages_tokens else ("micro_batch", "tokens")
    assert ours[same].values("loss") == pytest.approx(stock.values("loss"), rel=1e-6)
    assert ours[other].values("loss") != pytest.approx(stock.values("loss"), rel=1e-5)
    if same == "micro_batch":
        assert ours[same].values("loss") == stock.values("loss")
        assert_same_weights(ours[same], stock)


@pytest.mark.slow
def test_a_micro_batch_without_trained_tokens_counts_for_nothing(bench: Bench) -> None:
    short = [
        {"input_ids": [8, 9, 10], "attention_mask": [1, 1, 1], "labels": [-100, 9, 10]},
        {"input_ids": [8, 9, 10], "attention_mask": [1, 1, 1], "labels": [-100] * 3},
    ]
    data = [{**row, "ual_smoothing": 0.2} for row in short * 4]
    masked = bench.train(
        data, plugins=[PLUGIN], micro_batch_size=1, gradient_accumulation_steps=2, max_steps=2
    )
    trained = bench.train(data[::2], plugins=[PLUGIN], micro_batch_size=1, max_steps=2)
    assert masked.values("loss") == pytest.approx(trained.values("loss"), rel=1e-6)


@pytest.mark.slow
def test_the_seed_decides_the_adapter(bench: Bench) -> None:
    shared: dict[str, Any] = {"plugins": [PLUGIN], "lora_model_dir": None, "max_steps": 2}
    first = bench.train(rows(), **shared)
    second = bench.train(rows(), **shared)
    other = bench.train(rows(), seed=8, **shared)
    assert_same_weights(first, second)
    assert first.values("loss") == second.values("loss")
    assert not all(adapter(other)[name].equal(value) for name, value in adapter(first).items())


def make_trainer(bench: Bench, row: dict[str, Any], **arguments: Any) -> Any:
    from axolotl.core.training_args import AxolotlTrainingArguments
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from axolotl_ual.training.sft import UALTrainer

    settings = {"use_cpu": True, "report_to": [], "bf16": False, **arguments}
    return UALTrainer(
        AutoModelForCausalLM.from_pretrained(bench.model),
        args=AxolotlTrainingArguments(output_dir=str(bench.folder / "none"), **settings),
        train_dataset=Dataset.from_list([{"input_ids": [1, 2], "labels": [1, 2], **row}]),
        processing_class=AutoTokenizer.from_pretrained(bench.model),
    )


@pytest.mark.parametrize(
    ("num_gpus", "row", "arguments", "expected"),
    [
        (
            1,
            {"ual_smoothing": 0.1},
            {"label_smoothing_factor": 0.1},
            UnsupportedError(
                "label_smoothing_factor: 0.1: one smoothing for all samples, on top of each "
                "sample's own",
                "set it to 0, and `ual.smoothing.mean` to what you want on average",
            ),
        ),
        (
            2,
            {"ual_smoothing": 0.1},
            {},
            UnsupportedError(
                "2 GPUs in one process: the loss of replicas cannot be smoothed",
                "launch one process a GPU: `axolotl train` does so by default, or with "
                "`--launcher torchrun`",
            ),
        ),
        (
            1,
            {},
            {},
            AnnotationError(
                "the training data have no column `ual_smoothing`: another plugin loaded them",
                "take that plugin out of `plugins:`",
            ),
        ),
    ],
    ids=["scalar smoothing", "replicas", "no column"],
)
def test_what_a_trainer_does_not_train_with(
    bench: Bench,
    monkeypatch: pytest.MonkeyPatch,
    num_gpus: int,
    row: dict[str, Any],
    arguments: dict[str, Any],
    expected: UALError,
) -> None:
    from transformers import TrainingArguments

    monkeypatch.setattr(TrainingArguments, "n_gpu", num_gpus)
    with pytest.raises(type(expected)) as caught:
        make_trainer(bench, row, **arguments).train()
    assert (caught.value.problem, caught.value.fix) == (expected.problem, expected.fix)


def test_a_batch_that_lost_its_smoothing_stops(bench: Bench) -> None:
    import torch

    trainer = make_trainer(bench, {"ual_smoothing": 0.1})
    ids = torch.tensor([[1, 2, 3]])
    with pytest.raises(DataError, match="a training batch has no `ual_smoothing`"):
        trainer.compute_loss(trainer.model.train(), {"input_ids": ids, "labels": ids})
