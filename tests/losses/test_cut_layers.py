"""The gradients of one batch are the same where processes have a part of each layer's weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cut_layers
import pytest
import sharded
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from reference.smoothed_ce import shifted
from reference.token_weights import weighted_loss

Found = dict[Any, dict[str, Tensor]]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Found, Path]:
    output = Path(tmp_path_factory.mktemp("cut")) / "gradients.pt"
    done = subprocess.run(
        [sys.executable, cut_layers.__file__, str(output)],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    return torch.load(output), output.with_suffix(".model")


@pytest.mark.slow
@pytest.mark.parametrize("kernel", cut_layers.KERNELS)
def test_every_cut(found: tuple[Found, Path], kernel: str) -> None:
    """From full logits on one process. transformers has norms and attention in float32."""
    gradients, folder = found
    model = LlamaForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).train()
    batch = cut_layers.batch()
    if kernel == "weighted":
        data = {"smoothing": batch.pop("ual_smoothing"), "weight": sharded.weights(), **batch}
        loss = weighted_loss(model, None, data, "probability")
    else:
        logits = model(input_ids=batch["input_ids"]).logits
        loss = shifted(logits, batch["labels"], batch["ual_smoothing"])
        loss = loss / (batch["labels"][:, 1:] != -100).sum()
    loss.backward()
    wanted = {name: part.grad for name, part in model.named_parameters()}
    error = 1e-6
    cases = [case for case in cut_layers.CASES if case[0] == kernel]
    assert {case[1] for case in cases} == {1, 2}
    for case in cases:
        one = dict(gradients[case])
        torch.testing.assert_close(one.pop("loss"), loss.detach(), rtol=error, atol=0)
        assert one.keys() == wanted.keys()
        for name, gradient in wanted.items():
            assert gradient is not None
            assert (one[name] - gradient).norm() < error * gradient.norm(), (case, name)
        # Two processes are one, but for the order of sums.
        alike = gradients[(kernel, 1, case[2])]
        for name, gradient in one.items():
            assert (gradient - alike[name]).norm() < 1e-12 * gradient.norm(), (case, name)
