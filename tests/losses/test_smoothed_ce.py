from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from axolotl_ual.losses.smoothed_ce import margin_sum, mean_row, shift_left
from reference.smoothed_ce import smoothed_sum


def draw(
    num_tokens: int, hidden: int, vocab: int, dtype: torch.dtype, *, bias: bool, seed: int
) -> dict[str, Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, vocab, (num_tokens,), generator=generator)
    labels[torch.rand(num_tokens, generator=generator) < 0.3] = -100
    return {
        "hidden": torch.randn(num_tokens, hidden, generator=generator, dtype=dtype),
        "weight": torch.randn(vocab, hidden, generator=generator, dtype=dtype),
        "bias": torch.randn(vocab, generator=generator, dtype=dtype) if bias else None,
        "labels": labels,
        "smoothing": torch.rand(num_tokens, generator=generator, dtype=dtype),
    }


def gradients(loss: Tensor, leaves: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def ours(parts: dict[str, Tensor | None], scale: float = 1.0) -> list[Tensor]:
    """Value and gradients of plain cross entropy plus the margin."""
    leaves = [
        part.clone().requires_grad_()
        for part in (parts["hidden"], parts["weight"], parts["bias"])
        if part is not None
    ]
    hidden, weight, bias = [*leaves, None][:3]
    logits = F.linear(hidden, weight, bias) * scale
    loss = F.cross_entropy(logits, parts["labels"], reduction="sum") + margin_sum(
        hidden, weight, parts["labels"], parts["smoothing"], bias_V=bias, scale=scale
    )
    return gradients(loss, leaves)


def theirs(parts: dict[str, Tensor | None], scale: float = 1.0) -> list[Tensor]:
    """Value and gradients of PyTorch's smoothed loss, token by token."""
    leaves = [
        part.clone().requires_grad_()
        for part in (parts["hidden"], parts["weight"], parts["bias"])
        if part is not None
    ]
    hidden, weight, bias = [*leaves, None][:3]
    logits = F.linear(hidden, weight, bias) * scale
    return gradients(smoothed_sum(logits, parts["labels"], parts["smoothing"]), leaves)


def largest_error(found: Tensor, wanted: Tensor) -> float:
    """Relative to the result; to 1, the size of what is added up, where that cancels out."""
    return float((found - wanted).norm() / wanted.norm().clamp(min=1.0))


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@given(
    num_tokens=st.integers(1, 40),
    hidden=st.integers(1, 12),
    vocab=st.integers(2, 30),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1.0, 0.125, 3.0]),
)
@settings(max_examples=40)
def test_equals_pytorch_token_by_token(
    bias: bool,
    dtype: torch.dtype,
    bound: float,
    num_tokens: int,
    hidden: int,
    vocab: int,
    seed: int,
    scale: float,
) -> None:
    parts = draw(num_tokens, hidden, vocab, dtype, bias=bias, seed=seed)
    if not (parts["labels"] != -100).any():
        parts["labels"][0] = 0
    for found, wanted in zip(ours(parts, scale), theirs(parts, scale), strict=True):
        assert largest_error(found, wanted) < bound


def test_tokens_are_chunked_without_a_seam() -> None:
    # 1024 tokens are a chunk: 2500 tokens are two whole ones and a part.
    parts = draw(2500, 3, 7, torch.float64, bias=True, seed=1)
    for found, wanted in zip(ours(parts), theirs(parts), strict=True):
        assert largest_error(found, wanted) < 1e-10


def test_value_by_hand() -> None:
    # h = (1, 2); rows (1, 0), (0, 1), (2, 2): logits 1, 2, 6, mean 3. Label 0, eps 0.5:
    # 0.5 * (1 - 3) = -1. The second token is masked and counts for nothing.
    margin = margin_sum(
        torch.tensor([[1.0, 2.0], [9.0, 9.0]]),
        torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]]),
        torch.tensor([0, -100]),
        torch.tensor([0.5, 0.5]),
    )
    assert margin.item() == -1.0


def test_rows_that_pad_the_vocabulary_get_no_target() -> None:
    # As above with a fourth row that pads: with it the mean of the logits would be infinite.
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [float("inf"), 0.0]])
    weight.requires_grad_()
    margin = margin_sum(
        torch.tensor([[1.0, 2.0]]),
        weight,
        torch.tensor([0]),
        torch.tensor([0.5]),
        mean=mean_row(weight, None, num_rows=3),
    )
    (gradient,) = torch.autograd.grad(margin, weight)
    assert margin.item() == -1.0
    # d/dw_v of 0.5 * h . (w_0 - (w_0 + w_1 + w_2) / 3): h/2 (1 - 1/3) for row 0, -h/6 for 1 and 2.
    expected = torch.tensor([[1 / 3, 2 / 3], [-1 / 6, -1 / 3], [-1 / 6, -1 / 3], [0.0, 0.0]])
    torch.testing.assert_close(gradient, expected)


def test_half_precision_is_summed_in_single() -> None:
    exact = draw(256, 64, 512, torch.float32, bias=False, seed=3)
    hidden, weight = exact["hidden"].bfloat16(), exact["weight"].bfloat16()
    arguments = (exact["labels"], exact["smoothing"])
    found = margin_sum(hidden, weight, *arguments)
    wanted = margin_sum(hidden.double(), weight.double(), *arguments)
    assert found.dtype == torch.float32
    # The inputs are the same numbers, so only the rounding of float32 sums is left.
    assert abs(found.item() - wanted.item()) < 1e-5 * abs(wanted.item())


def test_gradient_of_a_half_precision_head_is_rounded_once() -> None:
    # 4096 tokens of one class: bfloat16 additions one by one would stop growing at 256.
    hidden = torch.ones(4096, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.zeros(4096, dtype=torch.int64)
    margin_sum(hidden, weight, labels, torch.full((4096,), 0.5)).backward()
    # d/dw_0 = sum 0.5 (1 - 1/2) = 1024, d/dw_1 = -sum 0.5 / 2 = -1024.
    assert weight.grad is not None
    assert weight.grad.flatten().tolist() == [1024.0, -1024.0]


def test_no_smoothing_leaves_every_gradient_alone() -> None:
    parts = draw(64, 8, 16, torch.float32, bias=True, seed=4)
    leaves = [parts[name].requires_grad_() for name in ("hidden", "weight", "bias")]
    margin = margin_sum(
        leaves[0], leaves[1], parts["labels"], torch.zeros(64), bias_V=leaves[2], scale=2.0
    )
    assert margin.item() == 0.0
    assert all(not gradient.any() for gradient in torch.autograd.grad(margin, leaves))


def test_shift_aligns_the_next_token_with_its_predictor() -> None:
    assert shift_left(torch.tensor([[1, 2, 3]]), -100).tolist() == [[2, 3, -100]]
