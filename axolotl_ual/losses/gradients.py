"""Gradients of a loss that is computed from hidden states and a head in chunks of tokens.

Shape legend: N tokens, C tokens of a chunk, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .prior import Part
from .smoothed_ce import MeanRow, accumulation_dtype


class Gradients:
    """Adds up the gradients of the hidden states, the weight and the bias, chunk by chunk.

    The head's are sums over all chunks, kept in the dtype of accumulation: in bfloat16 each
    addition to a large sum would lose what is small beside it.
    """

    def __init__(
        self,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        mean: MeanRow,
        needs: Sequence[bool],
    ) -> None:
        self.weight, self.mean = weight_VH, mean
        dtype = accumulation_dtype(weight_VH.dtype)
        self.hidden_NH = torch.zeros_like(hidden_NH) if needs[0] else None
        self.weight_VH = torch.zeros_like(weight_VH, dtype=dtype) if needs[1] else None
        self.bias_V = None
        if bias_V is not None and needs[2]:
            self.bias_V = torch.zeros_like(bias_V, dtype=accumulation_dtype(bias_V.dtype))
        self._pull_H = weight_VH.new_zeros(weight_VH.shape[1], dtype=dtype)
        self._pull = self._pull_H.new_zeros(())

    def add(self, part: Part, hidden_CH: Tensor, grad_CV: Tensor, pull_C: Tensor) -> None:
        """Add a chunk: grad_CV by the head's output, less pull_C times the mean row."""
        if self.hidden_NH is not None:
            if isinstance(part, slice):
                self._to_hidden(self.hidden_NH[part], grad_CV, pull_C)
            else:
                grad_CH = self.hidden_NH.new_empty(hidden_CH.shape)
                self._to_hidden(grad_CH, grad_CV, pull_C)
                self.hidden_NH.index_copy_(0, part, grad_CH)
        if self.weight_VH is not None:
            if grad_CV.dtype == self.weight_VH.dtype:
                self.weight_VH.addmm_(grad_CV.T, hidden_CH)
            else:
                self.weight_VH += grad_CV.T @ hidden_CH
            self._pull_H += pull_C @ hidden_CH.to(pull_C.dtype)
        if self.bias_V is not None:
            self.bias_V += grad_CV.sum(dim=0, dtype=self.bias_V.dtype)
            self._pull += pull_C.sum()

    def of_head(self) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of weight and bias, once every chunk was added."""
        rows = self.mean.num_rows
        if self.weight_VH is not None:
            self.weight_VH[:rows] -= self._pull_H / rows
        if self.bias_V is not None:
            self.bias_V[:rows] -= self._pull / rows
        return self.weight_VH, self.bias_V

    def _to_hidden(self, target_CH: Tensor, grad_CV: Tensor, pull_C: Tensor) -> None:
        """Write grad_CV W less the pull, without a copy where the dtypes allow it."""
        mean_H = self.mean.weight_H
        if target_CH.dtype == self.weight.dtype == pull_C.dtype == mean_H.dtype:
            torch.mm(grad_CV, self.weight, out=target_CH)
            target_CH.addr_(pull_C, mean_H, alpha=-1)
        else:
            target_CH.copy_(grad_CV @ self.weight)
            target_CH -= pull_C[:, None] * mean_H
