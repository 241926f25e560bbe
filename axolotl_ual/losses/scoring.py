"""Scores of tokens from a causal language model's own forward, without its full logits.

The forward runs as it is, but its head is applied to the last position only, and what it was
given is kept. The head is then called once more, as a module, on the tokens that are asked for, in
chunks. Inside the forward an engine that shards the head has gathered it for both calls; each
process makes the same two calls, however many tokens it has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_ual.columns import IGNORE_INDEX
from axolotl_ual.errors import UnsupportedError

from .heads import Tap, replaced_forward
from .logprobs import aligned_logprobs, token_logprobs, token_statistics
from .transform import require_equal, transform_of


class TokenScorer:
    """Binds token scores to one causal language model.

    While it is installed the model's forward takes three more arguments:

    - `ual_labels`, int64 of shape (B, T): the forward returns, as its `logits`, the
      log-probability of each label given what is before it, float32 of shape (B, T), 0 where the
      label is -100 and at the first position;
    - `ual_aligned=True`: of shape (2, B, T) instead, that log-probability and the logarithm of the
      sum of squared probabilities of the position, the latter without gradients;
    - `ual_statistics=True`: of shape (4, B, T) instead, without gradients: that
      log-probability, the largest one of the position, 1 where the label has it, and the entropy
      of the position in nats.

    Args:
        model: the innermost causal language model: no adapter, no engine around it.
        chunk: tokens whose logits exist at a time.
    """

    def __init__(self, model: nn.Module, chunk: int = 256) -> None:
        self.model = model
        self.head = Tap(model.get_output_embeddings(), model)
        self.chunk = chunk
        self.transform = transform_of(model.config)
        self._checked = False

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Score while the block runs."""
        with (
            self.head.installed(),
            replaced_forward(self.model, self._forward) as self._plain_model,
        ):
            yield

    def _forward(
        self,
        *args: Any,
        ual_labels: Tensor | None = None,
        ual_aligned: bool = False,
        ual_statistics: bool = False,
        **kwargs: Any,
    ) -> Any:
        try:
            if ual_labels is None:
                return self._plain_model(*args, **kwargs)
            outputs, hidden_BTH = self._run(args, kwargs, ual_labels.shape)
        finally:
            self.head.take()
        outputs["logits"] = self._scores(hidden_BTH, ual_labels, ual_statistics, ual_aligned)
        return outputs

    def _run(self, args: Any, kwargs: Any, shape: torch.Size) -> tuple[Any, Tensor]:
        """The model's outputs, with the logits of the last position; and its hidden states."""
        raw: list[Tensor] = []

        def last(hidden_BTH: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            raw.append(self.head.plain(hidden_BTH[:, -1:], *args, **kwargs))
            return raw[0]

        self.head.answer = last
        try:
            outputs = self._plain_model(*args, **kwargs)
        finally:
            self.head.answer = None
        hidden_BTH = self.head.take()
        if hidden_BTH is None or hidden_BTH.shape[:2] != shape:
            raise UnsupportedError(
                f"{type(self.model).__name__}: its head does not see the last hidden states of "
                "every token, so their log-probabilities cannot be computed",
                "take the plugin out for this model",
            )
        if not self._checked:
            require_equal(self.transform(raw[0]), outputs["logits"], type(self.model).__name__)
            self._checked = True
        return outputs, hidden_BTH

    def _scores(
        self, hidden_BTH: Tensor, labels_BT: Tensor, statistics: bool, aligned: bool
    ) -> Tensor:
        next_BT = labels_BT[:, 1:]
        asked_BT = next_BT != IGNORE_INDEX
        labels_N = next_BT[asked_BT]
        how: Any = {"head": self.head.plain, "transform": self.transform, "chunk": self.chunk}
        if statistics:
            job = partial(token_statistics, labels_N=labels_N, **how)
        else:
            parameters = list(self.head.module.parameters())
            compute = aligned_logprobs if aligned else token_logprobs
            job = partial(compute, labels_N=labels_N, parameters=parameters, **how)
        scores_XN = self.head.call(hidden_BTH[:, :-1][asked_BT], job)
        leading = scores_XN.shape[:-1]
        scores = scores_XN.new_zeros((*leading, *labels_BT.shape))
        position_BT = torch.nn.functional.pad(asked_BT, (1, 0))
        return scores.masked_scatter(position_BT.expand_as(scores), scores_XN)
