"""Scores of tokens from a causal language model's own forward, without its full logits.

The forward runs as it is, but its head is applied to the last position only, and what it was
given is kept. The head is then called once more, as a module, on the tokens that are asked for, in
chunks. Inside the forward an engine that shards the head has gathered it for both calls; each
process makes the same two calls, however many tokens it has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_ual.errors import UnsupportedError

from .heads import transform_of
from .logprobs import LogitTransform, token_logprobs, token_statistics

IGNORE_INDEX = -100


class TokenScorer:
    """Binds token scores to one causal language model.

    While it is installed the model's forward takes two more arguments:

    - `ual_labels`, int64 of shape (B, T): the forward returns, as its `logits`, the
      log-probability of each label given what is before it, float32 of shape (B, T), 0 where the
      label is -100 and at the first position;
    - `ual_statistics=True`: of shape (3, B, T) instead, without gradients: that
      log-probability, the largest one of the position, and 1 where the label has it.

    Args:
        model: the innermost causal language model: no adapter, no engine around it.
        chunk: tokens whose logits exist at a time.
    """

    def __init__(self, model: nn.Module, chunk: int = 256) -> None:
        self.model = model
        self.head: nn.Module = model.get_output_embeddings()
        self.chunk = chunk
        self.transform = LogitTransform(*transform_of(model.config))
        self._hidden: Tensor | None = None
        self._last: Tensor | None = None
        self._capturing = False
        self._job: Callable[[Tensor], Tensor] | None = None
        self._checked = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Score while the block runs."""
        self._plain_model, self._plain_head = self.model.forward, self.head.forward
        own = [module.__dict__.get("forward") for module in (self.model, self.head)]
        self.model.forward, self.head.forward = self._forward, self._head_forward
        try:
            yield
        finally:
            for module, forward in zip((self.model, self.head), own, strict=True):
                del module.__dict__["forward"]
                if forward is not None:
                    module.forward = forward

    def _forward(
        self,
        *args: Any,
        ual_labels: Tensor | None = None,
        ual_statistics: bool = False,
        **kwargs: Any,
    ) -> Any:
        if ual_labels is None:
            return self._plain_model(*args, **kwargs)
        self._capturing = True
        try:
            outputs = self._plain_model(*args, **kwargs)
        finally:
            self._capturing = False
        hidden_BTH, self._hidden = self._hidden, None
        if hidden_BTH is None or hidden_BTH.shape[:2] != ual_labels.shape:
            raise UnsupportedError(
                f"{type(self.model).__name__}: its head does not see the last hidden states of "
                "every token, so their log-probabilities cannot be computed",
                "take the plugin out for this model",
            )
        self._check_transform(outputs["logits"])
        outputs["logits"] = self._scores(hidden_BTH, ual_labels, ual_statistics)
        return outputs

    def _scores(self, hidden_BTH: Tensor, labels_BT: Tensor, statistics: bool) -> Tensor:
        next_BT = labels_BT[:, 1:]
        asked_BT = next_BT != IGNORE_INDEX
        labels_N = next_BT[asked_BT]
        head, transform, chunk = self._plain_head, self.transform, self.chunk
        if statistics:
            self._job = partial(
                token_statistics, labels_N=labels_N, head=head, transform=transform, chunk=chunk
            )
        else:
            self._job = partial(
                token_logprobs,
                labels_N=labels_N,
                head=head,
                parameters=list(self.head.parameters()),
                transform=transform,
                chunk=chunk,
            )
        # Called as a module, so that an engine that shards the head gathers it for the call.
        scores_XN: Tensor = self.head(hidden_BTH[:, :-1][asked_BT])
        leading = scores_XN.shape[:-1]
        scores = scores_XN.new_zeros((*leading, *labels_BT.shape))
        position_BT = torch.nn.functional.pad(asked_BT, (1, 0))
        return scores.masked_scatter(position_BT.expand_as(scores), scores_XN)

    def _head_forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._job is not None:
            job, self._job = self._job, None
            return job(hidden)
        if not self._capturing:
            return self._plain_head(hidden, *args, **kwargs)
        self._hidden = hidden
        self._last = self._plain_head(hidden[:, -1:], *args, **kwargs)
        return self._last

    def _check_transform(self, logits_BV: Tensor) -> None:
        """Once, on the last position: what we take for the logits is what the model returns."""
        raw, self._last = self._last, None
        if self._checked or raw is None:
            return
        ours = self.transform(raw.detach())
        if not torch.allclose(ours, logits_BV.detach().to(ours.dtype), rtol=2e-2, atol=1e-3):
            raise UnsupportedError(
                f"{type(self.model).__name__}: changes its logits after the head in a way that is "
                "not known here, so log-probabilities would be wrong",
                "take the plugin out for this model",
            )
        self._checked = True
