"""Weights in the loss: which settings are taken, and which stop a run from the YAML alone."""

from __future__ import annotations

from typing import Any

import pytest

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.refusals import unsupported
from axolotl_ual.settings.ual import UALArgs, parse_ual

WEIGHTS: list[tuple[Any, str | None, str]] = [
    ("importance", "importance", "ual.loss.weight: importance"),
    ("uncertainty", "ual_uncertainty", "ual.loss.weight: uncertainty"),
    ({"from": "uncertainty"}, "ual_uncertainty", "ual.loss.weight.from: uncertainty"),
    ({"from": "noise", "at_0": 0}, "noise", "ual.loss.weight.from: noise"),
    ({"message": "weight"}, None, "ual.loss.weight.message: weight"),
]


@pytest.mark.parametrize(("given", "column", "shown"), WEIGHTS)
def test_spellings_of_a_weight(given: Any, column: str | None, shown: str) -> None:
    weight = parse_ual({"loss": {"weight": given}}).loss.weight
    assert weight is not None
    assert (weight.dataset_column, weight.shown) == (column, shown)
    # Axolotl validates a recipe, writes it out, and what it wrote is read again.
    dumped = UALArgs(ual={"loss": {"weight": given}}).model_dump(exclude_none=True)
    assert parse_ual(dumped["ual"]).loss.weight == weight


@pytest.mark.parametrize(
    ("ual", "said"),
    [
        ({"loss": {"weight": {}}}, "ual.loss.weight: `weight` needs one of `column`, `from` and"),
        ({"loss": {"weight": {"column": "a", "from": "b"}}}, "needs one of"),
        ({"loss": {"weight": {"from": "b", "at_0": 0.3}}}, "give every row the same weight"),
        ({"loss": {"weight": {"from": "b", "at_1": -1}}}, "greater than or equal to 0"),
        ({"loss": {"weight": {"from": "b", "at_1": float("nan")}}}, "at_1"),
        ({"loss": {"weight": {"form": "b"}}}, "form: unknown key; did you mean `from`?"),
        ({"loss": {"token_weight": "focal"}}, "'none', 'probability' or 'entropy'"),
        ({"loss": {"anchor": {"weight": 0}}}, "greater than 0"),
        ({"loss": {"anchor": {}}}, "ual.loss.anchor.weight: this key is needed"),
        ({"loss": {"kernel": "model", "weight": "a"}}, "`weight` is computed in chunks"),
        ({"loss": {"kernel": "model", "token_weight": "entropy"}}, "`token_weight` is computed in"),
        ({"loss": {"kernel": "model", "anchor": {"weight": 1}}}, "`anchor` is computed in chunks"),
        (
            {
                "loss": {"anchor": {"weight": 1}},
                "smoothing": {"prior": "reference", "reference_top_k": 4},
            },
            "`smoothing.reference_top_k: 4` keeps the reference for smoothed tokens",
        ),
        (
            {
                "loss": {"anchor": {"weight": 1, "reference": "a"}},
                "smoothing": {"prior": "reference", "reference": "b"},
            },
            "name one reference for both",
        ),
    ],
)
def test_what_is_wrong_by_itself(ual: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_ual(ual)
    assert said in str(caught.value)


CHAT = [{"path": "a.jsonl", "type": "chat_template"}]
ALPACA = [{"path": "a.jsonl", "type": "alpaca"}]


@pytest.mark.parametrize(
    ("recipe", "loss", "said", "fix"),
    [
        (
            {"lora_target_modules": ["lm_head"]},
            {"token_weight": "entropy"},
            "ual.loss.token_weight: entropy: is computed in chunks, and the head has an adapter",
            "leave `lm_head` out",
        ),
        (
            {"rl": "dpo"},
            {"token_weight": "probability"},
            "ual.loss.token_weight: probability: `rl: dpo` has a loss of pairs",
            "take it out",
        ),
        (
            {"rl": "orpo"},
            {"weight": "w"},
            "ual.loss.weight: w: the loss of `rl: orpo` is not weighted here",
            "take it out",
        ),
        (
            {"rl": "ipo"},
            {"weight": {"message": "w"}},
            "ual.loss.weight.message: w: `rl: ipo` has a loss of pairs",
            "take it out",
        ),
        (
            {},
            {"anchor": {"weight": 0.1}},
            "ual.loss.anchor.weight: 0.1: there is no `adapter:` that could be switched off",
            "set `ual.loss.anchor.reference`",
        ),
        (
            {"datasets": [*CHAT, *ALPACA]},
            {"weight": {"message": "weight"}},
            "ual.loss.weight.message: weight: type `alpaca` of `a.jsonl` does not tell which token",
            "use `type: chat_template`",
        ),
        ({"use_dft": True}, {}, "use_dft: true", "`ual.loss.token_weight: probability`"),
        (
            {"use_eaft": True},
            {"token_weight": "entropy"},
            "use_eaft: true: and `ual.loss.token_weight: entropy` both weigh a token",
            "take one of them out",
        ),
        (
            {"use_eaft": True},
            {"kernel": "model"},
            "use_eaft: true: is computed in chunks, and `ual.loss.kernel: model`",
            "set `ual.loss.kernel: auto`",
        ),
        ({"use_eaft": True, "eaft_k": 1}, {}, "eaft_k: 1: the entropy of fewer", "2 or more"),
        ({"use_eaft": True, "eaft_alpha": -1.0}, {}, "eaft_alpha: -1.0: gives", "0 or more"),
        (
            {"use_eaft": True, "lora_target_modules": ["lm_head"]},
            {},
            "use_eaft: true: is computed in chunks, and the head has an adapter",
            "leave `lm_head` out",
        ),
        ({"use_eaft": True, "rl": "dpo"}, {}, "use_eaft: true: `rl: dpo` has a", "take it out"),
        (
            {"use_eaft": True, "reward_model": True},
            {},
            "use_eaft: true: weighs tokens, and the loss is of pairs",
            "take `use_eaft:` out",
        ),
    ],
)
def test_recipes_that_cannot(
    recipe: dict[str, Any], loss: dict[str, Any], said: str, fix: str
) -> None:
    (error,) = [e for e in unsupported({**recipe, "ual": {"loss": loss}}) if said in e.problem]
    assert fix in error.fix


@pytest.mark.parametrize(
    ("recipe", "loss"),
    [
        ({"adapter": "lora"}, {"anchor": {"weight": 0.1}, "token_weight": "probability"}),
        ({}, {"anchor": {"weight": 0.1, "reference": "base"}}),
        ({"datasets": CHAT}, {"weight": {"message": "weight"}}),
        ({"use_eaft": True, "eaft_k": 5, "eaft_alpha": 0.0}, {"weight": "w"}),
        ({"use_eaft": False, "eaft_k": 1, "eaft_alpha": -1.0}, {}),
        ({"rl": "dpo"}, {"weight": {"from": "gap", "at_0": 0.5, "at_1": 1}}),
        ({"datasets": ALPACA, "liger_fused_linear_cross_entropy": True}, {"weight": "w"}),
    ],
)
def test_recipes_that_can(recipe: dict[str, Any], loss: dict[str, Any]) -> None:
    assert unsupported({**recipe, "ual": {"loss": loss}}) == []
