from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from axolotl_ual.losses import chunked_ce
from axolotl_ual.losses.chunked_ce import chunk_tokens, chunked_smoothed_ce, equal_chunks
from axolotl_ual.losses.smoothed_ce import mean_row
from axolotl_ual.losses.transform import Transform
from reference.smoothed_ce import smoothed_sum


def case(dtype: torch.dtype, bias: bool, seed: int = 0, vocab: int = 11) -> list[Tensor | None]:
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(13, 5, generator=generator, dtype=dtype)
    weight = torch.randn(vocab, 5, generator=generator, dtype=dtype)
    offset = torch.randn(vocab, generator=generator, dtype=dtype) if bias else None
    labels = torch.randint(0, vocab, (13,), generator=generator)
    labels[::4] = -100
    smoothing = torch.rand(13, generator=generator, dtype=dtype)
    return [hidden, weight, offset, labels, smoothing]


def leaves(parts: list[Tensor | None]) -> list[Tensor]:
    return [part.clone().requires_grad_() for part in parts[:3] if part is not None]


def derivatives(loss: Tensor, at: list[Tensor]) -> list[Tensor]:
    return [loss.detach(), *torch.autograd.grad(loss * 3.0, at)]


@pytest.mark.parametrize("transform", [Transform(), Transform(0.25), Transform(2.0, 1.5)])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@given(tokens=st.integers(1, 14), seed=st.integers(0, 2**31))
@settings(max_examples=15)
def test_equals_pytorch_token_by_token(
    transform: Transform, bias: bool, dtype: torch.dtype, bound: float, tokens: int, seed: int
) -> None:
    parts = case(dtype, bias, seed)
    ours, theirs = leaves(parts), leaves(parts)
    sums = chunked_smoothed_ce(
        ours[0],
        ours[1],
        parts[3],
        parts[4],
        bias_V=ours[2] if bias else None,
        transform=transform,
        tokens=tokens,
    )
    logits = transform(F.linear(*theirs))
    wanted = smoothed_sum(logits, parts[3], parts[4])
    plain = F.cross_entropy(logits, parts[3], reduction="sum")
    pairs = zip(derivatives(sums.total, ours), derivatives(wanted, theirs), strict=True)
    for found, expected in pairs:
        assert (found - expected).norm() < bound * expected.norm().clamp(min=1.0)
    torch.testing.assert_close(sums.nll, plain, rtol=bound, atol=bound)
    torch.testing.assert_close(sums.nll + sums.margin, sums.total, rtol=bound, atol=bound)


def test_margin_alone_under_a_soft_cap() -> None:
    parts = case(torch.float64, bias=True)
    transform = Transform(1.0, 2.0)
    ours, theirs = leaves(parts), leaves(parts)
    arguments = {"bias_V": ours[2], "transform": transform, "tokens": 4}
    found = chunked_smoothed_ce(
        ours[0], ours[1], parts[3], parts[4], with_nll=False, **arguments
    ).total
    logits = transform(F.linear(*theirs))
    wanted = smoothed_sum(logits, parts[3], parts[4]) - F.cross_entropy(
        logits, parts[3], reduction="sum"
    )
    for mine, expected in zip(derivatives(found, ours), derivatives(wanted, theirs), strict=True):
        assert (mine - expected).norm() < 1e-10 * expected.norm().clamp(min=1.0)


def test_a_padded_vocabulary_is_left_out_of_the_target() -> None:
    # With 8 real rows of 11, and the others at -inf, the loss is that of the first 8 alone.
    parts = case(torch.float64, bias=True)
    parts[3] = torch.where(parts[3] >= 8, 7, parts[3])
    parts[2] = torch.cat([parts[2][:8], torch.full((3,), float("-inf"), dtype=torch.float64)])
    ours, theirs = leaves(parts), leaves(parts)
    sums = chunked_smoothed_ce(
        ours[0],
        ours[1],
        parts[3],
        parts[4],
        bias_V=ours[2],
        mean=mean_row(ours[1], ours[2], 8),
        tokens=5,
    )
    logits = F.linear(theirs[0], theirs[1][:8], theirs[2][:8])
    wanted = smoothed_sum(logits, parts[3], parts[4])
    for found, expected in zip(
        derivatives(sums.total, ours), derivatives(wanted, theirs), strict=True
    ):
        assert torch.isfinite(found).all()
        assert (found - expected).norm() < 1e-10 * expected.norm().clamp(min=1.0)


def test_no_trained_token_gives_a_connected_zero() -> None:
    parts = case(torch.float32, bias=False)
    ours = leaves(parts)
    masked = torch.full_like(parts[3], -100)
    sums = chunked_smoothed_ce(ours[0], ours[1], masked, parts[4])
    assert sums.total.item() == 0.0
    assert all(not gradient.any() for gradient in torch.autograd.grad(sums.total, ours))


def test_half_precision_is_as_good_as_full_logits_in_half_precision() -> None:
    parts = case(torch.float32, bias=False, vocab=301)
    half = [part.bfloat16() for part in parts[:2]]
    exact = [part.double() for part in half]
    logits = half[0] @ half[1].T
    wanted = smoothed_sum(exact[0] @ exact[1].T, parts[3], parts[4])
    full = smoothed_sum(logits.float(), parts[3], parts[4])
    found = chunked_smoothed_ce(half[0], half[1], parts[3], parts[4]).total
    assert found.dtype == torch.float32
    # The error left is that of logits in bfloat16, which plain training has as well.
    assert abs(found - wanted) <= 1.5 * abs(full - wanted)


@pytest.mark.parametrize("tokens", [512, 4])
def test_head_gradients_add_up_in_float32(tokens: int) -> None:
    # One chunk and 128. Summed in bfloat16 over 128 chunks, the error is above 1 %.
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(512, 16, generator=generator).bfloat16()
    weight, bias = (torch.randn(40, *n, generator=generator).bfloat16() for n in ([16], []))
    labels = torch.randint(0, 40, (512,), generator=generator)
    smoothing = torch.rand(512, generator=generator)
    ours = leaves([hidden, weight, bias])
    exact = leaves([part.double() for part in (hidden, weight, bias)])
    sums = chunked_smoothed_ce(ours[0], ours[1], labels, smoothing, bias_V=ours[2], tokens=tokens)
    wanted = smoothed_sum(F.linear(*exact), labels, smoothing)
    for found, expected in zip(
        derivatives(sums.total, ours)[2:], derivatives(wanted, exact)[2:], strict=True
    ):
        assert found.dtype == torch.bfloat16
        assert (found.double() - expected).norm() < 0.004 * expected.norm()


@pytest.mark.parametrize("trained_head", [False, True])
def test_tokens_that_are_not_trained_are_not_looked_at(trained_head: bool) -> None:
    # What is not a number there would make all that it is multiplied into not a number.
    parts = case(torch.float64, bias=True)
    masked = parts[3] == -100
    clean = leaves(parts)
    parts[0][masked] = float("nan")
    parts[4][masked] = float("nan")
    ours = leaves(parts)
    for leaf in (clean[1], clean[2], ours[1], ours[2]):
        leaf.requires_grad_(trained_head)
    losses = [
        chunked_smoothed_ce(
            leaf[0], leaf[1], parts[3], parts[4].nan_to_num(), bias_V=leaf[2], tokens=4
        ).total
        for leaf in (ours, clean)
    ]
    wanted = [leaf for leaf in zip(ours, clean, strict=True) if leaf[0].requires_grad]
    found, expected = (
        derivatives(loss, list(w))
        for loss, w in zip(losses, zip(*wanted, strict=True), strict=True)
    )
    assert all(a.equal(b) for a, b in zip(found, expected, strict=True))
    assert not found[1][masked].any()


def test_nothing_is_copied_where_all_tokens_are_trained() -> None:
    def parts_of(labels: Tensor) -> list[Any]:
        return [part for part, _ in chunked_ce._parts(labels, torch.ones(13), None, None, 8)]

    parts = case(torch.float32, bias=False)
    labels = parts[3].clamp(min=0)
    assert [*parts_of(labels)] == [slice(0, 8), slice(8, 16)]
    # Every fourth is not, from the first on: 9 of 13 are left, named by their place.
    assert torch.cat([*parts_of(parts[3])]).tolist() == [
        *(1, 2, 3, 5, 6, 7, 9, 10, 11),
    ]


def test_autocast_decides_the_dtype_of_the_products() -> None:
    parts = case(torch.float32, bias=False)
    ours = leaves(parts)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = chunked_smoothed_ce(ours[0], ours[1], parts[3], parts[4])
    half = chunked_smoothed_ce(*(leaf.bfloat16() for leaf in ours), parts[3], parts[4])
    assert found.nll.item() == half.nll.item()
    assert torch.autograd.grad(found.total, ours)[1].dtype == torch.float32


def test_a_chunk_is_1024_tokens_or_90_million_logits() -> None:
    assert chunk_tokens(32_768) == 1024
    assert chunk_tokens(128_256) == 700
    assert chunk_tokens(256_000) == 348
    assert chunk_tokens(10**9) == 64
    assert chunk_tokens(256) == 2**17


@given(tokens=st.integers(0, 10**6), most=st.sampled_from([1, 5, 16, 64, 700, 1024]))
def test_chunks_are_equal_to_a_rounding_and_no_more_than_needed(tokens: int, most: int) -> None:
    size = equal_chunks(tokens, most)
    assert 1 <= size <= most or not tokens
    assert -(-tokens // most) == -(-tokens // size) if size else not tokens
    if most >= 4 and size < most:
        assert size % 4 == 0
        last = tokens - (-(-tokens // size) - 1) * size
        assert size - last < 4 * max(1, -(-tokens // size)) or not tokens
