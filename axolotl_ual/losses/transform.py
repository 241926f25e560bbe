"""What a model does to the output of its head: logits x = cap(s (W h + b)), cap(z) = c tanh(z / c).

Which factor s and which soft cap c a model has is read from its configuration. Models that are not
in these tables have neither, and the first batch is checked against the model's own logits.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from axolotl_ual.errors import UnsupportedError

_TIMES = {
    "cohere": "logit_scale",
    "cohere2": "logit_scale",
    "cohere2_moe": "logit_scale",
    "cohere_compass": "logit_scale",
    "falcon_h1": "lm_head_multiplier",
    "hyperclovax": "logits_scaling",
    "muse_glimmer": "output_multiplier",
}
_DIVIDED_BY = {
    "granite": "logits_scaling",
    "granite_swa": "logits_scaling",
    "granitemoe": "logits_scaling",
    "granitemoe_swa": "logits_scaling",
    "granitemoehybrid": "logits_scaling",
    "granitemoeshared": "logits_scaling",
}
_CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
_TOLERANCE = 0.02
"""Relative: numbers in bfloat16 differ by less where they are rounded twice."""


class Transform(NamedTuple):
    """From the output of a head to the logits of its model.

    Attributes:
        scale: constant factor (1 / logits_scaling in Granite, logit_scale in Cohere).
        cap: soft cap c (Gemma 2's final_logit_softcapping), or None.
    """

    scale: float = 1.0
    cap: float | None = None

    def __call__(self, output: Tensor) -> Tensor:
        """The model's logits, in float32 at least."""
        logits = output.to(torch.promote_types(output.dtype, torch.float32))
        if self.scale != 1.0:
            logits = logits * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


IDENTITY = Transform()
"""Of a model whose logits are what its head puts out."""


def transform_of(config: Any) -> Transform:
    """What a model of this configuration does to the output of its head."""
    get_text_config = getattr(config, "get_text_config", None)
    config = get_text_config() if callable(get_text_config) else config
    kind = getattr(config, "model_type", "")
    scale = 1.0
    if kind in _TIMES:
        scale = getattr(config, _TIMES[kind], None) or 1.0
    elif kind in _DIVIDED_BY:
        scale = 1.0 / (getattr(config, _DIVIDED_BY[kind], None) or 1.0)
    caps = (getattr(config, key, None) for key in _CAPS)
    return Transform(float(scale), next((float(cap) for cap in caps if cap), None))


def require_equal(ours: Tensor, theirs: Tensor, name: str, *, least: float = 1e-3) -> None:
    """Stop where the model's logits, or its loss, are not what is known of its head.

    Args:
        ours: made of the head's output by a `Transform`.
        theirs: what the model made of it.
        name: of the model's class, for the message.
        least: a difference that is always allowed.

    Raises:
        UnsupportedError: they differ by more than rounding explains.
    """
    ours, theirs = ours.detach().float(), theirs.detach().float()
    if not torch.allclose(ours, theirs, rtol=_TOLERANCE, atol=least, equal_nan=True):
        raise UnsupportedError(
            f"{name}: does something to the output of its head that is not known here (largest "
            f"difference {(ours - theirs).abs().max().item():.3g}), so its loss would be wrong",
            "take the plugin out for this model",
        )
