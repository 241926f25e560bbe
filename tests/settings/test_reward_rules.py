"""What a recipe of a reward model may not ask, and which messages say so."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.host import describe
from axolotl_ual.settings.refusals import unsupported

PHASED = {"curriculum": {"mode": "phased"}}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"rl": "dpo"}, "reward_model: true: with `rl: dpo` there are two losses"),
    ({"sample_packing": True}, "sample_packing: true: packs rows of one text each"),
    ({"streaming": True, "max_steps": 1}, "streaming: true: streamed rows become batches"),
    ({"skip_prepare_dataset": True}, "skip_prepare_dataset: true: leaves tokenising"),
    ({"processor_type": "AutoProcessor"}, "processor_type: AutoProcessor: is for rows with images"),
    ({"context_parallel_size": 2}, "context_parallel_size: 2: a reward is read from the end"),
    ({"context_parallel": {"size": 2}}, "context_parallel.size: 2: a reward is read"),
    ({"fsdp_version": 1, "fsdp_config": {"a": 1}}, "fsdp_version: 1: `reward_model: true` trains"),
    ({"ual": {"annotate": {"output": "x", "estimator": "perplexity"}}}, "ual.annotate: scores"),
    ({"ual": {"annotations": "you/them"}}, "ual.annotations: is about samples"),
    ({"ual": {"pairs": {"output": "x", "value": {"method": "none"}}}}, "ual.pairs: makes pairs"),
    (
        {"ual": {**PHASED, "reestimate": {"estimator": "perplexity"}}},
        "ual.reestimate: estimates the uncertainty of samples",
    ),
    ({"ual": {"loss": {"kernel": "chunked"}}}, "ual.loss.kernel: chunked: is of a loss of tokens"),
    (
        {"ual": {"loss": {"normalization": "micro_batch"}}},
        "ual.loss.normalization: micro_batch: is of a loss of tokens",
    ),
    (
        {"ual": {"loss": {"token_weight": "entropy"}}},
        "ual.loss.token_weight: entropy: is of a loss of tokens",
    ),
    (
        {"ual": {"loss": {"anchor": {"weight": 0.5}}}},
        "ual.loss.anchor.weight: 0.5: is of a loss of tokens",
    ),
    (
        {"ual": {"loss": {"weight": {"message": "w"}}}},
        "ual.loss.weight.message: w: is of a loss of tokens",
    ),
    (
        {"ual": {"smoothing": {"prior": "reference"}}},
        "ual.smoothing.prior: reference: is of a loss of tokens",
    ),
    (
        {"ual": {**PHASED, "preference": {"beta": [1, 2, 3]}}},
        "ual.preference.beta: [1.0, 2.0, 3.0]: is of a policy",
    ),
    (
        {"ual": {"preference": {"weighting": "wpo"}}},
        "ual.preference.weighting: wpo: is of a policy",
    ),
    (
        {"ual": {"preference": {"smoothing": False}}},
        "reward_model: true: `ual.preference.smoothing` is false",
    ),
    (
        {"ual": {"curriculum": {"mode": "phased", "refresh_reference": True}}},
        "ual.curriculum.refresh_reference: true: training without `rl:` compares",
    ),
    ({"ual": PHASED, "group_by_length": True}, "group_by_length: true: batches rows by their"),
    ({"process_reward_model": True}, "process_reward_model: true: learns labels of"),
]


@pytest.mark.parametrize(("keys", "problem"), REFUSED)
def test_what_is_of_tokens_samples_or_a_policy_is_refused(
    keys: dict[str, Any], problem: str
) -> None:
    (found,) = unsupported({"reward_model": True, **keys}, describe("0.19.0"))
    assert found.problem.startswith(problem)
    assert found.fix


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"ual": PHASED, "lora_target_modules": ["lm_head"], "center_rewards_coefficient": 0.1},
        {"ual": {"preference": {"flips": "robust", "margin": {"mean": 0.5, "tau": 0.1}}}},
        {"ual": {"preference": {"smoothing": False}, "loss": {"weight": "w"}}},
        {"ual": {"preference": {"smoothing": False}, **PHASED}},
        {"ual": {"curriculum": {"keep": {"by": "gap", "at_least": 0.1}}}},
        {"fsdp_version": 2, "fsdp_config": {"offload_params": False}},
    ],
)
def test_what_can_be_trained_is_not_refused(keys: dict[str, Any]) -> None:
    assert unsupported({"reward_model": True, **keys}) == []


def test_a_key_that_is_off_changes_nothing() -> None:
    assert unsupported({"reward_model": False, "sample_packing": True}) == []
