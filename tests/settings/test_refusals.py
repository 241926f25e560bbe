"""Each setting that the plugin cannot train with stops the run, and its message says which."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.errors import UnsupportedError
from axolotl_ual.host import describe
from axolotl_ual.settings import refusals
from axolotl_ual.settings.refusals import TRAINER, unsupported

IMAGES = {"processor_type": "AutoProcessor", "skip_prepare_dataset": True}
REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"rl": "other", "ual": {"curriculum": {"mode": "phased"}}},
        "rl: other: is trained in an order and with a loss of its own",
        "use one of",
    ),
    (
        {"rl": "ebft", "ebft": {"mode": "strided"}, "ual": {"curriculum": {"mode": "phased"}}},
        "ebft.mode: strided: cuts documents into blocks by a trainer of its own",
        "leave `ual:` empty, or set `ebft.mode: structured`",
    ),
    (
        {"process_reward_model": True, "ual": {"curriculum": {"mode": "phased"}}},
        "process_reward_model: true: learns labels of the steps of a response",
        "leave `ual:` empty, or take `process_reward_model:` out",
    ),
    (
        {"plugins": ["axolotl.integrations.diffusion:DiffusionPlugin"]},
        "plugins: `axolotl.integrations.diffusion:DiffusionPlugin` trains to fill masked tokens in",
        "out of `plugins:`",
    ),
    ({"use_dft": True}, "use_dft: true: brings a loss", "set `use_dft: false`"),
    ({"orpo_alpha": 0.1}, "orpo_alpha: 0.1: brings a loss", "take `orpo_alpha:` out"),
    ({"kd_trainer": True}, "kd_trainer: true: brings a loss", "take `kd_trainer:` out"),
    (
        {"label_smoothing_factor": 0.1},
        "label_smoothing_factor: 0.1: one smoothing for all samples",
        "set `ual.smoothing.mean`",
    ),
    ({"trainer_cls": "a.B"}, "trainer_cls: a.B: brings a trainer", "take it out"),
    (
        {"pretraining_dataset": "a/b", "max_steps": 1},
        "pretraining_dataset: without packing, Axolotl keeps nothing of a row but the tokens",
        "set `sample_packing: true`",
    ),
    *(
        (
            {"pretraining_dataset": "a/b", "max_steps": 1, "sample_packing": True, **more},
            problem,
            fix,
        )
        for more, problem, fix in [
            ({"rl": "dpo"}, "pretraining_dataset: Axolotl reads what `rl: dpo`", "name the rows"),
            (
                {"ual": {"loss": {"weight": "w"}}},
                "ual.loss.weight: w: Axolotl packs streamed rows by themselves",
                "name the rows under `datasets:` in its place",
            ),
            (
                {"ual": {"annotations": "a/b"}},
                "ual.annotations: takes all rows before training, and `pretraining_dataset` reads",
                "take `annotations` out, or name the rows",
            ),
            (
                {"ual": {"annotate": {"output": "o", "estimator": "perplexity"}}},
                "ual.annotate: annotates what `datasets:` names",
                "annotate the rows in a recipe that has them under `datasets:`",
            ),
        ]
    ),
    (
        {"streaming": True, "max_steps": 1, "rl": "dpo"},
        "streaming: true: Axolotl reads what `rl: dpo` trains on before it trains",
        "set `streaming: false`",
    ),
    *(
        (
            {"streaming": True, "max_steps": 1, "ual": ual},
            f"{key}: takes all rows before training",
            f"take `{key.rpartition('.')[2]}` out, or set `streaming: false`",
        )
        for key, ual in (
            ("ual.annotations", {"annotations": "me/them"}),
            ("ual.curriculum.keep", {"curriculum": {"keep": {"by": "w", "at_least": 1}}}),
            (
                "ual.smoothing.reference_top_k",
                {"smoothing": {"prior": "reference", "reference_top_k": 4}},
            ),
        )
    ),
    (
        {
            "streaming": True,
            "max_steps": 1,
            "sample_packing": True,
            "ual": {"loss": {"weight": "w"}},
        },
        "ual.loss.weight: w: Axolotl packs streamed rows by themselves",
        "set `sample_packing: false`, or set `streaming: false`",
    ),
    (
        {"skip_prepare_dataset": True},
        "skip_prepare_dataset: true: without `processor_type:` no collator",
        "`processor_type: AutoProcessor`",
    ),
    (
        {"push_dataset_to_hub": "me/data"},
        "push_dataset_to_hub: me/data: keeps prepared data under a name",
        "take `push_dataset_to_hub:` out",
    ),
    (
        {"processor_type": "AutoProcessor"},
        "processor_type: AutoProcessor: its collator takes rows of messages",
        "set `skip_prepare_dataset: true`",
    ),
    (
        {"processor_type": "AutoProcessor", "rl": "dpo"},
        "processor_type: AutoProcessor: `rl: dpo` is trained on text alone",
        "take `processor_type:` out",
    ),
    (
        {**IMAGES, "streaming": True, "max_steps": 1},
        "streaming: true: streamed rows are checked where they are tokenised",
        "set `streaming: false`",
    ),
    (
        {**IMAGES, "remove_unused_columns": True},
        "remove_unused_columns: true: takes messages and images away",
        "set `remove_unused_columns: false`",
    ),
    *(
        (
            {**IMAGES, key: True},
            f"{key}: true: {what} rows by",
            f"set `{key}: false`",
        )
        for key, what in (
            ("sample_packing", "packs"),
            ("eval_sample_packing", "packs"),
            ("group_by_length", "batches"),
        )
    ),
    (
        {**IMAGES, "context_parallel": {"size": 2}},
        "context_parallel.size: 2: cuts sequences, and the images",
        "set `context_parallel.size: 1`",
    ),
    (
        {**IMAGES, "ual": {"smoothing": {"prior": "reference", "reference_top_k": 8}}},
        "ual.smoothing.reference_top_k: 8: is computed before training",
        "take `reference_top_k` out",
    ),
    (
        {**IMAGES, "ual": {"loss": {"weight": {"message": "weight"}}}},
        "ual.loss.weight.message: weight: the processor does not tell",
        "name a column",
    ),
    (
        {"context_parallel_size": 2, "rl": "dpo"},
        "context_parallel_size: 2: `rl: dpo` compares whole responses",
        "set `context_parallel_size: 1`",
    ),
    (
        {"sequence_parallel_degree": 4, "deepspeed": "zero2.json"},
        "sequence_parallel_degree: 4: with `deepspeed`, sequences are split",
        "FSDP (`fsdp_version: 2`)",
    ),
    (
        {"context_parallel": {"size": 2, "backend": "ring"}, "lora_target_modules": ["lm_head"]},
        "context_parallel.size: 2: the loss of a part of a sequence is computed in chunks",
        "leave `lm_head` out of `lora_target_modules`",
    ),
    (
        {"context_parallel_size": 2, "ual": {"loss": {"kernel": "model"}}},
        "ual.loss.kernel: model: with `context_parallel_size: 2` it would be a mean over one part",
        "set `ual.loss.kernel: auto`",
    ),
    (
        {
            "context_parallel_size": 2,
            "val_set_size": 8,
            "ual": {"curriculum": {"mode": "phased", "evaluate_at_boundary": True}},
        },
        "ual.curriculum.evaluate_at_boundary: with `context_parallel_size: 2`",
        "`eval_steps` evaluates",
    ),
    (
        {"peft_use_dora": True, "lora_target_modules": ["q_proj", "lm_head"]},
        "peft_use_dora: true: the margin of a head with an adapter",
        "leave `lm_head` out of `lora_target_modules`",
    ),
    (
        {"liger_fused_linear_cross_entropy": True, "lora_target_modules": ["lm_head"]},
        "liger_fused_linear_cross_entropy: true: reads the head's weight",
        "leave `lm_head` out of `lora_target_modules`",
    ),
    (
        {"ual": {"loss": {"kernel": "chunked"}}, "lora_target_modules": "lm_head"},
        "ual.loss.kernel: chunked: the head has an adapter",
        "set `ual.loss.kernel: model`",
    ),
    (
        {"ual": {"smoothing": {"prior": "reference"}}},
        "ual.smoothing.prior: reference: there is no `adapter:`",
        "set `ual.smoothing.reference` to the model before tuning",
    ),
    (
        {"rl": "dpo", "adapter": "lora", "ual": {"smoothing": {"prior": "reference"}}},
        "ual.smoothing.prior: reference: `rl: dpo` smooths preferences",
        "take `prior:` out",
    ),
]


@pytest.mark.parametrize(
    ("recipe", "problem", "fix"), REFUSED, ids=[next(iter(case[0])) for case in REFUSED]
)
def test_what_is_refused(recipe: dict[str, Any], problem: str, fix: str) -> None:
    (error,) = unsupported(recipe)
    assert isinstance(error, UnsupportedError)
    assert error.problem.startswith(problem)
    assert fix in error.fix


@pytest.mark.parametrize(
    "recipe",
    [
        {},
        {"context_parallel_size": 1, "tensor_parallel_size": None, "streaming": False},
        {"context_parallel": {"size": 1}, "use_dft": False},
        {"streaming": True, "max_steps": 1, "sample_packing": True},
        {"streaming": True, "max_steps": 1, "ual": {"loss": {"weight": "w"}}},
        {"context_parallel_size": 2},
        {"context_parallel": {"size": 2, "backend": "ulysses"}},
        {"balance_labels": False, "full_determinism": False, "eval_on_start": True},
        {"trainer_cls": TRAINER},
        {"fsdp_config": {"offload_params": True}, "fsdp_version": 2},
        {"fsdp_config": {"fsdp_version": 2}},
        {"label_smoothing_factor": 0.0},
        {"lora_target_modules": ["lm_head"], "ual": {"loss": {"kernel": "model"}}},
        {"lora_target_modules": ["q_proj"], "peft_use_dora": True},
        {"adapter": "qlora", "ual": {"smoothing": {"prior": "reference"}}},
        {"ual": {"smoothing": {"prior": "reference", "reference": "base"}}},
        {"ual": {"smoothing": {"prior": "reference", "reference_top_k": 64}}},
    ],
)
def test_what_is_not(recipe: dict[str, Any]) -> None:
    assert unsupported(recipe) == []


@pytest.mark.parametrize(("version", "refused"), [("0.19.0", False), ("0.20.0", True)])
def test_the_first_generation_of_fsdp_where_the_host_has_it(
    monkeypatch: pytest.MonkeyPatch, version: str, refused: bool
) -> None:
    """Axolotl 0.20 has the second generation only, and takes a recipe without one for it."""
    monkeypatch.setattr(refusals, "host", lambda: describe(version))
    for one in (
        {"fsdp_config": {"offload_params": True, "fsdp_version": 1}},
        {"fsdp_config": {"version": "1"}},
        {"fsdp": ["full_shard"], "fsdp_version": 1},
    ):
        errors = unsupported(one)
        assert bool(errors) == refused
        assert all("fsdp_version: 1: Axolotl 0.20.0 has" in error.problem for error in errors)
    assert unsupported({"fsdp_config": {"offload_params": True}}) == []


def test_pairs_are_not_trained_with_the_first_generation_of_fsdp() -> None:
    fsdp = {"fsdp": ["full_shard", "auto_wrap"]}
    (error,) = unsupported({**fsdp, "rl": "dpo"}, describe("0.19.0"))
    said = "fsdp_version: 1: `rl: dpo` trains the same on each process with the second"
    assert error.problem.startswith(said)
    assert error.fix == "set `fsdp_version: 2`"


@pytest.mark.parametrize(
    "keys",
    [
        {"adapter": "lora", "lora_target_modules": ["lm_head"]},
        {"adapter": "lora", "lora_modules_to_save": ["lm_head"]},
        {"fsdp_config": {"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP"}},
    ],
)
def test_the_first_generation_of_fsdp_may_wrap_a_head_alone(keys: dict[str, Any]) -> None:
    assert unsupported({"fsdp": ["full_shard"], **keys}, describe("0.19.0")) == []


@pytest.mark.parametrize(
    ("keys", "problem"),
    [
        ({"balance_labels": True}, "balance_labels: true: Axolotl 0.20.0 does not have"),
        ({"full_determinism": True}, "full_determinism: true: Axolotl 0.20.0 does not have"),
        ({"eval_on_start": False}, "eval_on_start: false: Axolotl 0.20.0 does not have"),
    ],
)
def test_what_the_host_would_drop_is_refused(
    monkeypatch: pytest.MonkeyPatch, keys: dict[str, Any], problem: str
) -> None:
    monkeypatch.setattr(refusals, "host", lambda: describe("0.20.0"))
    (error,) = unsupported(keys)
    assert error.problem.startswith(problem)
    assert error.fix == f"take `{next(iter(keys))}` out, or train with a newer Axolotl"
    monkeypatch.setattr(refusals, "host", lambda: describe("0.21.0"))
    assert unsupported(keys) == []


def test_what_streaming_needs_is_named() -> None:
    packed = {"streaming": True, "sample_packing": True, "balance_labels": True}
    problems = "\n".join(str(error) for error in unsupported(packed))
    assert "streaming: true: how many rows there are is not known" in problems
    assert "fix: set `max_steps`" in problems
    assert "balance_labels: true: with `streaming: true` and `sample_packing: true`" in problems


def test_rows_with_images_are_not_balanced_by_their_labels() -> None:
    (error,) = unsupported({**IMAGES, "balance_labels": True}, describe("0.21.0"))
    assert "balance_labels: true: batches rows by how many of their tokens" in error.problem


def test_rows_with_images_are_accepted() -> None:
    staged = {"curriculum": {"mode": "phased"}, "loss": {"weight": "importance"}}
    for ual in ({}, staged, {"smoothing": {"prior": "reference"}}):
        assert unsupported({**IMAGES, "adapter": "lora", "num_epochs": 1, "ual": ual}) == []
