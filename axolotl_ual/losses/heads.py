"""The head of a causal language model: which weights its logits are made of, and how.

A head is a linear layer, alone, trained as a copy (`modules_to_save`), or with a LoRA adapter on
it, whose logits are W h + s B (A d(h)) + b: a second linear layer B on the adapter's own input.
Some models then scale their logits or cap them. A weight of four bits (bitsandbytes) is read as
its layer's own forward reads it: dequantised, for as long as it is used. One that tensor
parallelism has cut over processes is gathered for as long, and each process keeps its part of the
gradient.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from axolotl_ual.errors import UnsupportedError

from .smoothed_ce import MeanRow, mean_row
from .transform import transform_of

Job = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""Computes something from a head's input, weight and bias."""


class Tap:
    """A module of a head, whose forward notes its input and can run a job instead.

    A job is run by calling the module, so that an engine that shards its weights gathers them for
    the call, and is told of the gradient that the job's result brings. Where the first generation
    of FSDP has wrapped it, alone or in a part of the model, the call is that of its wrapper.

    Args:
        module: a module of the head.
        model: in which it is wrapped.

    Attributes:
        input: what the model called the module with, since it was last taken.
        answer: what the model gets in the place of the module's output; None is that output.
        plain: the module's own forward.
    """

    def __init__(self, module: nn.Module, model: nn.Module) -> None:
        self.module = module
        self._model = model
        self._unit: nn.Module | None = None
        self.input: Tensor | None = None
        self.answer: Callable[..., Any] | None = None
        self.plain = module.forward
        self._job: Callable[[Tensor], Tensor] | None = None

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The module's forward is this tap's while the block runs."""
        self._unit = None
        with replaced_forward(self.module, self._forward) as self.plain:
            yield

    def take(self) -> Tensor | None:
        """The noted input, which is then forgotten."""
        found, self.input = self.input, None
        return found

    def call(self, hidden: Tensor, job: Callable[[Tensor], Tensor]) -> Tensor:
        """Call the module to run `job` in the place of its forward."""
        self._job = job
        if self._unit is None:
            self._unit = _fsdp_unit(self.module, self._model)
        unit: Any = self._unit
        inner = unit if unit is self.module else unit.module
        with nullcontext() if inner is self.module else replaced_forward(inner, self.module):
            result: Tensor = unit(hidden)
        return result

    def _forward(self, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        if self._job is not None:
            job, self._job = self._job, None
            return job(hidden)
        self.input = hidden
        return (self.answer or self.plain)(hidden, *args, **kwargs)


class LinearTap(Tap):
    """One linear layer of a head, whose jobs read its weight.

    Attributes:
        scale: constant factor on its output.
    """

    def __init__(self, module: nn.Module, model: nn.Module, scale: float = 1.0) -> None:
        super().__init__(module, model)
        self.scale = scale
        self._mean: tuple[Any, MeanRow] | None = None
        self._read: tuple[Tensor, Tensor | None] | None = None

    def run(self, hidden: Tensor, job: Job) -> Tensor:
        """Call the layer to run `job` on its weight and bias."""

        def on_weight(given: Tensor) -> Tensor:
            self._read = self._weight(), _whole(self.module.bias)
            try:
                return job(given, *self._read)
            finally:
                self._read = None

        return self.call(hidden, on_weight)

    def mean(self, num_rows: int | None) -> MeanRow:
        """The mean row, kept while the layer is frozen. To be called within a job."""
        if self._read is None:
            raise RuntimeError(
                "the mean row of a head was asked for outside of a call of its layer"
            )
        weight, bias = self.module.weight, self.module.bias
        if weight.requires_grad or (bias is not None and bias.requires_grad):
            return mean_row(*self._read, num_rows)
        key = (weight._version, weight.device, weight.dtype, num_rows)
        if self._mean is None or self._mean[0] != key:
            self._mean = (key, mean_row(*self._read, num_rows))
        return self._mean[1]

    def _weight(self) -> Tensor:
        weight: Tensor = self.module.weight
        state = _four_bits(self.module)
        if state is None:
            _require_whole(weight, self.module)
            return _whole(weight)
        from bitsandbytes.functional import dequantize_4bit

        dequantized: Tensor = dequantize_4bit(weight.detach(), state)
        return dequantized


class Head:
    """The head of a model as its linear layers and its transform.

    Args:
        model: the innermost causal language model.

    Raises:
        UnsupportedError: the head is of a kind whose logits are not known here.
    """

    def __init__(self, model: nn.Module) -> None:
        self.name = type(model).__name__
        self.outer: nn.Module = model.get_output_embeddings()
        self.transform = transform_of(model.config)
        inner = _copy_in_training(self.outer)
        self.taps = [LinearTap(inner, model)]
        if hasattr(inner, "base_layer"):
            self.taps = [LinearTap(inner.base_layer, model), *_adapters(inner, model)]
            if self.transform.cap is not None:
                raise UnsupportedError(
                    f"{self.name}: its logits have a soft cap and its head has an adapter",
                    "leave the head (`lm_head`) out of `lora_target_modules`",
                )
        _check_linear(self.taps[0].module, self.name)

    @property
    def base(self) -> LinearTap:
        """The linear layer itself, without an adapter."""
        return self.taps[0]

    @property
    def is_plain(self) -> bool:
        """Whether the logits come from one linear layer."""
        return len(self.taps) == 1

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        return int(self.base.module.out_features)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Taps are in place while the block runs."""
        with ExitStack() as stack:
            for tap in self.taps:
                stack.enter_context(tap.installed())
            yield


def nothing(hidden_BTH: Tensor) -> Tensor:
    """An answer of a tap that spares its layer's product: one column of zeros."""
    return hidden_BTH.new_zeros((*hidden_BTH.shape[:-1], 1))


def causal_lm(model: Any) -> Any:
    """The causal language model inside an adapter."""
    inner = getattr(model, "get_base_model", None)
    return inner() if callable(inner) else model


@contextmanager
def replaced_forward(module: nn.Module, replacement: Any) -> Iterator[Any]:
    """Replace one module instance's forward while the block runs; gives the original.

    Where somebody has wrapped the replacement meanwhile it stays, and has to do no harm.
    """
    original = module.forward
    was_own = module.__dict__.get("forward")

    @functools.wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        return replacement(*args, **kwargs)

    module.forward = forward
    try:
        yield original
    finally:
        if module.__dict__.get("forward") is forward:
            if was_own is None:
                del module.__dict__["forward"]
            else:
                module.forward = was_own


def _copy_in_training(head: nn.Module) -> Any:
    """The copy that `modules_to_save` trains in the place of the head, or the head."""
    copies = getattr(head, "modules_to_save", None)
    if copies is None:
        return head
    return copies[head.active_adapters[0]]


def _adapters(layer: Any, model: nn.Module) -> list[LinearTap]:
    taps, name = [], type(model).__name__
    for adapter in layer.active_adapters:
        if adapter not in layer.lora_A:
            continue
        if adapter in getattr(layer, "lora_variant", {}):
            raise UnsupportedError(
                f"{name}: the adapter on its head is not plain LoRA (DoRA, for example)",
                "leave the head (`lm_head`) out of `lora_target_modules`",
            )
        taps.append(LinearTap(layer.lora_B[adapter], model, float(layer.scaling[adapter])))
    return taps


def _fsdp_unit(module: nn.Module, model: nn.Module) -> nn.Module:
    """The wrapper below a model, by the first generation of FSDP, that gathers a module's weight.

    The module itself where the model's own wrapper does, whose call is under way.
    """
    from torch.distributed.fsdp import FullyShardedDataParallel

    wrappers = [unit for unit in model.modules() if isinstance(unit, FullyShardedDataParallel)]
    around = [unit for unit in wrappers if any(part is module for part in unit.modules())]
    return around[-1] if around else module


def _whole(weight: Any) -> Any:
    """A weight as a plain tensor: gathered where tensor parallelism has cut it.

    Each process computes the same loss from the same hidden states, so that the gradient of the
    whole is the same everywhere: the way back takes this process's part of it, and adds up nothing.
    """
    return weight.full_tensor() if hasattr(weight, "full_tensor") else weight


def _require_whole(weight: Tensor, layer: nn.Module) -> None:
    if weight.dim() != 2:
        raise UnsupportedError(
            f"the head's weight has the shape {tuple(weight.shape)}: the first generation of FSDP "
            f"has made its {type(layer).__name__} a unit of its own, and cut it",
            "set `fsdp_version: 2`, or wrap transformer layers alone "
            "(`fsdp_config.auto_wrap_policy: TRANSFORMER_BASED_WRAP`)",
        )


def _four_bits(layer: nn.Module) -> Any:
    """How bitsandbytes has packed a layer's weight; None where it has not."""
    states = (getattr(holder, "quant_state", None) for holder in (layer.weight, layer))
    return next((state for state in states if state is not None), None)


def _check_linear(head: Any, name: str) -> None:
    plain = isinstance(head, nn.Linear) and type(head).forward is nn.Linear.forward
    plain = plain and torch.is_floating_point(head.weight)
    packed = isinstance(head, nn.Linear) and _four_bits(head) is not None
    if not plain and not packed:
        raise UnsupportedError(
            f"{name}: its head is a {type(head).__name__}, not a linear layer whose weight can be "
            "read",
            "keep the head in its floating point dtype or in bitsandbytes' four bits, or take the "
            "plugin out for this model",
        )
