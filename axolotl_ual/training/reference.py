"""The reference that a recipe asks for: the model without its adapter, or one that is loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers import TrainingArguments

from axolotl_ual.errors import BackendError
from axolotl_ual.losses.heads import Head
from axolotl_ual.losses.reference import AdapterOff, FrozenModel


def make_reference(
    head: Head, model: nn.Module, path: str | None, num_rows: int | None, args: TrainingArguments
) -> AdapterOff | FrozenModel:
    """The reference of a model that trains.

    Args:
        head: of the model.
        model: the innermost causal language model.
        path: folder or Hub name of the model before tuning, which every process then keeps whole
            on its device; None switches the adapter off.
        num_rows: tokens.
        args: of the trainer.

    Raises:
        UnsupportedError: there is no adapter, or the heads do not fit.
        BackendError: the model cannot be loaded.
    """
    if path is None:
        return AdapterOff(model, head)
    return FrozenModel(_load(path, model, args).to(args.device), head, num_rows)


def _load(path: str, like: nn.Module, args: TrainingArguments) -> Any:
    from transformers import AutoModelForCausalLM

    config: Any = like.config
    try:
        with _whole(getattr(args, "hf_deepspeed_config", None)):
            return AutoModelForCausalLM.from_pretrained(
                path, dtype=like.dtype, attn_implementation=config._attn_implementation
            )
    except (OSError, ValueError) as error:
        raise BackendError(
            f"ual.smoothing.reference: {path}: cannot be loaded ({error})",
            "name the folder or the Hub name of a causal language model",
        ) from error


@contextmanager
def _whole(deepspeed: Any) -> Iterator[None]:
    """Under ZeRO-3 transformers would shard what it loads, which only an engine can gather."""
    if deepspeed is None:
        yield
        return
    from transformers.integrations.deepspeed import (
        set_hf_deepspeed_config,
        unset_hf_deepspeed_config,
    )

    unset_hf_deepspeed_config()
    try:
        yield
    finally:
        set_hf_deepspeed_config(deepspeed)
