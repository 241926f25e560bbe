"""What contradicts a curriculum or a preference loss is refused from the YAML alone, with a fix."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.reestimate_rules import estimate_of
from axolotl_ual.settings.refusals import unsupported
from axolotl_ual.settings.ual import parse_ual

PHASED = {"curriculum": {"mode": "phased"}}
REFRESHED = {"curriculum": {"mode": "phased", "refresh_reference": True}}
REFRESH = "ual.curriculum.refresh_reference: true"
ON_PROMPTS = "and `rl: grpo` trains on rewards of responses that the model samples itself"
SCALED = {"curriculum": {"mode": "phased", "learning_rate_scale": 0.5}}
ON_NVME = {"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}
ZERO_3 = {"zero_optimization": {"stage": 3}}

REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        {"ual": PHASED, "group_by_length": True},
        "group_by_length: true: batches rows by their length",
        "set `group_by_length: false`",
    ),
    (
        {"ual": PHASED, "curriculum_sampling": True},
        "curriculum_sampling: true: takes the data in the order",
        "set `curriculum_sampling: false`",
    ),
    (
        {"ual": PHASED, "sample_packing_sequentially": True},
        "sample_packing_sequentially: true: packs the data in the order",
        "set `sample_packing_sequentially: false`",
    ),
    (
        {"ual": PHASED, "balance_labels": True},
        "balance_labels: true: batches rows by how many of their tokens are trained",
        "set `balance_labels: false`",
    ),
    (
        {
            "ual": {"curriculum": {"mode": "phased", "evaluate_at_boundary": True}},
            "val_set_size": 0.1,
            "eval_on_start": False,
        },
        "eval_on_start: false: `ual.curriculum.evaluate_at_boundary` evaluates before the first",
        "take `eval_on_start` out, or set `ual.curriculum.evaluate_at_boundary: false`",
    ),
    (
        {"ual": PHASED, "streaming": True},
        "ual.curriculum: a streaming dataset (`streaming`) has no order",
        "take `streaming` out, or set `ual.curriculum.mode: none`",
    ),
    (
        {"ual": PHASED, "pretraining_dataset": "x"},
        "ual.curriculum: a streaming dataset (`pretraining_dataset`) has no order",
        "take `pretraining_dataset` out, or set `ual.curriculum.mode: none`",
    ),
    (
        {"ual": PHASED, "num_epochs": 2.5},
        "num_epochs: 2.5: the stages of a curriculum are trained on whole epochs",
        "set a whole number, or `ual.curriculum.epochs`",
    ),
    (
        {"ual": PHASED, "accelerator_config": {"split_batches": True}},
        "accelerator_config.split_batches: true: the curriculum shares the batches out",
        "set it to false",
    ),
    (
        {"ual": PHASED, "accelerator_config": {"dispatch_batches": True}},
        "accelerator_config.dispatch_batches: true: the curriculum shares the batches out",
        "set it to false",
    ),
    (
        {"ual": {"curriculum": {"mode": "phased", "evaluate_at_boundary": True}}},
        "ual.curriculum.evaluate_at_boundary: there is nothing to evaluate on",
        "set `val_set_size` or `test_datasets`",
    ),
    (
        {"ual": SCALED, "lr_scheduler": "reduce_lr_on_plateau"},
        "ual.curriculum.learning_rate_scale: `lr_scheduler: reduce_lr_on_plateau` sets rates",
        "use another scheduler, or no scale",
    ),
    (
        {"ual": SCALED, "deepspeed": {"scheduler": {}}},
        "ual.curriculum.learning_rate_scale: the DeepSpeed config has `scheduler`",
        "take `scheduler` out of the DeepSpeed config",
    ),
    (
        {"ual": SCALED, "deepspeed": {"optimizer": {}}},
        "ual.curriculum.learning_rate_scale: the DeepSpeed config has `optimizer`",
        "take `optimizer` out of the DeepSpeed config",
    ),
    (
        {"rl": "dpo", "dpo_label_smoothing": 0.1},
        "dpo_label_smoothing: 0.1: is one smoothing for all pairs",
        "take `dpo_label_smoothing` out",
    ),
    (
        {"rl": "dpo", "dpo_loss_weights": [0.5, 0.5]},
        "dpo_loss_weights: [0.5, 0.5]: weights several losses",
        "take `dpo_loss_weights` out",
    ),
    (
        {"rl": "dpo", "dpo_use_weighting": True},
        "dpo_use_weighting: true: weights pairs by log-probabilities over the whole vocabulary; "
        "`ual.preference.weighting: wpo` does so in chunks",
        "take `dpo_use_weighting` out",
    ),
    (
        {"rl": "ipo", "dpo_use_liger_kernel": True},
        "dpo_use_liger_kernel: true: computes the loss in a kernel",
        "take `dpo_use_liger_kernel` out",
    ),
    (
        {"rl": "dpo", "dpo_padding_free": True},
        "dpo_padding_free: true: is not what the trainer does",
        "take `dpo_padding_free` out",
    ),
    (
        {"rl": "dpo", "dpo_loss_type": ["hinge"]},
        "dpo_loss_type: ['hinge']: pairs are smoothed in the sigmoid and the IPO loss",
        "set `dpo_loss_type: [sigmoid]` or `[ipo]`",
    ),
    (
        {"rl": "dpo", "deepspeed": ZERO_3, "lora_target_modules": ["q_proj", "lm_head"]},
        "deepspeed: ZeRO-3 with an adapter on the head",
        "leave `lm_head` out of `lora_target_modules`, or use ZeRO-2",
    ),
    (
        {"rl": "dpo", "ual": {"annotate": {"output": "x", "estimator": "perplexity"}}},
        "ual.annotate: scores samples, and `rl: dpo` trains on pairs",
        "take `annotate:` out, and name the pairs under `datasets:`",
    ),
    (
        {"rl": "orpo", "ual": {**PHASED, "pairs": {"output": "x", "value": {"method": "none"}}}},
        "ual.pairs: `rl: orpo` is not trained on a dialogue with two answers",
        "set `rl:` to one of dpo, ipo, simpo, or take `pairs:` out",
    ),
    (
        {"rl": "orpo", "ual": {"preference": {"smoothing": False}}},
        "rl: orpo: no pair is smoothed",
        "set `ual.curriculum.mode`, or take the plugin out",
    ),
    (
        {"rl": "dpo", "ual": {"preference": {"smoothing": False}}},
        "rl: dpo: no pair is smoothed",
        "set `ual.curriculum.mode`, or take the plugin out",
    ),
    (
        {"ual": REFRESHED},
        f"{REFRESH}: training without `rl:` compares with no reference",
        "set `rl:` to dpo or ipo, or take it out",
    ),
    (
        {"rl": "orpo", "ual": REFRESHED},
        f"{REFRESH}: `rl: orpo` compares with no reference",
        "set `rl:` to dpo or ipo, or take it out",
    ),
    (
        {"rl": "dpo", "deepspeed": ON_NVME, "ual": REFRESHED},
        f"{REFRESH}: the DeepSpeed config keeps the shards of the parameters on NVMe",
        "set `offload_param.device: cpu`",
    ),
    (
        {
            "rl": "dpo",
            "deepspeed": {"zero_optimization": {"stage": 3, "zero_hpz_partition_size": 8}},
            "ual": REFRESHED,
        },
        f"{REFRESH}: `zero_hpz_partition_size: 8` of the DeepSpeed config keeps a second copy",
        "take `zero_hpz_partition_size` out",
    ),
    (
        {"rl": "grpo", "ual": {"stages": {"thresholds": [0.2, 0.4]}}},
        "rl: grpo: the plugin orders and leaves out prompts",
        "set `ual.curriculum.mode` or `ual.curriculum.keep`",
    ),
    (
        {"rl": "grpo", "ual": {**PHASED, "smoothing": {"mean": 0.2}}},
        f"ual.smoothing: smooths given responses, {ON_PROMPTS}",
        "take `smoothing:` out; `ual.curriculum` orders the prompts",
    ),
    (
        {"rl": "grpo", "ual": {**PHASED, "loss": {"kernel": "chunked"}}},
        f"ual.loss: is of a cross entropy with given responses, {ON_PROMPTS}",
        "take `loss:` out",
    ),
    (
        {"rl": "grpo", "ual": {**PHASED, "preference": {"weighting": "wpo"}}},
        f"ual.preference: is of pairs of given responses, {ON_PROMPTS}",
        "take `preference:` out",
    ),
    (
        {"rl": "grpo", "ual": {**PHASED, "annotations": "you/lima-ual"}},
        f"ual.annotations: are about samples with their responses, {ON_PROMPTS}",
        "take `annotations:` out",
    ),
    (
        {"rl": "grpo", "ual": {"annotate": {"output": "x", "estimator": "perplexity"}}},
        "ual.annotate: scores samples, and `rl: grpo` trains on prompts",
        "take `annotate:` out",
    ),
    (
        {"rl": "grpo", "trl": {"async_prefetch": True}, "ual": PHASED},
        "trl.async_prefetch: true: prompts are fetched ahead",
        "set `trl.async_prefetch: false`",
    ),
    (
        {"rl": "orpo", "ual": {**PHASED, "preference": {"flips": "robust"}}},
        "ual.preference.flips: robust: of `rl: dpo` and `rl: ipo` only, and this is `rl: orpo`",
        "take it out",
    ),
    (
        {"rl": "simpo", "ual": {**PHASED, "preference": {"margin": {"mean": 1, "tau": 1}}}},
        "ual.preference.margin: {'mean': 1.0, 'tau': 1.0, 'by': 'gap'}: of `rl: dpo`",
        "take it out",
    ),
    (
        {"rl": "kto", "ual": {**PHASED, "preference": {"weighting": "wpo"}}},
        "ual.preference.weighting: wpo: of `rl: dpo`",
        "take it out",
    ),
    (
        {"rl": "kto", "ual": {**PHASED, "preference": {"beta": [1, 2, 3]}}},
        "ual.preference.beta: [1.0, 2.0, 3.0]: of `rl: dpo` and `rl: ipo` only",
        "take it out",
    ),
]


ESTIMATED = {**PHASED, "reestimate": {"estimator": "perplexity"}}
BY_JUDGE = {"output": "a", "estimator": "judge", "judge": {"model": "m"}}
BY_ENTROPY = {"output": "a", "estimator": "entropy"}
REESTIMATE = "ual.reestimate: "
REFUSED += [
    (
        {"rl": "dpo", "ual": ESTIMATED},
        f"{REESTIMATE}`rl: dpo` does not smooth the tokens of a sample",
        "take `reestimate:` out",
    ),
    (
        {"ual": {"reestimate": {"estimator": "entropy"}}},
        f"{REESTIMATE}`ual.curriculum.mode: none` has no stages",
        "set `ual.curriculum.mode` to phased or cumulative",
    ),
    (
        {"ual": {**ESTIMATED, "smoothing": {"mean": 0}}},
        f"{REESTIMATE}`ual.smoothing.mean: 0` smooths no sample",
        "take `reestimate:` out",
    ),
    (
        {
            "ual": {**ESTIMATED, "smoothing": {"prior": "reference", "reference_top_k": 8}},
            "adapter": "lora",
        },
        f"{REESTIMATE}`ual.smoothing.reference_top_k` keeps the reference of rows that are",
        "take `reference_top_k` out",
    ),
    (
        {"ual": {**PHASED, "reestimate": {}}},
        f"{REESTIMATE}the recipe has no `ual.annotate` that names an estimator",
        "set `ual.reestimate.estimator` to perplexity or entropy",
    ),
    (
        {"ual": {**ESTIMATED, "annotate": BY_JUDGE}},
        f"{REESTIMATE}`ual.annotate.estimator: judge` is not what a forward pass of the model",
        "annotate with perplexity or entropy",
    ),
    (
        {"ual": {**ESTIMATED, "annotate": BY_ENTROPY}},
        "ual.reestimate.estimator: perplexity: `ual.annotate.estimator: entropy` is another",
        "take `ual.reestimate.estimator` out",
    ),
    (
        {"ual": ESTIMATED, "streaming": True, "max_steps": 9},
        f"{REESTIMATE}the map to smoothing is solved over all rows",
        "take `streaming` out",
    ),
    (
        {"ual": ESTIMATED, "processor_type": "AutoProcessor", "skip_prepare_dataset": True},
        f"{REESTIMATE}`processor_type: AutoProcessor` makes the tokens of rows with images a batch",
        "take `reestimate:` out",
    ),
    (
        {"ual": ESTIMATED, "context_parallel_size": 2},
        f"{REESTIMATE}with `context_parallel_size: 2` a process sees the predictions of one part",
        "take `reestimate:` out",
    ),
]


@pytest.mark.parametrize(("keys", "problem", "fix"), REFUSED)
def test_contradictions_are_refused(keys: dict[str, Any], problem: str, fix: str) -> None:
    found = [error for error in unsupported(keys) if error.problem.startswith(problem)]
    assert len(found) == 1
    assert found[0].fix.startswith(fix)


def test_the_deepspeed_config_may_be_a_file(tmp_path: Path) -> None:
    path = tmp_path / "zero3.json"
    path.write_text(json.dumps(ZERO_3))
    keys = {"rl": "dpo", "deepspeed": str(path), "lora_target_modules": "lm_head"}
    (error,) = unsupported(keys)
    assert error.problem.startswith("deepspeed: ZeRO-3 with an adapter on the head")
    assert unsupported({**keys, "lora_target_modules": ["q_proj"]}) == []


@pytest.mark.parametrize(
    "keys",
    [
        {"ual": PHASED},
        {"ual": ESTIMATED},
        {"ual": ESTIMATED, "sample_packing": True},
        {"ual": ESTIMATED, "deepspeed": ZERO_3},
        {"ual": {**PHASED, "annotate": BY_ENTROPY, "reestimate": {}}},
        {"rl": "dpo"},
        {"rl": "dpo", "ual": {"preference": {"smoothing": False, "weighting": "wpo"}}},
        {"rl": "dpo", "adapter": "lora", "ual": REFRESHED},
        {"rl": "grpo", "ual": PHASED},
        {"rl": "grpo", "ual": {"curriculum": {"keep": {"by": "pass_rate", "at_most": 0.9}}}},
        {"rl": "orpo", "ual": {"curriculum": {"keep": {"by": "gap", "at_least": 0.1}}}},
        {"rl": "ipo", "dpo_loss_type": ["ipo"], "ual": PHASED},
        {"rl": "orpo", "orpo_alpha": 0.1, "ual": PHASED},
        {"ual": {"curriculum": {"mode": "phased", "epochs": 1}}, "num_epochs": 2.5},
        {"group_by_length": True},
        {"ual": PHASED, "eval_on_start": True},
    ],
)
def test_what_can_be_trained_is_not_refused(keys: dict[str, Any]) -> None:
    assert unsupported(keys) == []


@pytest.mark.parametrize(
    ("ual", "shown"),
    [
        (PHASED, None),
        (ESTIMATED, "perplexity, mapped by rank"),
        ({**PHASED, "annotate": BY_ENTROPY, "reestimate": {}}, "entropy, mapped by rank"),
        (
            {
                **PHASED,
                "annotate": {**BY_ENTROPY, "entropy": {"mapping": "minmax"}},
                "reestimate": {"estimator": "entropy"},
            },
            "entropy, mapped by minmax",
        ),
        (
            {**PHASED, "annotate": BY_ENTROPY, "reestimate": {"mapping": "clipped"}},
            "entropy, mapped by clipped",
        ),
    ],
)
def test_smoothing_is_estimated_as_annotating_did(ual: dict[str, Any], shown: str | None) -> None:
    found = estimate_of(parse_ual(ual))
    assert shown == (None if found is None else str(found))


@pytest.mark.parametrize(
    ("preference", "said"),
    [
        ({"flips": "robust", "smoothing": False}, "`flips: robust` has no effect"),
        ({"flips": "other"}, "ual.preference.flips: Input should be 'conservative' or 'robust'"),
        ({"margin": {"mean": 1.0, "tau": 0.005}}, "`tau: 0.005` is below a hundredth of `mean: 1`"),
        ({"margin": {"mean": 0.0, "tau": 1.0}}, "ual.preference.margin.mean: Input should be gre"),
    ],
)
def test_preference_settings_without_sense_are_refused(
    preference: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_ual({"preference": preference})
    assert said in str(caught.value)
