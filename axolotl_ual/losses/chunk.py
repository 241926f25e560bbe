"""One chunk of tokens of the cross entropy: its sums, and the gradient of the head's output.

The formulas are those of `chunked_ce` and `token_weights`. One buffer of logits is made into
exponentials, probabilities and their gradient in place.

Shape legend: C tokens of a chunk, H hidden size, V vocabulary, K largest logits.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .prior import Target
from .smoothed_ce import MeanRow, accumulation_dtype
from .token_weights import Weighting, entropy_weight, largest_logits
from .transform import Transform


class Inputs(NamedTuple):
    """The tokens of a chunk, all of them trained.

    Attributes:
        hidden_CH: what the head is applied to.
        labels_C: int64.
        smoothing_C: eps.
        target: of the prior, or of the reference that an anchor goes to.
        to_target: whether the smoothed mass goes to the target, and not only an anchor.
        weight_C: w; None is 1 each.
    """

    hidden_CH: Tensor
    labels_C: Tensor
    smoothing_C: Tensor
    target: Target | None = None
    to_target: bool = True
    weight_C: Tensor | None = None


class _Factors(NamedTuple):
    """What a token's cross entropy counts (None is 1), and its KL from the reference (None: 0)."""

    loss_C: Tensor | None = None
    anchor_C: Tensor | None = None


class Chunk:
    """One chunk after another: adds up the sums, returns the gradient of the head's output.

    Attributes:
        nll, margin, prior, weighted: see `chunked_ce.Sums`.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        transform: Transform,
        mean: MeanRow,
        weighting: Weighting | None,
        *,
        with_nll: bool,
        wanted: bool,
    ) -> None:
        self.weight, self.bias, self.transform, self.mean = weight, bias, transform, mean
        self.rows, self.with_nll, self.wanted = mean.num_rows, with_nll, wanted
        self.weighting = weighting
        self.dtype = accumulation_dtype(weight.dtype)
        self.nll = torch.zeros((), dtype=self.dtype, device=weight.device)
        self.margin = torch.zeros_like(self.nll)
        self.prior = torch.zeros(3, dtype=self.dtype, device=weight.device)
        self.weighted = torch.zeros_like(self.prior)
        self._buffer: Tensor | None = None

    def __call__(self, given: Inputs) -> tuple[Tensor, Tensor]:
        """Gradient by the head's output, less pull_C times the mean row, which is not in it."""
        logits_CV, slope_CV = self._logits(given.hidden_CH)
        classes_C1, eps_C = given.labels_C[:, None], given.smoothing_C.to(self.dtype)
        label_C = logits_CV.gather(1, classes_C1)[:, 0]
        expected_C = self._expected(given, logits_CV)
        mean_C = expected_C if given.to_target else None
        if mean_C is None:
            mean_C = self._mean_logit(given.hidden_CH, logits_CV)
        # A logit of -inf, times an eps of 0, is not a number.
        margin_C = torch.where(eps_C > 0, eps_C * (label_C - mean_C), 0.0)
        factors, kl_C = _Factors(), None
        if self.with_nll or given.target is not None:
            total_C, sum_C, own_C = self._exponentiate(logits_CV, label_C)
            if given.target is not None and expected_C is not None:
                kl_C = self._note(total_C - expected_C, given.target.entropy_C)
        if self.with_nll:
            factors = self._add(total_C - label_C, margin_C, given.weight_C, own_C, kl_C)
            logits_CV.mul_(_of_prediction(factors, sum_C)[:, None])
        else:
            self.margin += margin_C.sum()
            if self.wanted:
                logits_CV.zero_()
        if not self.wanted:
            return logits_CV, eps_C
        at_label_C = eps_C - 1.0 if self.with_nll else eps_C
        if factors.loss_C is not None:
            at_label_C = at_label_C * factors.loss_C
        logits_CV.scatter_add_(1, classes_C1, at_label_C[:, None])
        return self._gradient(logits_CV, slope_CV, eps_C, given, factors)

    def total(self) -> Tensor:
        """The loss that the sums make."""
        if not self.with_nll:
            return self.margin.clone()
        if self.weighting is None:
            return self.nll + self.margin
        return self.weighted[0] + self.margin + self.weighting.anchor * self.weighted[2]

    def _exponentiate(
        self, logits_CV: Tensor, label_C: Tensor
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits become exponentials; returns log and sum of these, and g (None is 1)."""
        weighting = Weighting() if self.weighting is None else self.weighting
        token, entropy = weighting.token, weighting.entropy
        top_CK = largest_logits(logits_CV, entropy.tokens) if token == "entropy" else None
        largest_C = logits_CV.amax(dim=1) if top_CK is None else top_CK.amax(dim=1)
        logits_CV.sub_(largest_C[:, None]).exp_()
        sum_C = logits_CV.sum(dim=1)
        total_C = largest_C + sum_C.log()
        if top_CK is not None:
            return total_C, sum_C, entropy_weight(top_CK, entropy)
        return total_C, sum_C, (label_C - total_C).exp() if token == "probability" else None

    def _add(
        self,
        nll_C: Tensor,
        margin_C: Tensor,
        weight_C: Tensor | None,
        own_C: Tensor | None,
        kl_C: Tensor | None,
    ) -> _Factors:
        """Add up the sums; returns what each token counts in them."""
        if self.weighting is None:
            self.nll += nll_C.sum()
            self.margin += margin_C.sum()
            return _Factors()
        given_C = torch.ones_like(nll_C) if weight_C is None else weight_C.to(self.dtype)
        loss_C = given_C if own_C is None else given_C * own_C
        kl = self.nll.new_zeros(()) if kl_C is None else (given_C * kl_C).sum()
        self.nll += (given_C * nll_C).sum()
        self.margin += (loss_C * margin_C).sum()
        self.weighted += torch.stack([(loss_C * nll_C).sum(), loss_C.sum(), kl])
        anchor = self.weighting.anchor
        return _Factors(loss_C, given_C * anchor if anchor else None)

    def _gradient(
        self,
        grad_CV: Tensor,
        slope_CV: Tensor | None,
        eps_C: Tensor,
        given: Inputs,
        factors: _Factors,
    ) -> tuple[Tensor, Tensor]:
        """Take the smoothed mass off, and go back through what the model does to its head."""
        smoothed_C = eps_C if factors.loss_C is None else eps_C * factors.loss_C
        even_C: Tensor | None = smoothed_C
        if given.target is not None:
            taken_C = smoothed_C if given.to_target else None
            if factors.anchor_C is not None:
                taken_C = factors.anchor_C if taken_C is None else taken_C + factors.anchor_C
            if taken_C is not None:
                given.target.subtract(grad_CV, taken_C)
            if given.to_target:
                rest_C = given.target.rest_C
                even_C = None if rest_C is None else smoothed_C * rest_C
        pull_C = torch.zeros_like(eps_C)
        if even_C is not None and slope_CV is not None:
            grad_CV[:, : self.rows] -= (even_C / self.rows)[:, None]
        elif even_C is not None:
            pull_C = even_C * self.transform.scale
        if slope_CV is not None:
            grad_CV.mul_(slope_CV)
        if self.transform.scale != 1.0:
            grad_CV.mul_(self.transform.scale)
        return grad_CV.to(self.weight.dtype), pull_C

    def _note(self, cross_entropy_C: Tensor, entropy_C: Tensor) -> Tensor:
        """Add up KL(r || p) and H(r), which say how far training went from r; returns the KL."""
        number = entropy_C.new_tensor(len(entropy_C))
        kl_C = cross_entropy_C - entropy_C
        self.prior += torch.stack([kl_C.sum(), entropy_C.sum(), number])
        return kl_C

    def _expected(self, given: Inputs, logits_CV: Tensor) -> Tensor | None:
        """sum_v r_v x_v of each token, where there is an r."""
        if given.target is None:
            return None
        expected_C = given.target.expected(logits_CV)
        if given.target.rest_C is None:
            return expected_C
        return expected_C + given.target.rest_C * self._mean_logit(given.hidden_CH, logits_CV)

    def _mean_logit(self, hidden_CH: Tensor, logits_CV: Tensor) -> Tensor:
        if self.transform.cap is not None:
            return logits_CV[:, : self.rows].mean(dim=1)
        mean_C: Tensor = hidden_CH.to(self.dtype) @ self.mean.weight_H.to(self.dtype)
        if self.mean.bias is not None:
            mean_C = mean_C + self.mean.bias
        return mean_C * self.transform.scale

    def _logits(self, hidden_CH: Tensor) -> tuple[Tensor, Tensor | None]:
        """The model's logits, and the slope of its soft cap at each."""
        logits_CV = self.buffer(hidden_CH.shape[0])
        torch.mm(hidden_CH, self.weight.T, out=logits_CV)
        logits_CV = logits_CV.to(self.dtype)
        if self.bias is not None:
            logits_CV.add_(self.bias.to(self.dtype))
        scale, cap = self.transform
        if scale != 1.0:
            logits_CV.mul_(scale)
        if cap is None:
            return logits_CV, None
        logits_CV.div_(cap).tanh_()
        slope_CV = 1.0 - logits_CV.square()
        return logits_CV.mul_(cap), slope_CV

    def buffer(self, rows: int) -> Tensor:
        """Room for so many rows of logits, the same each time."""
        if self._buffer is None or self._buffer.shape[0] < rows:
            self._buffer = self.weight.new_empty((rows, self.weight.shape[0]))
        return self._buffer[:rows]


def _of_prediction(factors: _Factors, sum_C: Tensor) -> Tensor:
    """What makes exponentials the part p of the gradient."""
    if factors.loss_C is None:
        return 1.0 / sum_C
    if factors.anchor_C is None:
        return factors.loss_C / sum_C
    return (factors.loss_C + factors.anchor_C) / sum_C
