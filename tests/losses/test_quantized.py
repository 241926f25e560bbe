"""The smoothed loss on quantised models with an adapter, against full logits of the same model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from axolotl_ual.errors import UnsupportedError
from axolotl_ual.losses.encoding import encode_smoothing
from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.rule import Weights
from reference.models import batch, llama
from reference.smoothed_ce import shifted

BITS = {
    "4": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    "8": {"load_in_8bit": True},
}
HEAD, LAYER = ["lm_head"], ["model.layers.0"]
"""What is left out of the quantisation: the head by default, but not where anything is named."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(tmp_path_factory.mktemp("model"))
    llama(hidden_size=64, intermediate_size=64).float().save_pretrained(folder)
    return folder


def quantized(checkpoint: Path, bits: str, **further: Any) -> Any:
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    config = BitsAndBytesConfig(bnb_4bit_compute_dtype=torch.float32, **BITS[bits], **further)
    return AutoModelForCausalLM.from_pretrained(
        checkpoint, quantization_config=config, dtype=torch.float32, device_map={"": "cpu"}
    )


@pytest.mark.parametrize(
    ("bits", "skipped", "targets", "kernel"),
    [
        ("4", HEAD, ["q_proj", "down_proj"], "model"),
        ("4", HEAD, ["q_proj", "down_proj"], "chunked"),
        ("4", LAYER, ["q_proj", "down_proj"], "model"),
        ("4", LAYER, ["q_proj", "down_proj"], "chunked"),
        ("4", LAYER, ["q_proj", "lm_head"], "model"),
        ("8", HEAD, ["q_proj", "down_proj"], "model"),
        ("8", HEAD, ["q_proj", "down_proj"], "chunked"),
    ],
)
def test_value_and_the_gradients_of_the_adapter(
    checkpoint: Path, bits: str, skipped: list[str], targets: list[str], kernel: Any
) -> None:
    from bitsandbytes.nn import Linear4bit, Linear8bitLt
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    config = LoraConfig(r=3, target_modules=targets, task_type="CAUSAL_LM")
    model = quantized(checkpoint, bits, llm_int8_skip_modules=skipped)
    kinds = {"4": Linear4bit, "8": Linear8bitLt}
    assert type(model.model.layers[1].self_attn.q_proj) is kinds[bits]
    assert (type(model.lm_head) is kinds[bits]) == (skipped is LAYER)
    model = get_peft_model(model, config).train()
    inner = model.get_base_model()
    trained = {name: part for name, part in model.named_parameters() if part.requires_grad}
    with torch.no_grad():
        for part in trained.values():
            part.normal_(std=0.3)
    data = batch()
    bits_BT = encode_smoothing(data["smoothing"])
    count = (data["labels"][:, 1:] != -100).sum()
    objective = SmoothedObjective(inner, kernel)
    objective.weights = Weights(torch.ones(()), 1.0 / count, count.float())
    with objective.installed():
        loss = model(input_ids=data["input_ids"], labels=data["labels"], ual_smoothing=bits_BT).loss
    found = torch.autograd.grad(loss, list(trained.values()))
    logits = model(input_ids=data["input_ids"]).logits.double()
    wanted_loss = shifted(logits, data["labels"], data["smoothing"]) / count
    wanted = torch.autograd.grad(wanted_loss, list(trained.values()))
    assert loss.item() == pytest.approx(wanted_loss.item(), rel=1e-6)
    for name, ours, theirs in zip(trained, found, wanted, strict=True):
        assert (ours - theirs).norm() < 1e-5 * theirs.norm(), name


def test_a_head_of_eight_bits_is_refused(checkpoint: Path) -> None:
    """Its forward rounds the hidden states as well: no weight gives its logits."""
    model = quantized(checkpoint, "8", llm_int8_skip_modules=LAYER)
    with pytest.raises(UnsupportedError) as caught:
        SmoothedObjective(model)
    assert caught.value.problem.startswith("LlamaForCausalLM: its head is a Linear8bitLt")
    assert caught.value.fix.startswith("keep the head in its floating point dtype")
