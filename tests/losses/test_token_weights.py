"""Weights of tokens, by data and by prediction, and an anchor: against full logits, one by one."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import assert_equal_gradients, gradients, innermost, weighted_loss_of
from torch import Tensor
from torch.nn import functional as F

from axolotl_ual.errors import ConfigError, UnsupportedError
from axolotl_ual.losses import chunked_ce
from axolotl_ual.losses.chunked_ce import chunked_smoothed_ce
from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.prior import Reference
from axolotl_ual.losses.reference import AdapterOff, FrozenModel
from axolotl_ual.losses.rule import Rule
from axolotl_ual.losses.smoothed_ce import mean_row
from axolotl_ual.losses.token_weights import Entropy, Weighting, entropy_weight, largest_logits
from axolotl_ual.losses.transform import Transform
from reference.models import HEADS, VOCAB, batch, llama
from reference.token_weights import weighted_loss, weighted_sum

KINDS = ("none", "probability", "entropy")


def case(dtype: torch.dtype, seed: int, vocab: int) -> dict[str, Any]:
    """13 tokens, three of them not trained; hidden states of 5, a head with a bias."""
    generator = torch.Generator().manual_seed(seed)
    drawn = {
        "hidden": torch.randn(13, 5, generator=generator, dtype=dtype),
        "head": torch.randn(vocab, 5, generator=generator, dtype=dtype),
        "bias": torch.randn(vocab, generator=generator, dtype=dtype),
        "before": torch.randn(13, 5, generator=generator, dtype=dtype),
        "smoothing": torch.rand(13, generator=generator) * (torch.arange(13) % 3 > 0),
        "weight": torch.rand(13, generator=generator) * 3.0,
    }
    labels = torch.randint(0, vocab, (13,), generator=generator)
    labels[::4] = -100
    return {**drawn, "labels": labels}


def derivatives(loss: Tensor, at: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss * 3.0, at)]


@pytest.mark.parametrize("token", KINDS)
@pytest.mark.parametrize("anchor", [0.0, 0.4])
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("transform", [Transform(0.25), Transform(2.0, 1.5)], ids=["scale", "cap"])
@given(tokens=st.integers(1, 14), seed=st.integers(0, 2**31), vocab=st.sampled_from([11, 40]))
@settings(max_examples=6)
def test_value_and_gradients_token_by_token(
    token: Any,
    anchor: float,
    prior: bool,
    transform: Transform,
    tokens: int,
    seed: int,
    vocab: int,
) -> None:
    parts = case(torch.float64, seed, vocab)
    rows = vocab - 2
    ours, theirs = (
        [parts[name].clone().requires_grad_() for name in ("hidden", "head", "bias")]
        for _ in range(2)
    )
    head, bias = parts["head"].flip(0), parts["bias"].flip(0)
    reference = Reference(parts["before"], head, bias, transform, num_rows=rows)
    sums = chunked_smoothed_ce(
        ours[0],
        ours[1],
        parts["labels"],
        parts["smoothing"],
        bias_V=ours[2],
        transform=transform,
        mean=mean_row(ours[1], ours[2], rows),
        prior=reference if prior else None,
        weighting=Weighting(parts["weight"], token, anchor, reference),
        tokens=tokens,
    )
    wanted = weighted_sum(
        transform(F.linear(*theirs)),
        parts["labels"],
        parts["smoothing"].double(),
        parts["weight"].double(),
        token,
        anchor=anchor,
        reference_NR=transform(F.linear(parts["before"], head, bias))[:, :rows],
        prior=prior,
        rows=rows,
    )
    pairs = zip(derivatives(sums.total, ours), derivatives(wanted, theirs), strict=True)
    for found, expected in pairs:
        assert (found - expected).norm() < 1e-10 * expected.norm().clamp(min=1.0)
    made = sums.weighted[0] + sums.margin + anchor * sums.weighted[2]
    torch.testing.assert_close(made, sums.total, rtol=1e-12, atol=1e-12)


def test_weights_of_one_change_no_bit() -> None:
    parts = case(torch.float32, 3, 40)
    given = (parts["hidden"], parts["head"], parts["labels"], parts["smoothing"])
    leaves = [part.clone().requires_grad_() for part in given[:2]]
    plain = chunked_smoothed_ce(*leaves, *given[2:], tokens=4)
    weighed = chunked_smoothed_ce(
        *leaves, *given[2:], weighting=Weighting(torch.ones(13)), tokens=4
    )
    pairs = zip(derivatives(plain.total, leaves), derivatives(weighed.total, leaves), strict=True)
    assert all(one.equal(other) for one, other in pairs)
    assert plain.nll.equal(weighed.nll)


SIZES = st.integers(2, 500) | st.integers(2600, 5000)
"""Around 20 blocks of 128 the search by blocks begins."""


@given(rows=st.integers(1, 4), size=SIZES, seed=st.integers(0, 2**31), alike=st.booleans())
def test_the_largest_logits_are_those_of_a_sort(
    rows: int, size: int, seed: int, alike: bool
) -> None:
    logits = torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
    logits = (logits * 4.0).round() if alike else logits
    found = largest_logits(logits).sort(dim=1, descending=True).values
    assert found.equal(logits.sort(dim=1, descending=True).values[:, :20])


def test_entropy_is_1_where_20_are_alike_and_0_where_one_is_sure() -> None:
    logits = torch.zeros(3, 200)
    logits[1, 7] = 100.0
    # Two alike and the others impossible: ln 2 / ln 20.
    logits[2] = float("-inf")
    logits[2, :2] = 0.0
    found = entropy_weight(largest_logits(logits))
    assert found.tolist() == pytest.approx([1.0, 0.0, math.log(2) / math.log(20)], abs=1e-6)


def test_entropy_as_it_is_and_to_a_power() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, -50.0]])
    # Of the two likeliest, 1/2 and 1/2: ln 2 nats, which is all there is of two tokens.
    top = largest_logits(logits, 2)
    assert entropy_weight(top, Entropy(2, 3.0)).tolist() == pytest.approx([1.0])
    assert entropy_weight(top, Entropy(2, 3.0, normalized=False)).tolist() == pytest.approx(
        [math.log(2) ** 3]
    )
    # Of the three likeliest, 1/3 each: ln 3; to the power of 0 it is 1, as for every token.
    top = largest_logits(logits, 3)
    assert entropy_weight(top, Entropy(3, 1.0, normalized=False)).tolist() == pytest.approx(
        [math.log(3)]
    )
    assert entropy_weight(top, Entropy(3, 0.0, normalized=False)).tolist() == [1.0]


@pytest.mark.host
@given(
    seed=st.integers(0, 2**31),
    tokens=st.integers(2, 50),
    power=st.sampled_from([0.0, 0.5, 1.0, 2.0]),
)
def test_unsmoothed_it_is_the_loss_of_axolotls_eaft(seed: int, tokens: int, power: float) -> None:
    from axolotl.monkeypatch.loss.eaft import eaft_loss
    from transformers.modeling_outputs import CausalLMOutput

    parts = case(torch.float64, seed, 40)
    ours, theirs = ([parts[n].clone().requires_grad_() for n in ("hidden", "head")] for _ in "12")
    sums = chunked_smoothed_ce(
        *ours,
        parts["labels"],
        torch.zeros_like(parts["smoothing"]),
        weighting=Weighting(token="entropy", entropy=Entropy(tokens, power, normalized=False)),
        tokens=4,
    )
    logits = F.pad(F.linear(*theirs), (0, 0, 0, 1))[None]
    labels = F.pad(parts["labels"], (1, 0), value=-100)[None]
    wanted = eaft_loss(CausalLMOutput(logits=logits), labels, 1, alpha=power, k=tokens)
    pairs = zip(derivatives(sums.total, ours), derivatives(wanted, theirs), strict=True)
    for found, expected in pairs:
        # Axolotl takes the entropy in float32.
        assert (found - expected).norm() < 1e-5 * expected.norm().clamp(min=1.0)


def test_tokens_do_not_weigh_in_their_margin_alone() -> None:
    parts = case(torch.float32, 0, 11)
    given = (parts["hidden"], parts["head"], parts["labels"], parts["smoothing"])
    with pytest.raises(ValueError, match="whole loss"):
        chunked_smoothed_ce(*given, weighting=Weighting(), with_nll=False)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 tokens in chunks of 5."""
    monkeypatch.setattr(chunked_ce, "_CHUNK_TOKENS", 5)
    monkeypatch.setattr(chunked_ce, "_LEAST_LOGITS", 1)
    monkeypatch.setattr(chunked_ce, "_LEAST_TOKENS", 1)


def weighed(packed: bool) -> dict[str, Tensor]:
    """Weights 0 to 3, of each token; every fourth weighs nothing."""
    data = batch(packed)
    weight = torch.rand(data["labels"].shape, generator=torch.Generator().manual_seed(8)) * 3.0
    return {**data, "weight": weight * (torch.arange(weight.shape[1]) % 4 > 0)}


HEADED = [name for name in HEADS if name != "LoRA on it"]


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize(
    ("name", "token", "packed"),
    [
        *(("plain", token, packed) for token in KINDS for packed in (False, True)),
        *((name, "probability", False) for name in HEADED[1:]),
        *((name, "entropy", True) for name in HEADED[1:]),
    ],
)
def test_inside_every_model(name: str, token: Any, packed: bool) -> None:
    model, data = HEADS[name]().train(), weighed(packed)
    rows = VOCAB if name == "padded" else None
    rule = Rule(weighted=True, token=token)
    objective = SmoothedObjective(innermost(model), "auto", rows, rule=rule)
    assert objective.uses_chunks(1)
    for _ in range(2):
        found = weighted_loss_of(model, data, objective)
        mine = gradients(model, found)
        wanted = weighted_loss(model, None, data, token, rows=rows)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-10)
        assert_equal_gradients(mine, gradients(model, wanted))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("prior", [False, True])
@pytest.mark.parametrize("kind", ["adapter", "model"])
def test_an_anchor_inside_a_model(kind: str, prior: bool) -> None:
    data = weighed(packed=True)
    rule = Rule(weighted=True, token="probability", anchor=0.3, prior=prior)
    if kind == "adapter":
        model, before = HEADS["frozen"]().train(), llama()
        reference: Any = partial(AdapterOff, innermost(model))
    else:
        model, before = llama(num_hidden_layers=1).train(), llama()
        reference = partial(FrozenModel, before, num_rows=None)
    objective = SmoothedObjective(innermost(model), "auto", None, reference, rule=rule)
    found = weighted_loss_of(model, data, objective)
    mine = gradients(model, found)
    wanted = weighted_loss(model, before, data, "probability", anchor=0.3, prior=prior)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-10)
    assert_equal_gradients(mine, gradients(model, wanted))
    kl, entropy, number = objective.prior
    # All 15 trained tokens that weigh something, smoothed or not.
    assert number == sum(
        label != -100 and weight > 0
        for label, weight in zip(
            data["labels"][0, 1:].tolist(), data["weight"][0, 1:].tolist(), strict=True
        )
    )
    assert kl > 0.0 < entropy


def test_a_model_that_fuses_its_loss_is_computed_in_chunks() -> None:
    """Liger's and Cut Cross Entropy's forwards call the head where there are no labels."""

    class Fused(type(llama())):
        def forward(self, input_ids: Tensor, labels: Tensor | None = None, **_: Any) -> Any:
            hidden = self.model(input_ids=input_ids).last_hidden_state
            assert labels is None
            return {"loss": None, "logits": self.lm_head(hidden)}

    model, data = llama().train(), weighed(packed=False)
    wanted = gradients(model, weighted_loss(model, None, data, "entropy"))
    model.__class__ = Fused
    objective = SmoothedObjective(model, "auto", rule=Rule(weighted=True, token="entropy"))
    found = weighted_loss_of(model, data, objective)
    assert_equal_gradients(gradients(model, found), wanted)


@pytest.mark.parametrize("rule", [Rule(weighted=True), Rule(token="entropy"), Rule(anchor=0.1)])
def test_kernels_that_cannot(rule: Rule) -> None:
    with pytest.raises(ConfigError, match=f"{rule.asked}: is computed in chunks"):
        SmoothedObjective(llama(), "model", rule=rule)
    model = innermost(HEADS["LoRA on it"]())
    with pytest.raises(UnsupportedError, match=f"{rule.asked}.*has an adapter") as caught:
        SmoothedObjective(model, "auto", rule=rule)
    assert caught.value.fix == "leave `lm_head` out of `lora_target_modules`"


@pytest.mark.parametrize("weighted", [False, True])
def test_a_batch_against_the_rule_stops(weighted: bool) -> None:
    model, data = llama().train(), weighed(packed=False)
    objective = SmoothedObjective(model, rule=Rule(weighted=weighted))
    if weighted:
        del data["weight"]
    with pytest.raises(RuntimeError, match="against the rule of its loss"):
        weighted_loss_of(model, data, objective)


def test_a_batch_that_weighs_nothing_is_a_connected_zero() -> None:
    model, data = llama().train(), weighed(packed=False)
    data["weight"] = torch.zeros_like(data["weight"])
    loss = weighted_loss_of(model, data, SmoothedObjective(model, rule=Rule(weighted=True)))
    assert loss.item() == 0.0
    found = gradients(model, loss)
    assert {name for name, _ in model.named_parameters()} == found.keys()
    assert not any(gradient.any() for gradient in found.values())
