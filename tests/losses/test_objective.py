"""The smoothed loss inside real models, in float64, against full logits token by token."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch
from objectives import assert_equal_gradients, gradients, innermost, smoothed_loss, weights
from torch import Tensor
from torch.nn import functional as F

from axolotl_ual.errors import UnsupportedError
from axolotl_ual.losses import chunked_ce
from axolotl_ual.losses.encoding import encode_smoothing
from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.rule import Weights
from reference.models import HEADS, VOCAB, adapted, batch, llama, reference_loss

ADAPTED = ("LoRA on it",)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """24 tokens in chunks of 5."""
    monkeypatch.setattr(chunked_ce, "_CHUNK_TOKENS", 5)
    monkeypatch.setattr(chunked_ce, "_LEAST_LOGITS", 1)
    monkeypatch.setattr(chunked_ce, "_LEAST_TOKENS", 1)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        (name, kernel)
        for name in HEADS
        for kernel in ("model", "chunked", "auto")
        if not (name in ADAPTED and kernel == "chunked")  # refused, see below
    ],
)
def test_value_and_every_gradient(name: str, kernel: str, packed: bool) -> None:
    model = HEADS[name]().train()
    data = batch(packed)
    num_rows = VOCAB if name == "padded" else None
    objective = SmoothedObjective(innermost(model), kernel, num_rows)
    assert objective.uses_chunks(24) == (kernel != "model" and name not in ADAPTED)
    # Twice: the first batch is also checked, and the adapter's dropout draws each time.
    for seed in (1, 2):
        torch.manual_seed(seed)
        found = smoothed_loss(model, data, objective)
        mine = gradients(model, found)
        torch.manual_seed(seed)
        wanted = reference_loss(model, data, num_rows)
        assert found.item() == pytest.approx(wanted.item(), rel=1e-10)
        assert_equal_gradients(mine, gradients(model, wanted))


@pytest.mark.parametrize("kernel", ["model", "chunked"])
def test_the_parts_add_up(kernel: str) -> None:
    model, data = llama().train(), batch()
    objective = SmoothedObjective(model, kernel)
    loss = smoothed_loss(model, data, objective)
    nll, margin, count = objective.parts
    plain = F.cross_entropy(
        model(data["input_ids"]).logits[:, :-1].flatten(0, 1), data["labels"][:, 1:].flatten()
    )
    assert (nll / count).item() == pytest.approx(plain.item(), rel=1e-10)
    assert ((nll + margin) / count).item() == pytest.approx(loss.item(), rel=1e-10)


@pytest.mark.parametrize("kernel", ["model", "chunked"])
@pytest.mark.parametrize("name", ["plain", "experts"])
def test_a_batch_without_trained_tokens_is_a_connected_zero(name: str, kernel: str) -> None:
    model, data = HEADS[name]().train(), batch()
    data["labels"] = torch.full_like(data["labels"], -100)
    objective = SmoothedObjective(model, kernel)
    objective.weights = Weights(*(torch.zeros(()) for _ in range(3)))
    inputs = {key: value for key, value in data.items() if key != "smoothing"}
    with objective.installed():
        loss = model(**inputs, ual_smoothing=encode_smoothing(data["smoothing"])).loss
    assert loss.item() == 0.0
    found = gradients(model, loss)
    assert all(torch.isfinite(gradient).all() for gradient in found.values())
    assert {name for name, _ in model.named_parameters()} == found.keys()


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing(use_reentrant: bool) -> None:
    data = batch()
    model = llama().train()
    wanted = gradients(model, reference_loss(model, data))
    model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    model.enable_input_require_grads()
    for kernel in ("model", "chunked"):
        loss = smoothed_loss(model, data, SmoothedObjective(model, kernel))
        assert_equal_gradients(gradients(model, loss), wanted)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kernel", ["model", "chunked"])
def test_compiled(kernel: str, backend: str) -> None:
    data = batch()
    model = llama().train()
    wanted = gradients(model, reference_loss(model, data))
    objective = SmoothedObjective(model, kernel)
    inputs = {key: value for key, value in data.items() if key != "smoothing"}
    torch._dynamo.reset()
    with objective.installed():
        compiled = torch.compile(model, backend=backend)
        for _ in range(2):
            objective.weights = weights(data["labels"])
            bits = encode_smoothing(data["smoothing"])
            found = gradients(model, compiled(**inputs, ual_smoothing=bits).loss)
            assert_equal_gradients(found, wanted)


def test_without_smoothing_the_model_is_as_it_was() -> None:
    model, data = llama().eval(), batch()
    plain = model(input_ids=data["input_ids"], labels=data["labels"])
    before = dict(model.__dict__)
    with SmoothedObjective(model).installed():
        inside = model(input_ids=data["input_ids"], labels=data["labels"])
        assert inside.loss.equal(plain.loss)
        assert inside.logits.equal(plain.logits)
    assert model.__dict__ == before
    assert "forward" not in model.lm_head.__dict__
    assert not model.model._forward_hooks
    assert not model.lm_head._forward_hooks


def test_an_evaluation_before_training_keeps_nothing_alive() -> None:
    model, data = llama().eval(), batch()
    with SmoothedObjective(model).installed():
        outputs = model(
            input_ids=data["input_ids"], labels=data["labels"], output_hidden_states=True
        )
        kept = [outputs.logits, outputs.hidden_states[-1]]
        places = {tensor.untyped_storage().data_ptr() for tensor in kept}
        del outputs, kept
        gc.collect()
        tensors = [item for item in gc.get_objects() if type(item) is Tensor]
        assert not [item for item in tensors if item.untyped_storage().data_ptr() in places]


def test_the_mean_row_of_a_frozen_head_is_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from axolotl_ual.losses import heads

    calls = []
    real = heads.mean_row
    monkeypatch.setattr(heads, "mean_row", lambda *a: calls.append(1) or real(*a))
    model, data = adapted().train(), batch()
    objective = SmoothedObjective(innermost(model), "model")
    for _ in range(3):
        smoothed_loss(model, data, objective)
    assert len(calls) == 1
    with torch.no_grad():
        innermost(model).lm_head.weight.mul_(2.0)
    smoothed_loss(model, data, objective)
    assert len(calls) == 2


class TestFusedLosses:
    """Forwards that compute their loss from the head's weight and call no head."""

    @staticmethod
    def fused(model: Any, factor: float = 1.0) -> Any:
        """Its loss does what Liger's does: it reads the head's own weight, whatever is on it."""

        def forward(self: Any, input_ids: Tensor, labels: Tensor, **_: Any) -> dict[str, Any]:
            hidden = self.model(input_ids=input_ids).last_hidden_state[:, :-1].flatten(0, 1)
            logits = hidden @ self.lm_head.weight.T * factor
            return {"loss": F.cross_entropy(logits, labels[:, 1:].flatten()), "logits": None}

        class Fused(type(model)):
            pass

        Fused.forward = forward
        model.__class__ = Fused
        return model

    def test_value_and_every_gradient(self) -> None:
        data = batch()
        reference = llama().train()
        wanted = gradients(reference, reference_loss(reference, data))
        model = self.fused(llama().train())
        objective = SmoothedObjective(model, "auto")
        assert not objective.uses_chunks(10**9)
        inputs = {key: value for key, value in data.items() if key != "smoothing"}
        objective.weights = weights(data["labels"])
        with objective.installed():
            outputs = model(**inputs, ual_smoothing=encode_smoothing(data["smoothing"]))
        assert_equal_gradients(gradients(model, outputs["loss"]), wanted)

    def test_a_loss_that_is_not_of_its_head_stops(self) -> None:
        model, data = self.fused(llama().train(), factor=0.1), batch()
        objective = SmoothedObjective(model, "auto")
        objective.weights = weights(data["labels"])
        inputs = {key: value for key, value in data.items() if key != "smoothing"}
        with objective.installed(), pytest.raises(UnsupportedError, match="not known here"):
            model(**inputs, ual_smoothing=encode_smoothing(data["smoothing"]))

    def test_a_loss_that_leaves_an_adapter_out_stops(self) -> None:
        model, data = innermost(HEADS["LoRA on it"]()).train(), batch()
        objective = SmoothedObjective(self.fused(model), "auto")
        with pytest.raises(UnsupportedError) as caught:
            smoothed_loss(model, data, objective)
        assert "fused loss reads the head's weight and leaves the adapter" in caught.value.problem
        assert "leave the head (`lm_head`) out of `lora_target_modules`" in caught.value.fix


def test_hidden_states_of_another_shape_stop() -> None:
    """A head that is applied to the last position only: whose smoothing would that be?"""

    class Short(type(llama())):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            labels = kwargs.pop("labels")
            outputs = super().forward(*args, logits_to_keep=1, **kwargs)
            outputs.loss = self.loss_function(outputs.logits, labels[:, -1:], VOCAB)
            return outputs

    model, data = llama().train(), batch()
    model.__class__ = Short
    with pytest.raises(UnsupportedError) as caught:
        smoothed_loss(model, data, SmoothedObjective(model, "model"))
    assert "hidden states have the shape (2, 1, 16) and its labels (2, 12)" in caught.value.problem
    assert caught.value.fix == "take the plugin out for this model"


@pytest.mark.parametrize("kernel", ["model", "chunked"])
def test_logits_that_are_changed_in_an_unknown_way_stop(kernel: str) -> None:
    class Odd(type(llama())):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            labels = kwargs.pop("labels", None)
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits * 0.5
            if labels is not None:
                outputs.loss = self.loss_function(outputs.logits, labels, VOCAB)
            return outputs

    model, data = llama().train(), batch()
    model.__class__ = Odd
    with pytest.raises(UnsupportedError) as caught:
        smoothed_loss(model, data, SmoothedObjective(model, kernel))
    assert "Odd: does something to the output of its head that is not kn" in caught.value.problem
    assert caught.value.fix == "take the plugin out for this model"


def capped_and_adapted() -> Any:
    model = adapted(target_modules=["q_proj", "lm_head"])
    innermost(model).config.final_logit_softcapping = 3.0
    return model


def odd_head() -> Any:
    model = llama()
    model.lm_head = torch.nn.Sequential(model.lm_head)
    return model


@pytest.mark.parametrize(
    ("make", "kernel", "problem", "fix"),
    [
        (
            HEADS["LoRA on it"],
            "chunked",
            "ual.loss.kernel: chunked: the head of LlamaForCausalLM has an adapter",
            "set `ual.loss.kernel: model`, or leave `lm_head` out of `lora_target_modules`",
        ),
        (
            lambda: adapted(target_modules=["lm_head"], use_dora=True),
            "auto",
            "LlamaForCausalLM: the adapter on its head is not plain LoRA (DoRA, for example)",
            "leave the head (`lm_head`) out of `lora_target_modules`",
        ),
        (
            capped_and_adapted,
            "auto",
            "LlamaForCausalLM: its logits have a soft cap and its head has an adapter",
            "leave the head (`lm_head`) out of `lora_target_modules`",
        ),
        (
            odd_head,
            "auto",
            "LlamaForCausalLM: its head is a Sequential, not a linear layer whose weight can be "
            "read",
            "keep the head in its floating point dtype or in bitsandbytes' four bits, or take the "
            "plugin out for this model",
        ),
    ],
    ids=["chunked with an adapter", "DoRA", "soft cap with an adapter", "not linear"],
)
def test_refused_heads(make: Any, kernel: Any, problem: str, fix: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        SmoothedObjective(innermost(make()), kernel)
    assert (caught.value.problem, caught.value.fix) == (problem, fix)
