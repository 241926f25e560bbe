"""A smoothed loss of a small model, and its gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from axolotl_ual.losses.encoding import encode_smoothing
from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.rule import Weights


def innermost(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def weights(labels: Tensor) -> Weights:
    count = (labels[:, 1:] != -100).sum().double()
    return Weights(torch.ones((), dtype=torch.float64), 1.0 / count.clamp(min=1), count)


def smoothed_loss(model: Any, data: dict[str, Tensor], objective: SmoothedObjective) -> Tensor:
    inputs = {key: value for key, value in data.items() if key != "smoothing"}
    objective.weights = weights(data["labels"])
    with objective.installed():
        loss: Tensor = model(**inputs, ual_smoothing=encode_smoothing(data["smoothing"])).loss
    return loss


def weighted_loss_of(model: Any, data: dict[str, Tensor], objective: SmoothedObjective) -> Tensor:
    """The loss of a batch whose tokens may have a weight, over the sum of their weights."""
    given = {key: value for key, value in data.items() if key not in ("smoothing", "weight")}
    bits = {"ual_smoothing": encode_smoothing(data["smoothing"])}
    trained, mass = data["labels"][:, 1:] != -100, torch.ones(data["labels"].shape)
    if "weight" in data:
        mass = data["weight"]
        bits["ual_weight"] = encode_smoothing(mass)
    total = mass[:, 1:][trained].double().sum()
    divisor = torch.where(total > 0, total, 1.0)
    objective.weights = Weights((total > 0).double(), 1.0 / divisor, total)
    with objective.installed():
        outputs = model(**given, **bits)
    return outputs["loss"]


def gradients(model: Any, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def assert_equal_gradients(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, expected in wanted.items():
        error = (found[name] - expected).norm() / expected.norm().clamp(min=1e-6)
        assert error < 1e-9, f"{name}: {error}"
