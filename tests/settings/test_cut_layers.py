"""What a recipe may not ask where layers or experts lie on different processes."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.host import describe
from axolotl_ual.settings.refusals import unsupported

LAYERS, EXPERTS = {"tensor_parallel_size": 2}, {"expert_parallel_size": 2}
FSDP2 = {"fsdp_version": 2, "fsdp_config": {"reshard_after_forward": True}}
FIX = "set it to 1, with FSDP2 or ZeRO-3"
ZERO = {"deepspeed": {"zero_optimization": {"stage": 1}}}

REFUSED: list[tuple[str, dict[str, Any], str, str]] = [
    ("0.19.0", LAYERS, "Axolotl 0.19.0 stops after the first backward", "Axolotl 0.20"),
    ("0.19.0", {**LAYERS, **FSDP2}, "beside FSDP, Axolotl stops before the", FIX),
    (
        "0.19.0",
        {**LAYERS, "adapter": "lora"},
        "PEFT makes an adapter of the part",
        "`adapter:` out",
    ),
    (
        "0.21.0",
        {**LAYERS, "adapter": "lora"},
        "PEFT makes an adapter of the part",
        "`adapter:` out",
    ),
    ("0.21.0", {**LAYERS, "rl": "dpo"}, "losses of pairs and of prompts", FIX),
    (
        "0.21.0",
        {**LAYERS, "deepspeed": {"zero_optimization": {"stage": 1}}},
        "with `deepspeed`",
        "",
    ),
    ("0.21.0", {**LAYERS, **FSDP2}, "beside FSDP, over several groups of", "`fsdp_config:` out"),
    ("0.19.0", EXPERTS, "Axolotl 0.19.0 sends tokens to their experts by DeepEP alone", FIX),
    ("0.21.0", {**EXPERTS, **FSDP2}, "Axolotl hands experts out from a GPU", FIX),
]


@pytest.mark.parametrize(("version", "recipe", "said", "fix"), REFUSED)
def test_what_is_refused(version: str, recipe: dict[str, Any], said: str, fix: str) -> None:
    error = unsupported(recipe, describe(version))[0]
    key = next(iter(recipe))
    assert error.problem.startswith(f"{key}: 2: {said}")
    assert error.fix is not None and fix in error.fix


@pytest.mark.parametrize(
    ("ual", "key"),
    [
        (
            {"curriculum": {"mode": "phased"}, "reestimate": {"estimator": "perplexity"}},
            "ual.reestimate",
        ),
        (
            {"curriculum": {"mode": "phased", "evaluate_at_boundary": True}},
            "ual.curriculum.evaluate_at_boundary",
        ),
    ],
)
def test_predictions_are_gathered_from_processes_with_rows_of_their_own(
    ual: dict[str, Any], key: str
) -> None:
    problems = [error.problem for error in unsupported({**LAYERS, "ual": ual}, describe("0.21.0"))]
    said = f"{key}: with `tensor_parallel_size: 2` several processes see the predictions"
    assert any(problem.startswith(said) for problem in problems), problems


@pytest.mark.parametrize("version", ["0.20.0", "0.21.0"])
def test_every_parameter_of_cut_layers_is_trained(version: str) -> None:
    assert unsupported(LAYERS, describe(version)) == []
