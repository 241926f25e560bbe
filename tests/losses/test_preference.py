"""Pair losses and chunked log-probabilities against slow references in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from axolotl_ual.losses.logprobs import LogitTransform, token_logprobs
from axolotl_ual.losses.preference import PreferenceKind, preference_loss, sequence_scores
from tests.reference.preference import ipo_pair, log_prob, sigmoid_pair

KINDS: dict[PreferenceKind, Any] = {"sigmoid": sigmoid_pair, "ipo": ipo_pair}


@pytest.mark.parametrize("kind", ["sigmoid", "ipo"])
def test_pairs_equal_the_formula(kind: PreferenceKind) -> None:
    generator = torch.Generator().manual_seed(0)
    margin = (4 * torch.randn(50, generator=generator, dtype=torch.float64)).requires_grad_()
    eps = 0.49 * torch.rand(50, generator=generator, dtype=torch.float64)
    beta = 0.05 + torch.rand(50, generator=generator, dtype=torch.float64)
    base, penalty = preference_loss(margin, eps, beta, kind)
    expected = torch.stack(
        [KINDS[kind](m, float(e), float(b)) for m, e, b in zip(margin, eps, beta, strict=True)]
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


def test_large_margins_stay_finite() -> None:
    margin = torch.tensor([-1e4, 1e4])
    base, penalty = preference_loss(margin, torch.tensor([0.1, 0.1]), torch.ones(2), "sigmoid")
    assert torch.equal(base + penalty, torch.tensor([1e4 - 1e3, 1e3]))


def test_scores_are_sums_and_for_ipo_means_over_the_completion() -> None:
    logps = torch.tensor([[-9.0, -1.0, -2.0], [-9.0, -4.0, float("-inf")], [-1.0, -1.0, -1.0]])
    mask = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 0, 0]])
    assert sequence_scores(logps, mask, "sigmoid").tolist() == [-3.0, -4.0, 0.0]
    assert sequence_scores(logps, mask, "ipo").tolist() == [-1.5, -4.0, 0.0]


def case(dtype: torch.dtype, trained: bool, bias: bool = True) -> tuple[Tensor, Tensor, nn.Linear]:
    torch.manual_seed(0)
    head = nn.Linear(16, 97, bias=bias, dtype=dtype).requires_grad_(trained)
    hidden = torch.randn(23, 16, dtype=dtype, requires_grad=True)
    return hidden, torch.randint(0, 97, (23,)), head


@pytest.mark.parametrize("chunk", [1, 7, 23, 100])
@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    "transform", [LogitTransform(), LogitTransform(0.5), LogitTransform(2.0, 3.0)]
)
def test_logprobs_and_gradients_equal_the_reference(
    chunk: int, trained: bool, transform: LogitTransform
) -> None:
    hidden, labels, head = case(torch.float64, trained)
    weights = torch.randn(23, dtype=torch.float64)
    wanted = [hidden, *(head.parameters() if trained else [])]
    ours = token_logprobs(
        hidden, labels, head, list(head.parameters()), transform=transform, chunk=chunk
    )
    logits = head(hidden) * transform.scale
    if transform.soft_cap:
        logits = transform.soft_cap * torch.tanh(logits / transform.soft_cap)
    expected = torch.stack([log_prob(x, int(y)) for x, y in zip(logits, labels, strict=True)])
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-13)
    grads = torch.autograd.grad((ours * weights).sum(), wanted)
    slow = torch.autograd.grad((expected * weights).sum(), wanted)
    for one, other in zip(grads, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-13)


def test_bfloat16_is_summed_in_float32() -> None:
    hidden, labels, head = case(torch.bfloat16, False)
    ours = token_logprobs(hidden, labels, head, [], chunk=5)
    expected = F.log_softmax(head(hidden).float(), dim=-1)[torch.arange(23), labels]
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)
    ours.sum().backward()
    assert hidden.grad is not None and hidden.grad.dtype == torch.bfloat16


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
