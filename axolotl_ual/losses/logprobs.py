"""Log-probabilities of tokens from hidden states and the head, without the full logits.

    log p(y) = x_y - log sum_v exp(x_v),     x = soft cap(scale * head(h))

The logits of a few hundred tokens exist at a time. The backward pass computes them once more, so
that between the passes nothing of the size of the vocabulary is kept: memory is O(chunk V) in
place of O(N V), for one more product with the head. A head that draws at random (an adapter's
dropout) draws the same once more, as under `torch.utils.checkpoint`. Sums are taken in float32, or
in float64, that of the head's gradients over chunks too.

Shape suffixes: N tokens, C tokens of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import get_device_states, set_device_states

from .smoothed_ce import accumulation_dtype
from .transform import IDENTITY, Transform


def token_logprobs(
    hidden_NH: Tensor,
    labels_N: Tensor,
    head: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    *,
    transform: Transform = IDENTITY,
    chunk: int = 256,
) -> Tensor:
    """Log-probability of each label.

    Args:
        hidden_NH: last hidden states.
        labels_N: int64 token ids.
        head: hidden states of shape (C, H) to logits of shape (C, V). It runs once in the forward
            and once in the backward pass, from the same state of the random generators.
        parameters: of the head; those that require it get gradients.
        transform: what the model does to the head's output.
        chunk: tokens whose logits exist at a time.

    Returns:
        float32 (float64 for float64 logits) of shape (N,).
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    job = _Head(head, transform)
    result: Tensor = _TokenLogprobs.apply(hidden_NH, labels_N, job, chunk, False, *trained)[0]
    return result


def aligned_logprobs(
    hidden_NH: Tensor,
    labels_N: Tensor,
    head: Callable[[Tensor], Tensor],
    parameters: Sequence[Tensor],
    *,
    transform: Transform = IDENTITY,
    chunk: int = 256,
) -> Tensor:
    """Log-probability of each label, and of the same token drawn twice, from the same logits.

    The arguments are those of `token_logprobs`.

    Returns:
        Shape (2, N): log p(y), with its gradient, and log sum_v p(v)^2, without any.
    """
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    job = _Head(head, transform)
    return torch.stack(_TokenLogprobs.apply(hidden_NH, labels_N, job, chunk, True, *trained))


def token_statistics(
    hidden_NH: Tensor,
    labels_N: Tensor,
    head: Callable[[Tensor], Tensor],
    *,
    transform: Transform = IDENTITY,
    chunk: int = 256,
) -> Tensor:
    """What the prediction of each label says, without gradients.

    Returns:
        Shape (4, N): log-probability of the label, the largest log-probability, 1 where the label
        has it, and the entropy in nats.
    """
    pieces = zip(hidden_NH.split(chunk), labels_N.split(chunk), strict=True)
    with torch.no_grad():
        parts = [_Head(head, transform).statistics(*piece) for piece in pieces]
    return torch.cat(parts, dim=1)


@dataclass(frozen=True, slots=True)
class _Head:
    head: Callable[[Tensor], Tensor]
    transform: Transform

    def logits(self, hidden_CH: Tensor) -> Tensor:
        return self.transform(self.head(hidden_CH))

    def logprobs(self, hidden_CH: Tensor, labels_C: Tensor, aligned: bool) -> tuple[Tensor, Tensor]:
        logits_CV = self.logits(hidden_CH)
        picked_C = logits_CV.gather(1, labels_C[:, None])[:, 0]
        total_C = torch.logsumexp(logits_CV, dim=1)
        if not aligned:
            return picked_C - total_C, total_C[:0]
        return picked_C - total_C, torch.logsumexp(2.0 * logits_CV, dim=1) - 2.0 * total_C

    def statistics(self, hidden_CH: Tensor, labels_C: Tensor) -> Tensor:
        logits_CV = self.logits(hidden_CH)
        picked_C = logits_CV.gather(1, labels_C[:, None])[:, 0]
        total_C = torch.logsumexp(logits_CV, dim=1)
        best_C, place_C = logits_CV.max(dim=1)
        hit_C = (place_C == labels_C).to(best_C.dtype)
        entropy_C = torch.special.entr(torch.softmax(logits_CV, dim=1)).sum(dim=1)
        return torch.stack([picked_C - total_C, best_C - total_C, hit_C, entropy_C])


class _Randomness:
    """The states of the random generators that work on a tensor may draw from."""

    def __init__(self, tensor: Tensor) -> None:
        self.cpu = torch.get_rng_state()
        self.devices, self.states = get_device_states(tensor)
        self.kind = tensor.device.type if self.devices else "cuda"

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draw what was drawn from here on; afterwards the generators are as they were."""
        with torch.random.fork_rng(devices=self.devices, device_type=self.kind):
            torch.set_rng_state(self.cpu)
            set_device_states(self.devices, self.states, device_type=self.kind)
            yield


class _TokenLogprobs(torch.autograd.Function):
    """One node for all chunks, so that each parameter of the head gets one gradient.

    Data-parallel wrappers reduce a parameter's gradient when it first arrives; a checkpoint for
    each chunk would bring several.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden_NH: Tensor,
        labels_N: Tensor,
        head: _Head,
        chunk: int,
        aligned: bool,
        *trained: Tensor,
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden_NH, labels_N, *trained)
        ctx.head, ctx.chunk, ctx.randomness = head, chunk, _Randomness(hidden_NH)
        device = hidden_NH.device.type
        ctx.autocast = {
            "device_type": device,
            "enabled": torch.is_autocast_enabled(device),
            "dtype": torch.get_autocast_dtype(device),
        }
        parts = [
            head.logprobs(hidden_CH, labels_C, aligned)
            for hidden_CH, labels_C in zip(
                hidden_NH.split(chunk), labels_N.split(chunk), strict=True
            )
        ]
        logprobs_N, collisions_N = (torch.cat(values) for values in zip(*parts, strict=True))
        ctx.mark_non_differentiable(collisions_N)
        return logprobs_N, collisions_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_NH, labels_N, *trained = ctx.saved_tensors
        grad_hidden_NH = torch.zeros_like(hidden_NH) if ctx.needs_input_grad[0] else None
        grad_trained: list[Tensor | None] = [None] * len(trained)
        with ctx.randomness.again():
            for start in range(0, max(len(labels_N), 1), ctx.chunk):
                piece = slice(start, start + ctx.chunk)
                with torch.enable_grad(), torch.autocast(**ctx.autocast):
                    hidden_CH = hidden_NH[piece].detach().requires_grad_(grad_hidden_NH is not None)
                    logits_CV = ctx.head.logits(hidden_CH)
                grad_CV = _logits_gradient(logits_CV.detach(), labels_N[piece], grads[0][piece])
                wanted = [hidden_CH, *trained] if grad_hidden_NH is not None else trained
                found = list(torch.autograd.grad(logits_CV, wanted, grad_CV))
                if grad_hidden_NH is not None:
                    grad_hidden_NH[piece] = found.pop(0)
                grad_trained = [
                    new.to(accumulation_dtype(new.dtype)) if old is None else old.add_(new)
                    for old, new in zip(grad_trained, found, strict=True)
                ]
        dtypes = [parameter.dtype for parameter in trained]
        cast = (g if g is None else g.to(d) for g, d in zip(grad_trained, dtypes, strict=True))
        return (grad_hidden_NH, None, None, None, None, *cast)


def _logits_gradient(logits_CV: Tensor, labels_C: Tensor, grad_C: Tensor) -> Tensor:
    """The gradient grad * (onehot(y) - softmax(x)), in one buffer of the size of the logits."""
    grad_CV = torch.softmax(logits_CV, dim=1).mul_(-grad_C[:, None])
    return grad_CV.scatter_add_(1, labels_C[:, None], grad_C[:, None])
