"""The reference of a smoothed loss: hidden states of the model before tuning.

Either the model that trains, with its adapter switched off, which takes no more memory; or a
frozen model beside it, for full fine-tuning. It runs within the forward of the model that trains,
where an engine that shards its weights gathers them, on every process and every micro-batch alike,
in evaluation mode and without gradients: no dropout draws, no graph, no checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_ual.errors import UnsupportedError

from .heads import Head, LinearTap, nothing
from .transform import Transform

_OF_ADAPTERS = ("lora_", "modules_to_save", "trainable_tokens_", "vera_lambda", "ia3_")
_SWITCH = "_disable_adapters"
"""PEFT's own flag of a layer. Its public setter also changes which parameters require gradients,
which engines that shard them take amiss in the middle of a step."""
_FIX = "set `ual.smoothing.reference` to the model before tuning"


class AdapterOff:
    """The model that trains, without its adapter.

    Args:
        model: the innermost causal language model, with adapters on its layers.
        head: its head.

    Attributes:
        tap: the linear layer that is the reference's head.
        transform: what the model does to the output of its head.

    Raises:
        UnsupportedError: there is no adapter, or weights below it are trained too.
    """

    def __init__(self, model: nn.Module, head: Head) -> None:
        self.name = head.name
        self.transform: Transform = head.transform
        self._model = model
        self._switched = [module for module in model.modules() if hasattr(module, _SWITCH)]
        if not self._switched:
            raise UnsupportedError(
                f"ual.smoothing.prior: reference: {head.name} has no adapter that could be "
                "switched off to give the model before tuning",
                _FIX,
            )
        own = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and not any(part in name for part in _OF_ADAPTERS)
        ]
        if own:
            raise UnsupportedError(
                f"ual.smoothing.prior: reference: `{own[0]}` is trained and belongs to no adapter, "
                "so that the model without its adapter is not the model before tuning",
                _FIX,
            )
        original = getattr(head.outer, "original_module", None)
        self._tap = None if original is None else LinearTap(original, model)
        self.tap = self._tap or head.base

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The reference can run while the block does."""
        with nullcontext() if self._tap is None else self._tap.installed():
            yield

    def hidden(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """What the reference's head is applied to, of shape (B, T, H).

        Args:
            forward: of the model.
            args: of the forward.
            kwargs: of the forward, without labels.
        """
        with self._off():
            return _input_of(self.tap, forward, args, kwargs, self.name)

    @contextmanager
    def _off(self) -> Iterator[None]:
        training = [module for module in self._model.modules() if module.training]
        before = [getattr(module, _SWITCH) for module in self._switched]
        for module in training:
            module.training = False
        for module in self._switched:
            setattr(module, _SWITCH, True)
        try:
            yield
        finally:
            for module in training:
                module.training = True
            for module, was in zip(self._switched, before, strict=True):
                setattr(module, _SWITCH, was)


class FrozenModel:
    """A model of its own, whole on every process.

    Args:
        model: a causal language model of the same tokens, which is frozen here.
        head: of the model that trains.

    Attributes:
        tap: the linear layer that is its head.
        transform: what it does to the output of its head.

    Raises:
        UnsupportedError: its head is of a kind that is not known, or of fewer tokens.
    """

    def __init__(self, model: nn.Module, head: Head, num_rows: int | None) -> None:
        own = Head(model)
        rows = head.vocab_size if num_rows is None else num_rows
        if own.vocab_size < rows:
            raise UnsupportedError(
                f"ual.smoothing.reference: its head has {own.vocab_size:,} rows, and the model "
                f"that trains has {rows:,} tokens",
                "name a model with the same tokenizer",
            )
        self.name, self.transform, self.tap = own.name, own.transform, own.base
        self._model = model.requires_grad_(False).eval()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The reference can run while the block does."""
        with self.tap.installed():
            yield

    def hidden(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor:
        """What its head is applied to; arguments as those of `AdapterOff.hidden`."""
        return _input_of(self.tap, self._model, args, kwargs, self.name)


@torch.compiler.disable
def _input_of(
    tap: LinearTap,
    forward: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    name: str,
) -> Tensor:
    tap.answer = nothing
    try:
        with torch.no_grad():
            forward(*args, **{**kwargs, "use_cache": False})
    finally:
        tap.answer = None
    hidden_BTH = tap.take()
    if hidden_BTH is None:
        raise UnsupportedError(
            f"{name}: without labels it does not call its head, so the reference's prediction is "
            "not known",
            "set `ual.smoothing.prior: uniform`, or leave the fused loss out",
        )
    return hidden_BTH
