"""Pair losses and chunked log-probabilities against slow references in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axolotl_ual.losses.logprobs import aligned_logprobs, token_logprobs, token_statistics
from axolotl_ual.losses.preference import (
    Flips,
    PreferenceKind,
    flip_factor,
    pair_margin,
    policy_weight,
    preference_loss,
)
from axolotl_ual.losses.target_margin import target_margins
from axolotl_ual.losses.transform import Transform
from reference.preference import (
    collision,
    ipo_pair,
    log_prob,
    robust_ipo_pair,
    robust_pair,
    sigmoid_pair,
    target_margin_descent,
)

SLOW: dict[tuple[PreferenceKind, Flips], Any] = {
    ("sigmoid", "conservative"): sigmoid_pair,
    ("sigmoid", "robust"): robust_pair,
    ("ipo", "conservative"): ipo_pair,
    ("ipo", "robust"): robust_ipo_pair,
}


@pytest.mark.parametrize(("kind", "flips"), list(SLOW))
def test_pairs_equal_the_formula(kind: PreferenceKind, flips: Flips) -> None:
    generator = torch.Generator().manual_seed(0)
    margin = (4 * torch.randn(50, generator=generator, dtype=torch.float64)).requires_grad_()
    eps = 0.49 * torch.rand(50, generator=generator, dtype=torch.float64)
    beta = 0.05 + torch.rand(50, generator=generator, dtype=torch.float64)
    base, penalty = preference_loss(margin, flip_factor(eps, flips), beta, kind)
    slow = SLOW[kind, flips]
    expected = torch.stack(
        [slow(m, float(e), float(b)) for m, e, b in zip(margin, eps, beta, strict=True)]
    )
    torch.testing.assert_close(base + penalty, expected, rtol=1e-12, atol=1e-13)
    (ours,) = torch.autograd.grad((base + penalty).sum(), margin)
    (theirs,) = torch.autograd.grad(expected.sum(), margin)
    torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)


def test_one_pair_by_hand() -> None:
    # z = 0.5 * 2 = 1; -log sigma(1) = log(1 + e^-1) = 0.313262; eps z = 0.25 * 1.
    base, penalty = preference_loss(
        torch.tensor([2.0]), torch.tensor([0.25]), torch.tensor([0.5]), "sigmoid"
    )
    assert base.item() == pytest.approx(0.313262, abs=1e-6)
    assert penalty.item() == 0.25
    # c = 1 / (2 * 0.5) = 1; (2 - 1)^2 = 1; eps * 2 h / beta = 0.25 * 4 / 0.5 = 2.
    base, penalty = preference_loss(
        torch.tensor([2.0]), torch.tensor([0.25]), torch.tensor([0.5]), "ipo"
    )
    assert (base.item(), penalty.item()) == (1.0, 2.0)


def test_the_robust_loss_is_right_on_average_over_flips() -> None:
    # A share of 0.2 of the labels flipped: 0.8 of the pairs have margin h and 0.2 have -h, and the
    # mean of their robust losses is the plain loss of h.
    margin, eps, beta = torch.tensor([1.5, -1.5]), torch.tensor([0.2, 0.2]), torch.ones(2)
    base, penalty = preference_loss(margin, flip_factor(eps, "robust"), beta, "sigmoid")
    right, wrong = (base + penalty).tolist()
    assert 0.8 * right + 0.2 * wrong == pytest.approx(base[0].item(), abs=1e-6)


def test_nothing_to_weigh_leaves_the_bits() -> None:
    margin, none, beta = torch.randn(9), torch.zeros(9), torch.full((9,), 0.1)
    base, penalty = preference_loss(margin - none / beta, none, beta, "sigmoid")
    assert flip_factor(none, "robust").abs().equal(none)
    assert (base + penalty).equal(-F.logsigmoid(beta * margin))


def test_the_weight_of_a_pair_by_hand() -> None:
    # Chosen: two tokens, log-ratios to the aligning sum -1 and -3, mean -2. Rejected: one of -0.5.
    logprobs = torch.tensor([[-2.0, -4.0, 0.0], [0.0, -1.5, 0.0]], requires_grad=True)
    collisions = torch.tensor([[-1.0, -1.0, 0.0], [0.0, -1.0, 0.0]])
    weight = policy_weight(logprobs, collisions, torch.tensor([2, 1]))
    assert weight.tolist() == pytest.approx([torch.tensor(-2.5).exp().item()])
    assert not weight.requires_grad
    # Without tokens the mean of none is 0: the weight is 1.
    assert policy_weight(logprobs[:, :0], collisions[:, :0], torch.zeros(2)).tolist() == [1.0]


GAPS = [0.9, 0.1, 0.5, 0.5, 2.0, -1.0]


@pytest.mark.parametrize(("mean", "tau"), [(0.5, 0.1), (2.0, 0.5), (0.4, 10.0)])
def test_target_margins_minimise_the_objective(mean: float, tau: float) -> None:
    found = target_margins(GAPS, mean, tau)
    assert found.tolist() == pytest.approx(target_margin_descent(GAPS, mean, tau), abs=1e-9)
    assert found.mean() == pytest.approx(0.0, abs=1e-12)
    assert found.min() > -mean
    ascending = found[[5, 1, 2, 0, 4]]
    assert (ascending[1:] > ascending[:-1]).all() and found[2] == found[3]


def test_equal_gaps_shift_nothing_and_steep_ones_stay_finite() -> None:
    assert target_margins([0.3] * 4, 0.5, 0.1).tolist() == [0.0] * 4
    steep = target_margins([0.0, 0.0, 0.0, 5.0], 1.0, 0.01)
    # Nearly all of the margin is the wide pair's: 4 times the mean, less the mean.
    assert steep == pytest.approx([-1.0, -1.0, -1.0, 3.0], abs=0.2)


def test_large_margins_stay_finite() -> None:
    margin = torch.tensor([-1e4, 1e4])
    base, penalty = preference_loss(margin, torch.tensor([0.1, 0.1]), torch.ones(2), "sigmoid")
    assert torch.equal(base + penalty, torch.tensor([1e4 - 1e3, 1e3]))


def test_margins_compare_chosen_with_rejected_and_for_ipo_by_token() -> None:
    # Two pairs; chosen ratios 3 and 2 over 3 and 0 tokens, rejected 1 and -4 over 2 and 8.
    ratio, lengths = torch.tensor([3.0, 2.0, 1.0, -4.0]), torch.tensor([3, 0, 2, 8])
    assert pair_margin(ratio, lengths, "sigmoid").tolist() == [2.0, 6.0]
    assert pair_margin(ratio, lengths, "ipo").tolist() == [0.5, 2.5]


def case(dtype: torch.dtype, trained: bool, bias: bool = True) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(0)
    head = nn.Linear(16, 97, bias=bias, dtype=dtype).requires_grad_(trained)
    hidden = torch.randn(23, 16, dtype=dtype, requires_grad=True)
    return hidden, torch.randint(0, 97, (23,)), head


@pytest.mark.parametrize("chunk", [1, 7, 23, 100])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("transform", [Transform(), Transform(0.5), Transform(2.0, 3.0)])
def test_logprobs_and_gradients_equal_the_reference(
    chunk: int, trained: bool, transform: Transform
) -> None:
    hidden, labels, head = case(torch.float64, trained)
    weights = torch.randn(23, dtype=torch.float64)
    wanted = [hidden, *(head.parameters() if trained else [])]
    ours = token_logprobs(
        hidden, labels, head, list(head.parameters()), transform=transform, chunk=chunk
    )
    logits = head(hidden) * transform.scale
    if transform.cap:
        logits = transform.cap * torch.tanh(logits / transform.cap)
    expected = torch.stack([log_prob(x, int(y)) for x, y in zip(logits, labels, strict=True)])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)
    grads = torch.autograd.grad((ours * weights).sum(), wanted)
    slow = torch.autograd.grad((expected * weights).sum(), wanted)
    for one, other in zip(grads, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("chunk", [4, 100])
def test_aligned_logprobs_have_one_gradient(chunk: int) -> None:
    hidden, labels, head = case(torch.float64, True)
    parameters = list(head.parameters())
    logprobs, collisions = aligned_logprobs(hidden, labels, head, parameters, chunk=chunk)
    plain = token_logprobs(hidden, labels, head, parameters, chunk=chunk)
    assert logprobs.equal(plain)
    torch.testing.assert_close(collisions, torch.stack([collision(x) for x in head(hidden)]))
    wanted = [hidden, *parameters]
    for one, other in zip(
        torch.autograd.grad((logprobs + collisions).sum(), wanted),
        torch.autograd.grad(plain.sum(), wanted),
        strict=True,
    ):
        assert one.equal(other)


@pytest.mark.parametrize("chunk", [4, 100])
def test_statistics_of_a_prediction(chunk: int) -> None:
    hidden, labels, head = case(torch.float64, False)
    logp = F.log_softmax(head(hidden), dim=-1)
    labels[:5] = logp[:5].argmax(dim=-1)
    ours = token_statistics(hidden, labels, head, chunk=chunk)
    expected = [logp.gather(1, labels[:, None])[:, 0], logp.amax(1), logp.argmax(1) == labels]
    expected.append(-(logp.exp() * logp).sum(1))
    torch.testing.assert_close(ours, torch.stack([part.double() for part in expected]))
    assert ours[2, :5].tolist() == [1.0] * 5


def test_bfloat16_is_summed_in_float32() -> None:
    hidden, labels, head = case(torch.bfloat16, False)
    ours = token_logprobs(hidden, labels, head, [], chunk=5)
    expected = F.log_softmax(head(hidden).float(), dim=-1)[torch.arange(23), labels]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    ours.sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16


@pytest.mark.parametrize("chunk", [512, 4])
def test_gradients_of_the_head_add_up_in_float32(chunk: int) -> None:
    # One chunk and 128. Summed in bfloat16 over 128 chunks, the error is above 1 %.
    torch.manual_seed(0)
    head = nn.Linear(16, 40, dtype=torch.bfloat16)
    hidden, labels = torch.randn(512, 16).bfloat16(), torch.randint(0, 40, (512,))
    exact = nn.Linear(16, 40, dtype=torch.float64)
    exact.load_state_dict(head.state_dict())
    ours = token_logprobs(hidden, labels, head, list(head.parameters()), chunk=chunk)
    theirs = F.log_softmax(exact(hidden.double()), dim=-1)[torch.arange(512), labels]
    found = torch.autograd.grad(ours.sum(), list(head.parameters()))
    wanted = torch.autograd.grad(theirs.sum(), list(exact.parameters()))
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.bfloat16
        assert (one.double() - other).norm() < 0.004 * other.norm()


def test_autocast_of_the_forward_pass_holds_in_the_backward_pass() -> None:
    hidden, labels, head = case(torch.float32, True)
    seen: list[torch.dtype] = []

    def watched(x: Tensor) -> Tensor:
        logits = head(x)
        seen.append(logits.dtype)
        return logits

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = token_logprobs(hidden, labels, watched, list(head.parameters()), chunk=23).sum()
    loss.backward()
    assert seen == [torch.bfloat16, torch.bfloat16]


def test_no_completion_tokens_give_an_empty_connected_result() -> None:
    hidden, _, head = case(torch.float32, True)
    ours = token_logprobs(
        hidden[:0], torch.empty(0, dtype=torch.int64), head, list(head.parameters())
    )
    ours.sum().backward()
    assert ours.shape == (0,)
    assert hidden.grad is not None and not hidden.grad.any()
    assert head.weight.grad is not None and not head.weight.grad.any()


@pytest.mark.parametrize("chunk", [5, 23])
def test_dropout_before_the_head_is_the_same_in_both_passes(chunk: int) -> None:
    """The directional derivative by differences, from one seed, is that of the backward pass."""
    hidden, labels, linear = case(torch.float64, True)
    head = nn.Sequential(nn.Dropout(0.5), linear)
    parameters = list(head.parameters())
    direction = torch.randn_like(hidden)

    def value(step: float) -> Tensor:
        torch.manual_seed(3)
        moved = hidden + step * direction
        return token_logprobs(moved, labels, head, parameters, chunk=chunk).sum()

    slope = ((value(1e-5) - value(-1e-5)) / 2e-5).item()
    torch.manual_seed(3)
    total = token_logprobs(hidden, labels, head, parameters, chunk=chunk).sum()
    later = torch.rand(3)
    torch.manual_seed(4)
    expected = torch.rand(3)
    torch.manual_seed(4)
    total.backward()
    # What the backward pass draws again takes nothing from the generator.
    assert torch.rand(3).equal(expected) and not later.equal(expected)
    assert hidden.grad is not None
    assert (hidden.grad * direction).sum().item() == pytest.approx(slope, rel=1e-6)
