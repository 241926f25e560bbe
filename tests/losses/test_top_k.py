"""The kept tokens of a reference as the prior, against full logits token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import gradients, innermost, smoothed_loss
from torch import Tensor
from torch.nn import functional as F

from axolotl_ual.losses import top_k
from axolotl_ual.losses.chunked_ce import chunked_smoothed_ce
from axolotl_ual.losses.encoding import decode_smoothing, encode_smoothing
from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.smoothed_ce import accumulation_dtype, mean_row
from axolotl_ual.losses.top_k import TopK, top_k_margin
from axolotl_ual.losses.transform import Transform
from reference.models import HEADS, VOCAB, batch
from reference.prior import prior_sum

N, H, V = 13, 5, 11


class Case:
    """Random tokens, and a reference of which so many rows are kept."""

    def __init__(self, seed: int, kept: int, rows: int = V) -> None:
        generator = torch.Generator().manual_seed(seed)
        draw: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        self.labels = torch.randint(0, rows, (N,), generator=generator)
        self.labels[::4] = -100
        self.smoothing = torch.rand(N, **draw)
        self.smoothing[::3] = 0.0
        shapes = {"hidden": (N, H), "weight": (V, H), "bias": (V,)}
        self.given = {name: torch.randn(*shape, **draw) for name, shape in shapes.items()}
        self.whole = torch.randn(N, rows, **draw).softmax(dim=1)
        top = self.whole.topk(kept, dim=1)
        self.prior = TopK(top.indices, top.values, rows)
        self.rest = 1.0 - top.values.sum(dim=1, keepdim=True)
        self.spread = (self.rest / rows).expand(N, rows).scatter_add(1, top.indices, top.values)

    def leaves(self) -> list[Tensor]:
        return [part.clone().requires_grad_() for part in self.given.values()]


def assert_close(found: list[Tensor], wanted: list[Tensor], bound: float = 1e-10) -> None:
    for mine, expected in zip(found, wanted, strict=True):
        assert (mine - expected).norm() < bound * expected.norm().clamp(min=1.0)


def derivatives(loss: Tensor, at: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss * 3.0, at)]


@pytest.mark.parametrize("transform", [Transform(), Transform(0.25), Transform(2.0, 1.5)])
@pytest.mark.parametrize("rows", [V, V - 2])
@given(kept=st.integers(1, V - 2), tokens=st.integers(1, 14), seed=st.integers(0, 2**31))
@settings(max_examples=10, deadline=None)
def test_kept_tokens_and_the_rest_spread_evenly(
    transform: Transform, rows: int, kept: int, tokens: int, seed: int
) -> None:
    case = Case(seed, kept, rows)
    ours, theirs = case.leaves(), case.leaves()
    sums = chunked_smoothed_ce(
        ours[0],
        ours[1],
        case.labels,
        case.smoothing,
        bias_V=ours[2],
        transform=transform,
        mean=mean_row(ours[1], ours[2], rows),
        prior=case.prior,
        tokens=tokens,
    )
    logits = transform(F.linear(*theirs))
    wanted = prior_sum(logits, case.spread.log(), case.labels, case.smoothing)
    assert_close(derivatives(sums.total, ours), derivatives(wanted, theirs))
    smoothed = (case.labels != -100) & (case.smoothing > 0)
    entropy = torch.special.entr(case.spread).sum(dim=1)
    kl = -(case.spread * logits.log_softmax(dim=1)[:, :rows]).sum(dim=1) - entropy
    expected = torch.stack([kl[smoothed].sum(), entropy[smoothed].sum(), smoothed.sum()])
    assert_close([sums.prior], [expected])


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gathered", [1, 2**24])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.bfloat16, 1e-6)])
def test_a_frozen_head_needs_no_logits(
    dtype: torch.dtype, bound: float, gathered: int, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(top_k, "_MOST_GATHERED", gathered)
    case = Case(5, 3, V - 2)
    hidden, *head = (part.to(dtype) for part in case.given.values())
    weight, shift = head[0], head[1] if bias else None
    mean = mean_row(weight, shift, V - 2)
    given_parts = (weight, case.labels, case.smoothing)
    # Autocast gives hidden states of a wider dtype than the head's own.
    mine = hidden.to(accumulation_dtype(dtype)).requires_grad_()
    margin = top_k_margin(mine, *given_parts, case.prior, bias_V=shift, mean=mean, scale=0.5)
    theirs = hidden.double().requires_grad_()
    logits = 0.5 * F.linear(theirs, weight.double(), None if shift is None else shift.double())
    nll = F.cross_entropy(logits, case.labels, reduction="sum")
    wanted = prior_sum(logits, case.spread.log(), case.labels, case.smoothing) - nll
    assert_close(derivatives(margin, [mine]), derivatives(wanted, [theirs]), bound)


@given(kept=st.integers(1, V), seed=st.integers(0, 2**31))
def test_the_stated_bounds_hold(kept: int, seed: int) -> None:
    case = Case(seed, kept)
    off = (case.spread - case.whole).abs().sum(dim=1)
    assert (off <= 2 * case.rest[:, 0] + 1e-12).all()
    logits = F.linear(*case.given.values())
    width = logits.amax(dim=1) - logits.amin(dim=1)
    loss = ((case.spread - case.whole) * logits).sum(dim=1).abs()
    assert (loss <= case.rest[:, 0] * width + 1e-12).all()


def test_no_kept_token_is_the_uniform_prior() -> None:
    case = Case(2, 1)
    none = TopK(torch.zeros(N, 1, dtype=torch.int64), torch.zeros(N, 1), V)
    found = []
    for prior in (None, none):
        hidden, weight, bias = case.leaves()
        given_parts = (hidden, weight, case.labels, case.smoothing)
        sums = chunked_smoothed_ce(*given_parts, bias_V=bias, prior=prior)
        found.append(derivatives(sums.total, [hidden, weight, bias]))
    assert_close(found[1], found[0])


def kept_of(data: dict[str, Tensor], rows: int) -> tuple[dict[str, Tensor], Tensor]:
    """What a collator would give for 3 kept tokens of a made-up reference, and its mass."""
    torch.manual_seed(4)
    whole = torch.randn(*data["labels"].shape, rows).softmax(dim=-1)
    top = whole.topk(3, dim=-1)
    bits = encode_smoothing(top.values.log())
    mass = decode_smoothing(bits).exp().double()
    rest = (1.0 - mass.sum(dim=-1, keepdim=True)) / rows
    spread = rest.expand(whole.shape).scatter_add(-1, top.indices, mass)
    given_parts = {"ual_reference_ids": top.indices.int(), "ual_reference_logprobs": bits}
    return given_parts, spread


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("kernel", ["model", "chunked"])
@pytest.mark.parametrize("name", HEADS)
def test_in_a_models_forward(name: str, kernel: str, packed: bool) -> None:
    if name == "LoRA on it" and kernel == "chunked":
        kernel = "auto"
    model, data = HEADS[name]().train(), batch(packed)
    given_parts, spread = kept_of(data, VOCAB)
    num_rows = VOCAB if name == "padded" else None
    objective = SmoothedObjective(innermost(model), kernel, num_rows)
    for seed in (1, 2):
        torch.manual_seed(seed)
        found = smoothed_loss(model, {**data, **given_parts}, objective)
        mine = gradients(model, found)
        torch.manual_seed(seed)
        inputs = {key: value for key, value in data.items() if key not in ("labels", "smoothing")}
        outputs = model(**inputs)
        wanted = prior_sum(
            outputs.logits[:, :-1].flatten(0, 1),
            spread[:, 1:].flatten(0, 1).log(),
            data["labels"][:, 1:].flatten(),
            data["smoothing"][:, 1:].flatten().double(),
        )
        wanted = wanted / (data["labels"][:, 1:] != -100).sum()
        if outputs.get("aux_loss") is not None:
            wanted = wanted + 0.1 * outputs.aux_loss
        # Log-probabilities travel as float32, and so does what they leave.
        assert found.item() == pytest.approx(wanted.item(), rel=1e-6)
        theirs = gradients(model, wanted)
        assert mine.keys() == theirs.keys()
        for key, expected in theirs.items():
            assert (mine[key] - expected).norm() < 1e-5 * expected.norm().clamp(min=1e-3), key
