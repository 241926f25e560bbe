"""The reference prior, in float64, against full logits token by token."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import assert_equal_gradients, gradients, innermost, smoothed_loss, weights
from torch import Tensor
from torch.nn import functional as F

from axolotl_ual.errors import UnsupportedError
from axolotl_ual.losses import chunked_ce
from axolotl_ual.losses.chunked_ce import chunked_smoothed_ce
from axolotl_ual.losses.encoding import encode_smoothing
from axolotl_ual.losses.heads import Head
from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.prior import Reference
from axolotl_ual.losses.reference import AdapterOff, FrozenModel
from axolotl_ual.losses.smoothed_ce import mean_row
from axolotl_ual.losses.transform import Transform
from reference.models import HEADS, VOCAB, adapted, batch, llama
from reference.prior import prior_loss, prior_sum

N, H, V = 13, 5, 11


def case(seed: int, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    draw = {"generator": generator, "dtype": dtype}
    labels = torch.randint(0, V - 2, (N,), generator=generator)
    labels[::4] = -100
    smoothing = torch.rand(N, **draw)
    smoothing[::3] = 0.0
    return {
        "hidden": torch.randn(N, H, **draw),
        "weight": torch.randn(V, H, **draw),
        "bias": torch.randn(V, **draw),
        "labels": labels,
        "smoothing": smoothing,
        "reference": torch.randn(N, H + 2, **draw),
        "reference_weight": torch.randn(V, H + 2, **draw),
        "reference_bias": torch.randn(V, **draw),
    }


def leaves(parts: dict[str, Tensor]) -> list[Tensor]:
    return [parts[name].clone().requires_grad_() for name in ("hidden", "weight", "bias")]


def derivatives(loss: Tensor, at: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss * 3.0, at)]


def assert_close(found: list[Tensor], wanted: list[Tensor], bound: float = 1e-10) -> None:
    for mine, expected in zip(found, wanted, strict=True):
        assert (mine - expected).norm() < bound * expected.norm().clamp(min=1.0)


@pytest.mark.parametrize("transform", [Transform(), Transform(0.25), Transform(2.0, 1.5)])
@pytest.mark.parametrize("rows", [None, V - 2])
@pytest.mark.parametrize("with_nll", [True, False])
@given(tokens=st.integers(1, 14), seed=st.integers(0, 2**31), temperature=st.floats(0.3, 3.0))
@settings(max_examples=8)
def test_equals_full_logits_token_by_token(
    transform: Transform,
    rows: int | None,
    with_nll: bool,
    tokens: int,
    seed: int,
    temperature: float,
) -> None:
    parts = case(seed)
    ours, theirs = leaves(parts), leaves(parts)
    prior = Reference(
        parts["reference"],
        parts["reference_weight"],
        parts["reference_bias"],
        transform,
        temperature,
        rows,
    )
    sums = chunked_smoothed_ce(
        ours[0],
        ours[1],
        parts["labels"],
        parts["smoothing"],
        bias_V=ours[2],
        transform=transform,
        mean=mean_row(ours[1], ours[2], rows),
        prior=prior,
        with_nll=with_nll,
        tokens=tokens,
    )
    logits = transform(F.linear(*theirs))
    raw = F.linear(parts["reference"], parts["reference_weight"], parts["reference_bias"])
    asked = transform(raw)[:, :rows] / temperature
    wanted = prior_sum(logits, asked, parts["labels"], parts["smoothing"])
    nll = F.cross_entropy(logits, parts["labels"], reduction="sum")
    if not with_nll:
        wanted = wanted - nll
    assert_close(derivatives(sums.total, ours), derivatives(wanted, theirs))
    if with_nll:
        assert_close([sums.nll, sums.nll + sums.margin], [nll, sums.total])
    # KL(r || p) and H(r) over the smoothed tokens alone.
    smoothed = (parts["labels"] != -100) & (parts["smoothing"] > 0)
    r, log_p = asked.softmax(dim=1), logits.log_softmax(dim=1)[:, : asked.shape[1]]
    entropy = torch.special.entr(r).sum(dim=1)
    kl = -(r * log_p).sum(dim=1) - entropy
    wanted_prior = torch.stack([kl[smoothed].sum(), entropy[smoothed].sum(), smoothed.sum()])
    assert_close([sums.prior], [wanted_prior])


@pytest.mark.parametrize("rows", [None, V - 2])
@pytest.mark.parametrize("transform", [Transform(), Transform(2.0, 1.5)])
def test_a_uniform_reference_is_the_uniform_prior(rows: int | None, transform: Transform) -> None:
    parts = case(3)
    mean = mean_row(parts["weight"], parts["bias"], rows)
    # Hidden states of 0 predict every token alike.
    flat = Reference(torch.zeros(N, H), parts["weight"] * 1.0, None, Transform(), 1.0, rows)
    found = []
    for prior in (None, flat):
        at = leaves(parts)
        total = chunked_smoothed_ce(
            at[0],
            at[1],
            parts["labels"],
            parts["smoothing"],
            bias_V=at[2],
            transform=transform,
            mean=mean,
            prior=prior,
            tokens=4,
        ).total
        found.append(derivatives(total, at))
    assert_close(found[1], found[0])


def test_without_smoothing_nothing_is_asked_and_the_loss_is_the_plain_one() -> None:
    class Untouched:
        def target(self, part: Any, scratch: Any) -> Any:
            raise AssertionError("asked for tokens without smoothing")

    parts = case(1, torch.float32)
    given_parts = (parts["hidden"], parts["weight"], parts["labels"], torch.zeros(N))
    plain = chunked_smoothed_ce(*given_parts)
    found = chunked_smoothed_ce(*given_parts, prior=Untouched())
    assert found.total.equal(plain.total) and found.nll.equal(plain.nll)


@pytest.fixture
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 tokens in chunks of 5, and of 2 beside a reference."""
    monkeypatch.setattr(chunked_ce, "_CHUNK_TOKENS", 5)
    monkeypatch.setattr(chunked_ce, "_LEAST_LOGITS", 1)
    monkeypatch.setattr(chunked_ce, "_LEAST_TOKENS", 1)


ADAPTED = ("frozen", "LoRA on it", "modules_to_save")


def other(name: str) -> Any:
    """A model of the same kind with other weights."""
    model = HEADS[name]()
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kernel", ["model", "chunked"])
@pytest.mark.parametrize("name", HEADS)
def test_value_and_every_gradient(name: str, kernel: str, packed: bool) -> None:
    if name == "LoRA on it" and kernel == "chunked":
        kernel = "auto"
    model, data = HEADS[name]().train(), batch(packed)
    data["smoothing"][..., 6:9] = 0.0
    num_rows = VOCAB if name == "padded" else None
    before = None if name in ADAPTED else other(name)

    def reference(head: Head) -> Any:
        if before is None:
            return AdapterOff(innermost(model), head)
        return FrozenModel(before, head, num_rows)

    objective = SmoothedObjective(innermost(model), kernel, num_rows, reference, 1.5)
    for seed in (1, 2):
        torch.manual_seed(seed)
        found = smoothed_loss(model, data, objective)
        mine = gradients(model, found)
        torch.manual_seed(seed)
        wanted = prior_loss(model, before, data, 1.5, num_rows)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-10)
        assert_equal_gradients(mine, gradients(model, wanted))
    assert all(module.training for module in model.modules())


def test_the_reference_draws_no_dropout() -> None:
    model, data = adapted().train(), batch()
    for layer in innermost(model).model.layers:
        layer.self_attn.attention_dropout = 0.5
    inner = innermost(model)
    objective = SmoothedObjective(inner, "chunked", reference=partial(AdapterOff, inner))
    torch.manual_seed(1)
    found = smoothed_loss(model, data, objective)
    torch.manual_seed(1)
    wanted = prior_loss(model, None, data, 1.0)
    assert found.item() == pytest.approx(wanted.item(), rel=1e-10)


@pytest.mark.parametrize(
    "how",
    [
        "checkpointing",
        "reentrant checkpointing",
        pytest.param("compiled", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kernel", ["model", "chunked"])
def test_beside_what_changes_the_forward(kernel: str, how: str) -> None:
    model, data = adapted().train(), batch()
    wanted = gradients(model, prior_loss(model, None, data, 1.0))
    inner = innermost(model)
    objective = SmoothedObjective(inner, kernel, reference=partial(AdapterOff, inner))
    if how == "compiled":
        torch._dynamo.reset()
        inputs = {key: value for key, value in data.items() if key != "smoothing"}
        objective.weights = weights(data["labels"])
        with objective.installed():
            compiled = torch.compile(model, backend="eager")
            loss = compiled(**inputs, ual_smoothing=encode_smoothing(data["smoothing"])).loss
    else:
        inner.gradient_checkpointing_enable({"use_reentrant": how.startswith("reentrant")})
        inner.enable_input_require_grads()
        loss = smoothed_loss(model, data, objective)
    assert_equal_gradients(gradients(model, loss), wanted)


@pytest.mark.parametrize("kernel", ["model", "chunked"])
def test_zero_smoothing_is_bit_equal(kernel: str) -> None:
    model, data = adapted(lora_dropout=0.3).train(), batch()
    data["smoothing"] = torch.zeros_like(data["smoothing"])
    found = []
    for with_reference in (False, True):
        reference = partial(AdapterOff, innermost(model)) if with_reference else None
        objective = SmoothedObjective(innermost(model), kernel, reference=reference)
        torch.manual_seed(1)
        loss = smoothed_loss(model, data, objective)
        found.append((loss, gradients(model, loss)))
    assert found[0][0].equal(found[1][0])
    assert all(found[0][1][name].equal(found[1][1][name]) for name in found[0][1])


def test_a_model_without_an_adapter_needs_a_reference() -> None:
    model = llama()
    with pytest.raises(UnsupportedError, match=r"(?s)no adapter.*ual\.smoothing\.reference"):
        AdapterOff(model, Head(model))


def test_weights_that_train_below_an_adapter_are_refused() -> None:
    model = innermost(adapted())
    model.model.norm.weight.requires_grad_(True)
    with pytest.raises(UnsupportedError, match=r"`model\.norm\.weight` is trained and"):
        AdapterOff(model, Head(model))


def test_a_reference_of_fewer_tokens_is_refused() -> None:
    model = llama()
    with pytest.raises(UnsupportedError, match="has 30 rows, and the model that trains has 37"):
        FrozenModel(llama(vocab_size=30), Head(model), None)
