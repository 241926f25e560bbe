"""Tiny causal language models of every kind of head, in float64, and their smoothed loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reference.smoothed_ce import shifted

VOCAB = 37
_SHARED: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def loss_in_full_precision(logits: Tensor, labels: Tensor, vocab_size: int, **_: Any) -> Tensor:
    """What transformers computes, without its cast to float32."""
    following = F.pad(labels, (0, 1), value=-100)[..., 1:]
    return F.cross_entropy(logits.reshape(-1, logits.shape[-1]), following.reshape(-1))


def _make(name: str, **config: Any) -> Any:
    import transformers

    torch.manual_seed(0)
    kind = getattr(transformers, f"{name}Config")
    model = getattr(transformers, f"{name}ForCausalLM")(kind(**{**_SHARED, **config})).double()
    model.loss_function = loss_in_full_precision
    # Untrained logits are all but equal: spread them, so that a wrong scale shows.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(40.0)
    return model


def llama(**config: Any) -> Any:
    """The plain case."""
    return _make("Llama", **config)


def with_bias() -> Any:
    """A head with a bias."""
    model = llama()
    head = nn.Linear(16, VOCAB, bias=True, dtype=torch.float64)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.normal_()
    model.lm_head = head
    return model


def resized() -> Any:
    """A vocabulary rounded up from 37 to 40 rows."""
    model = llama()
    model.resize_token_embeddings(VOCAB, pad_to_multiple_of=8)
    return model


def experts() -> Any:
    """A mixture of experts with the loss that balances their load."""
    model = _make(
        "Mixtral", num_local_experts=4, output_router_logits=True, router_aux_loss_coef=0.1
    )
    # The grouped product of all experts has no float64.
    model.set_experts_implementation("eager")
    return model


def adapted(**config: Any) -> Any:
    """LoRA on the attention, and on what else is asked for."""
    from peft import LoraConfig, get_peft_model

    settings: dict[str, Any] = {"r": 3, "lora_alpha": 6, "target_modules": ["q_proj"], **config}
    model = get_peft_model(llama(), LoraConfig(task_type="CAUSAL_LM", **settings)).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
    return model


HEADS: dict[str, Callable[[], Any]] = {
    "plain": llama,
    "tied": lambda: llama(tie_word_embeddings=True),
    "bias": with_bias,
    "divided logits": lambda: _make("Granite", logits_scaling=4.0),
    "multiplied logits": lambda: _make("Cohere", logit_scale=0.25),
    "soft cap": lambda: _make("Gemma2", final_logit_softcapping=3.0, head_dim=8),
    "experts": experts,
    "frozen": adapted,
    "LoRA on it": lambda: adapted(target_modules=["q_proj", "lm_head"], lora_dropout=0.3),
    "modules_to_save": lambda: adapted(modules_to_save=["lm_head"]),
    "padded": resized,
}


def batch(packed: bool = False) -> dict[str, Tensor]:
    """Two sequences of 12 tokens, or one bin of two samples with its own positions."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(3, VOCAB, (2, 12), generator=generator)
    labels = ids.clone()
    labels[0, :5] = -100
    labels[1, 8:] = -100
    smoothing = torch.rand(2, 12, generator=generator)
    positions = torch.arange(12).repeat(2, 1)
    if not packed:
        return {"input_ids": ids, "labels": labels, "smoothing": smoothing}
    return {
        "input_ids": ids.reshape(1, 24),
        "labels": labels.reshape(1, 24),
        "smoothing": smoothing.reshape(1, 24),
        "position_ids": positions.reshape(1, 24),
    }


def reference_loss(model: Any, data: dict[str, Tensor], num_rows: int | None = None) -> Tensor:
    """Mean over trained tokens, from full logits, token by token; with the experts' loss."""
    inputs = {key: value for key, value in data.items() if key not in ("labels", "smoothing")}
    outputs = model(**inputs)
    logits = outputs.logits if num_rows is None else outputs.logits[..., :num_rows]
    loss = shifted(logits, data["labels"], data["smoothing"])
    if num_rows is not None:
        # The target ignores rows that pad; the model's own softmax does not.
        following = data["labels"][:, 1:].flatten()
        full, short = outputs.logits[:, :-1].flatten(0, 1), logits[:, :-1].flatten(0, 1)
        loss = loss + F.cross_entropy(full, following, reduction="sum")
        loss = loss - F.cross_entropy(short, following, reduction="sum")
    loss = loss / (data["labels"][:, 1:] != -100).sum()
    if outputs.get("aux_loss") is not None:
        loss = loss + 0.1 * outputs.aux_loss
    return loss
