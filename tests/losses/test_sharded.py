"""One global batch gives the same gradients however it is cut and its model sharded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sharded
import torch
from torch import Tensor

from reference.smoothed_ce import shifted
from reference.token_weights import weighted_loss

Gradients = dict[str, Tensor]


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, Gradients]:
    output = Path(tmp_path_factory.mktemp("sharded")) / "gradients.pt"
    done = subprocess.run(
        [sys.executable, sharded.__file__, str(output)],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    found: dict[Any, Gradients] = torch.load(output)
    return found


@pytest.fixture(scope="module", params=sharded.HEADS)
def wanted(request: pytest.FixtureRequest) -> tuple[str, Gradients]:
    """From full logits in float64, the whole batch at once, on one process."""
    model, batch = sharded.make_model(request.param).double(), sharded.global_batch()
    logits = model(input_ids=batch["input_ids"]).logits
    loss = shifted(logits, batch["labels"], batch["ual_smoothing"])
    (loss / (batch["labels"][:, 1:] != -100).sum()).backward()
    return request.param, {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.slow
def test_every_cut_and_engine(
    gradients: dict[Any, Gradients], wanted: tuple[str, Gradients]
) -> None:
    head, expected = wanted
    cases = [case for case in sharded.cases() if case[-1] == head and case[0] != "weighted"]
    assert len(cases) == len(sharded.ALL) * (len(sharded.CUTS) + 1)
    for case in cases:
        assert_equal(gradients[case], expected, case)


@pytest.mark.slow
def test_every_cut_of_weighted_tokens(gradients: dict[Any, Gradients]) -> None:
    """Each row by its weight, each token by its probability."""
    model, batch = sharded.make_model("trained").double(), sharded.global_batch()
    data = {"smoothing": batch.pop("ual_smoothing"), "weight": sharded.weights(), **batch}
    weighted_loss(model, None, data, "probability").backward()
    expected = {name: part.grad for name, part in model.named_parameters()}
    cases = [case for case in sharded.cases() if case[0] == "weighted"]
    assert len(cases) == len(sharded.ALL) * len(sharded.WEIGHTED_CUTS)
    for case in cases:
        assert_equal(gradients[case], expected, case)


def assert_equal(found: Gradients, expected: Gradients, case: Any) -> None:
    assert found.keys() == expected.keys(), case
    for name, gradient in expected.items():
        error = (found[name] - gradient).norm() / gradient.norm()
        assert error < 1e-6, (case, name, error)
