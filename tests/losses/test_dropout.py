"""Families whose configuration drops activations: the loss differs from a reference by that alone.

OPT drops 0.1 of its activations and Seed-OSS 0.1 of its attention and of its residuals unless the
configuration says otherwise, so a reference in evaluation mode is another function of the weights.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from objectives import smoothed_loss
from torch import Tensor

from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.rule import Kernel
from reference.models import VOCAB
from reference.smoothed_ce import shifted

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OPT = {"ffn_dim": 24, "word_embed_proj_dim": 16}
_SEED_OSS = {"intermediate_size": 24, "num_key_value_heads": 2, "head_dim": 8}


def make(name: str, **config: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, f"{name}Config")
    model = getattr(transformers, f"{name}ForCausalLM")(kind(**{**_SIZES, **config}))
    # Untrained logits are all but equal: spread them, so that a wrong scale shows.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(10.0)
    return model


def batch() -> dict[str, Tensor]:
    ids = torch.randint(3, VOCAB, (3, 12), generator=torch.Generator().manual_seed(5))
    labels = ids.clone()
    labels[:, :3] = -100
    smoothing = torch.tensor([0.0, 0.2, 0.4])[:, None].expand(3, 12).contiguous()
    attention = torch.ones_like(ids)
    return {
        "input_ids": ids, "labels": labels, "smoothing": smoothing, "attention_mask": attention
    }  # fmt: skip


def reference(model: Any, data: dict[str, Tensor]) -> float:
    with torch.no_grad():
        logits = model(input_ids=data["input_ids"], attention_mask=data["attention_mask"]).logits
    total = shifted(logits.double(), data["labels"], data["smoothing"])
    return float(total) / int((data["labels"][:, 1:] != -100).sum())


@pytest.mark.parametrize("kernel", ["model", "chunked"])
@pytest.mark.parametrize(("name", "sizes"), [("OPT", _OPT), ("SeedOss", _SEED_OSS)])
def test_loss_is_cross_entropy_under_the_same_dropout(
    name: str, sizes: dict[str, int], kernel: Kernel
) -> None:
    model, data = make(name, **sizes).train(), batch()
    torch.manual_seed(1)
    loss = float(smoothed_loss(model, data, SmoothedObjective(model, kernel, VOCAB)))
    torch.manual_seed(1)
    assert loss == pytest.approx(reference(model, data), rel=1e-6)
    # Without the same draws the two are apart by what is dropped.
    assert abs(loss - reference(model.eval(), data)) > 1e-4 * loss
