r"""Where the smoothed mass of a target goes: to the model before tuning, or to all tokens alike.

With the distribution r of a reference for the token's place, its smoothing eps and its label y,

    q = (1 - eps) onehot(y) + eps r            L = -sum_v q_v log p_v
      = nll + eps * (x_y - sum_v r_v x_v)      dL / dx_v = p_v - (1 - eps) 1[v = y] - eps r_v

which is label smoothing where r_v = 1 / V. The paper of UAL smooths with the uniform r: the mass of
an uncertain answer goes to every token of the vocabulary, most of which no competent answer
contains. The model before tuning knows which ones are plausible: r = softmax(z / T) of its logits
z, over the rows of the head that tokens have.

    sum_i eps_i (CE(r_i, p_i) - nll_i) = sum_i eps_i (KL(r_i || p_i) + H(r_i) - nll_i)

so that eps weighs, sample by sample, between imitating the data and staying where the model was.

Rivals: ASFT (arXiv 2509.23753) adds one weight times KL(r || p) to all tokens; self-distillation
(Yang et al. 2024) rewrites responses by the reference; selective token masking leaves out the
tokens that it finds unlikely; knowledge distillation (Hinton et al. 2015) takes a stronger teacher
and one weight. Here the weight is a sample's own, from its uncertainty.

Shape legend: N tokens, C tokens of a chunk, H hidden size, V rows of the head, R rows that are
tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from .smoothed_ce import accumulation_dtype
from .transform import IDENTITY, Transform

Part: TypeAlias = slice | Tensor
"""Which tokens: a range, or their places."""


class Target(Protocol):
    """The prior of C tokens: a share that is spread evenly over all rows, and what is not.

    Attributes:
        rest_C: the share that is spread evenly; None is none.
        entropy_C: of the prior, in nats.
    """

    rest_C: Tensor | None
    entropy_C: Tensor

    def expected(self, logits_CV: Tensor) -> Tensor:
        """sum_v r_v x_v of each token, without the share that is spread evenly: (C,)."""
        ...

    def subtract(self, grad_CV: Tensor, eps_C: Tensor) -> None:
        """Take eps r off a gradient, without the share that is spread evenly. Done once."""
        ...


class Prior(Protocol):
    """The prior of all tokens of a micro-batch."""

    def target(self, part: Part, scratch: Callable[[int], Tensor]) -> Target:
        """The prior of some tokens.

        Args:
            part: which tokens.
            scratch: gives a buffer of so many rows of V numbers, free until there are logits.
        """
        ...


@dataclass(slots=True)
class Dense:
    """Mass for every row: mass_CR, which `subtract` uses up."""

    mass_CR: Tensor
    entropy_C: Tensor
    rest_C: Tensor | None = None

    def expected(self, logits_CV: Tensor) -> Tensor:
        """See `Target`."""
        return _dot(self.mass_CR, logits_CV[:, : self.mass_CR.shape[1]])

    def subtract(self, grad_CV: Tensor, eps_C: Tensor) -> None:
        """See `Target`."""
        grad_CV[:, : self.mass_CR.shape[1]] -= self.mass_CR.mul_(eps_C[:, None])


@dataclass
class Reference:
    """The distribution of a reference, from its hidden states, a chunk at a time. No gradient.

    Attributes:
        hidden_NH: what its head is applied to.
        weight_VH: rows of its head.
        bias_V: bias of its head.
        transform: what it does to the output of its head.
        temperature: T, above 0.
        num_rows: R; None is all.
    """

    hidden_NH: Tensor
    weight_VH: Tensor
    bias_V: Tensor | None = None
    transform: Transform = IDENTITY
    temperature: float = 1.0
    num_rows: int | None = None
    _kept: Tensor | None = field(default=None, init=False, repr=False)

    @torch.no_grad()
    def target(self, part: Part, scratch: Callable[[int], Tensor]) -> Dense:
        """Softmax over the rows that are tokens, and its entropy.

        Args:
            part: which tokens.
            scratch: gives a buffer of so many rows of V numbers, free until there are logits.
        """
        hidden_CH = self.hidden_NH[part]
        output_CV = scratch(hidden_CH.shape[0])
        weight_VH = self.weight_VH.to(output_CV.dtype)
        torch.mm(hidden_CH.to(output_CV.dtype), weight_VH.T, out=output_CV)
        logits_CV = output_CV.to(accumulation_dtype(output_CV.dtype))
        if self.bias_V is not None:
            logits_CV.add_(self.bias_V)
        factor = self.transform.scale / (1.0 if self.transform.cap else self.temperature)
        if factor != 1.0:
            logits_CV.mul_(factor)
        if self.transform.cap:
            logits_CV.div_(self.transform.cap).tanh_()
            logits_CV.mul_(self.transform.cap / self.temperature)
        logits_CR = logits_CV[:, : self.num_rows]
        largest_C = logits_CR.amax(dim=1)
        mass_CR = torch.sub(logits_CR, largest_C[:, None], out=self._buffer(logits_CR)).exp_()
        sum_C = mass_CR.sum(dim=1)
        mean_C = _dot(mass_CR, logits_CR) / sum_C
        mass_CR.div_(sum_C[:, None])
        return Dense(mass_CR, sum_C.log() + largest_C - mean_C)

    def _buffer(self, like_CR: Tensor) -> Tensor:
        if self._kept is None or self._kept.shape[0] < like_CR.shape[0]:
            self._kept = torch.empty(like_CR.shape, dtype=like_CR.dtype, device=like_CR.device)
        return self._kept[: like_CR.shape[0]]


def _dot(one_CR: Tensor, other_CR: Tensor) -> Tensor:
    """Products of rows, without a tensor of the size of either."""
    return torch.bmm(one_CR[:, None, :], other_CR[:, :, None])[:, 0, 0]
