"""The smoothed loss inside a causal language model's own forward.

Either the model computes its cross entropy with whichever kernel it has, and the margin of
`smoothed_ce` is added to it; or, in the place of full logits, the loss is computed in chunks.
Inside the forward the head's weight is whole, however the training engine shards it outside, and
the loss that comes out is one scalar, as every engine expects.

The first batch is checked: what the model makes of its head's output must be what this module
takes it to be, or the run stops.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_ual.columns import IGNORE_INDEX, SMOOTHING, WEIGHT
from axolotl_ual.errors import UnsupportedError

from .chunked_ce import Sums, chunk_tokens, chunked_smoothed_ce
from .forward import Batch, last_position, makes_logits, never_all_masked, with_loss
from .heads import Head, LinearTap, nothing, replaced_forward
from .prior import Prior, Reference
from .reference import AdapterOff, FrozenModel
from .rule import EACH_COUNTS_ONE, Kernel, Rule, Weights, kernel_of
from .smoothed_ce import margin_sum
from .token_weights import Weighting
from .top_k import top_k_margin
from .transform import Transform, require_equal


class SmoothedObjective:
    """Binds the smoothed loss to one causal language model.

    Args:
        model: the innermost causal language model: no adapter, no engine around it.
        kernel: `model` computes the cross entropy with the model's own forward, `chunked` in
            chunks; `auto` is `chunked` where the model would make more logits than fit a chunk,
            or caps them.
        num_rows: rows of the head that stand for tokens; None is all of them.
        reference: makes, of the model's head, the reference whose prediction the smoothed mass
            goes to; None spreads it evenly.
        temperature: of the reference.
        rule: what tokens count; where they do not count alike the kernel is `chunked`.

    Attributes:
        weights: how sums of the next micro-batch enter its loss.
        parts: of the last one: nll and margin, summed over its tokens, and their mass.
        weighted: of the last one, `chunked_ce.Sums.weighted`; None where tokens count alike.
        prior: of the last one: KL(r || p) and entropy of the reference r, summed over its smoothed
            tokens (with an anchor over all), and their number; None without a reference, or with
            an adapter on the head.

    Raises:
        UnsupportedError: the head is of a kind that cannot be smoothed with this kernel.
        ConfigError: see `kernel_of`.
    """

    def __init__(
        self,
        model: nn.Module,
        kernel: Kernel = "auto",
        num_rows: int | None = None,
        reference: Callable[[Head], AdapterOff | FrozenModel] | None = None,
        temperature: float = 1.0,
        rule: Rule = EACH_COUNTS_ONE,
    ) -> None:
        self.model = model
        self.head = Head(model)
        self.num_rows = num_rows
        self.rule = rule
        self.kernel = kernel_of(rule, kernel, self.head)
        self.reference = None if reference is None else reference(self.head)
        self.temperature = temperature
        self.prior: Tensor | None = None
        self.weights: Weights | None = None
        self.parts: tuple[Tensor, Tensor, Tensor] | None = None
        self.weighted: Tensor | None = None
        self._hidden: Tensor | None = None
        self._last_logits: Tensor | None = None
        self._checked = False

    def uses_chunks(self, num_tokens: int) -> bool:
        """Whether a micro-batch of so many tokens, padding included, is computed in chunks."""
        if self.kernel != "auto":
            return self.kernel == "chunked"
        if not self.head.is_plain:
            return False
        if self.head.transform.cap is not None:
            return True
        return makes_logits(self.model) and num_tokens > chunk_tokens(self.head.vocab_size)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """While the block runs, the model's forward takes `ual_smoothing` and smooths its loss."""
        decoder = self.model.get_decoder().register_forward_hook(self._keep_hidden)
        outer = self.head.outer.register_forward_hook(self._keep_last_logits)
        try:
            with (
                self.head.installed(),
                nullcontext() if self.reference is None else self.reference.installed(),
                replaced_forward(self.model, self._forward) as self._model_forward,
            ):
                yield
        finally:
            decoder.remove()
            outer.remove()

    def _forward(self, *args: Any, ual_smoothing: Tensor | None = None, **kwargs: Any) -> Any:
        try:
            if ual_smoothing is None:
                return self._model_forward(*args, **kwargs)
            return self._smoothed(ual_smoothing, args, kwargs)
        finally:
            # Each is, or is a view of, something as large as the batch's hidden states or logits.
            self._forget()

    def _forget(self) -> None:
        self._hidden = self._last_logits = None
        for tap in self.head.taps:
            tap.take()

    def _smoothed(self, ual_smoothing: Tensor, args: Any, kwargs: Any) -> Any:
        if self.weights is None:
            raise RuntimeError(f"`{SMOOTHING}` was given to a model whose loss has no weights")
        batch = Batch.take(ual_smoothing, kwargs, self._rows)
        if (batch.weight_N is not None) != self.rule.weighted:
            raise RuntimeError(f"a batch has `{WEIGHT}`, or lacks it, against the rule of its loss")
        batch.reference_NH = self._of_reference(batch.labels_BT, args, kwargs)
        self.prior = None
        compute = self._chunked if self.uses_chunks(batch.labels_BT.numel()) else self._on_top
        return compute(batch, self.weights, args, kwargs)

    @property
    def _rows(self) -> int:
        return min(self.head.vocab_size, self.num_rows or self.head.vocab_size)

    def _of_reference(self, labels_BT: Tensor, args: Any, kwargs: Any) -> Tensor | None:
        """What the reference's head is applied to, as [N, H]. Run whatever the batch holds.

        An engine that shards weights gathers them on all processes at once, so none may leave its
        call out because no token of its own is smoothed.
        """
        if self.reference is None:
            return None
        hidden_BTH = self.reference.hidden(self._model_forward, args, kwargs)
        self._forget()
        self._require_shape(hidden_BTH, labels_BT)
        return hidden_BTH.reshape(-1, hidden_BTH.shape[-1])

    def _on_top(self, batch: Batch, weights: Weights, args: Any, kwargs: Any) -> Any:
        """The model's own loss, and the margin on top of it."""
        labels_BT = never_all_masked(batch.labels_BT, weights.mass)
        outputs = self._model_forward(*args, labels=labels_BT, **kwargs)
        loss = outputs[0] if isinstance(outputs, tuple) else outputs["loss"]
        inputs = [self._aligned(tap.take(), batch) for tap in self.head.taps]
        margin = self._margin(batch, inputs)
        auxiliary = self._auxiliary(outputs)
        nll = loss.detach() if auxiliary is None else (loss - auxiliary).detach()
        if not self._checked:
            self._check(outputs, batch, inputs[0], nll)
        self.parts = (nll * weights.mass, margin.detach(), weights.mass)
        return with_loss(outputs, loss * weights.mean + margin * weights.sum)

    def _margin(self, batch: Batch, inputs: list[Tensor]) -> Tensor:
        parts = []
        for tap, hidden_NH in zip(self.head.taps, inputs, strict=True):
            if self._needs_logits(batch, tap):
                parts.append(self._run_sums(batch, tap, hidden_NH, with_nll=False).total)
            else:
                parts.append(tap.run(hidden_NH, partial(self._linear_margin, batch, tap)))
        return torch.stack(parts).sum()

    def _needs_logits(self, batch: Batch, tap: LinearTap) -> bool:
        """Whether the margin of a layer takes more than the rows of its head."""
        if self.head.transform.cap is not None or batch.reference_NH is not None:
            return True
        trained = any(parameter.requires_grad for parameter in tap.module.parameters())
        return batch.top_k is not None and trained

    def _linear_margin(
        self, batch: Batch, tap: LinearTap, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> Tensor:
        given = (hidden, weight, batch.labels_N, batch.smoothing_N)
        mean, scale = tap.mean(self.num_rows), self.head.transform.scale * tap.scale
        if batch.top_k is None:
            return margin_sum(*given, bias_V=bias, mean=mean, scale=scale)
        return top_k_margin(*given, batch.top_k, bias_V=bias, mean=mean, scale=scale)

    def _chunked(self, batch: Batch, weights: Weights, args: Any, kwargs: Any) -> Any:
        """The whole loss in chunks: the model runs without labels and makes no logits."""
        tap = self.head.base
        # One position's logits tell what the model makes of them; later, nothing is needed.
        tap.answer = nothing if self._checked else last_position(tap)
        try:
            outputs = self._model_forward(*args, **kwargs)
        finally:
            tap.answer = None
        hidden_NH = self._aligned(tap.take(), batch)
        if not self._checked:
            self._check(outputs, batch, hidden_NH, None)
        sums = self._run_sums(batch, tap, hidden_NH, with_nll=True)
        loss = sums.total * weights.sum
        auxiliary = self._auxiliary(outputs)
        if auxiliary is not None:
            loss = loss + auxiliary * weights.mean
        self.parts = (sums.nll, sums.margin, weights.mass)
        self.weighted = None if self.rule.plain else sums.weighted
        return with_loss(outputs, loss)

    def _run_sums(self, batch: Batch, tap: LinearTap, hidden_NH: Tensor, *, with_nll: bool) -> Sums:
        """The sums of one linear layer of the head, computed in chunks within its call."""
        reference, found = self.reference, list[Sums]()

        def own(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            source = self._prior(batch, weight, bias)
            found.append(self._sums(batch, tap, (hidden, weight, bias), source, with_nll=with_nll))
            return found[0].total

        def beside(_: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            source = self._prior(batch, weight, bias)

            def job(*given: Any) -> Tensor:
                found.append(self._sums(batch, tap, given, source, with_nll=with_nll))
                return found[0].total

            return tap.run(hidden_NH, job)

        if reference is None or batch.reference_NH is None or reference.tap is tap:
            total = tap.run(hidden_NH, own)
        else:
            # The weights of both heads are read at once, each within a call of its layer.
            total = reference.tap.run(batch.reference_NH, beside)
        if batch.has_prior and self.head.is_plain:
            self.prior = found[0].prior
        return found[0]._replace(total=total)

    def _prior(self, batch: Batch, weight: Tensor, bias: Tensor | None) -> Prior | None:
        if batch.top_k is not None:
            return batch.top_k
        if self.reference is None or batch.reference_NH is None:
            return None
        return Reference(
            batch.reference_NH,
            weight.detach(),
            None if bias is None else bias.detach(),
            self.reference.transform,
            self.temperature,
            self._rows,
        )

    def _sums(
        self,
        batch: Batch,
        tap: LinearTap,
        given: tuple[Any, ...],
        source: Prior | None,
        *,
        with_nll: bool,
    ) -> Sums:
        """Sums of one linear layer; `source` is the prior, the reference of the anchor, or both."""
        hidden, weight, bias = given
        rule, weighting = self.rule, None
        if not rule.plain:
            weighting = Weighting(batch.weight_N, rule.token, rule.anchor, source, rule.entropy)
        scale, cap = self.head.transform
        return chunked_smoothed_ce(
            hidden,
            weight,
            batch.labels_N,
            batch.smoothing_N,
            bias_V=bias,
            transform=Transform(scale * tap.scale, cap),
            mean=tap.mean(self.num_rows),
            prior=source if rule.prior else None,
            weighting=weighting,
            with_nll=with_nll,
        )

    def _auxiliary(self, outputs: Any) -> Tensor | None:
        """The load-balancing loss of a mixture of experts, as it enters the model's loss."""
        auxiliary = None if isinstance(outputs, tuple) else outputs.get("aux_loss")
        if auxiliary is None or not isinstance(auxiliary, Tensor):
            return None
        factor = getattr(self.model, "router_aux_loss_coef", None)
        if factor is None:
            factor = getattr(self.model.config, "router_aux_loss_coef", 0.0)
        result: Tensor = auxiliary * factor
        return result

    def _aligned(self, hidden_BTH: Tensor | None, batch: Batch) -> Tensor:
        """A head's input as [N, H]: what the model called it with, or the decoder's output."""
        if hidden_BTH is None and self.head.is_plain:
            hidden_BTH, self._hidden = self._hidden, None
        if hidden_BTH is None:
            raise UnsupportedError(
                f"{self.head.name}: its fused loss reads the head's weight and leaves the adapter "
                "on it out",
                "leave the head (`lm_head`) out of `lora_target_modules`, or the fused loss out",
            )
        self._require_shape(hidden_BTH, batch.labels_BT)
        return hidden_BTH.reshape(-1, hidden_BTH.shape[-1])

    def _require_shape(self, hidden_BTH: Tensor, labels_BT: Tensor) -> None:
        if hidden_BTH.shape[:-1] != labels_BT.shape:
            raise UnsupportedError(
                f"{self.head.name}: its hidden states have the shape {tuple(hidden_BTH.shape)} and "
                f"its labels {tuple(labels_BT.shape)}, so their smoothing is unknown",
                "take the plugin out for this model",
            )

    def _keep_hidden(self, module: nn.Module, args: Any, output: Any) -> None:
        self._hidden = output[0]

    def _keep_last_logits(self, module: nn.Module, args: Any, output: Any) -> None:
        if not self._checked and output.dim() == 3:
            self._last_logits = output[:, -1].detach()

    def _check(self, outputs: Any, batch: Batch, hidden: Tensor, nll: Tensor | None) -> None:
        """Compare the model's logits, or its loss, with what is known of its head."""
        given, self._last_logits = self._last_logits, None
        logits = None if isinstance(outputs, tuple) else outputs.get("logits")
        if given is not None and logits is not None:
            require_equal(self.head.transform(given), logits[:, -1], self.head.name)
        elif nll is not None and bool(self.weights and self.weights.mass > 0):
            require_equal(self._own_nll(batch, hidden), nll, self.head.name, least=0.02)
        else:
            return
        self._checked = True

    def _own_nll(self, batch: Batch, hidden: Tensor) -> Tensor:
        tap = self.head.base

        def job(*given: Any) -> Tensor:
            return self._sums(batch, tap, given, None, with_nll=True).nll

        with torch.no_grad():
            nll_sum = tap.run(hidden.detach(), job)
        return nll_sum / (batch.labels_N != IGNORE_INDEX).sum()
