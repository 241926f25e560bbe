"""With a reference as the prior, a global batch gives the same gradients however it is cut."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sharded_prior
import torch
from sharded import VOCAB, global_batch
from torch import Tensor

from reference.prior import prior_loss, prior_sum
from reference.token_weights import weighted_loss


def expected(reference: str, anchored: bool) -> dict[str, Tensor]:
    """From full logits in float64, the whole batch at once, on one process."""
    model, before = (made.double() for made in sharded_prior.make(reference))
    batch = global_batch()
    batch["smoothing"] = batch.pop("ual_smoothing")
    if reference == "kept":
        kept_loss(model, before, batch).backward()
    elif anchored:
        batch["weight"] = torch.ones(batch["labels"].shape)
        anchor = sharded_prior.ANCHOR
        weighted_loss(model, before, batch, "entropy", anchor=anchor).backward()
    else:
        prior_loss(model, before, batch, 1.0).backward()
    return {name: part.grad for name, part in model.named_parameters() if part.grad is not None}


def kept_loss(model: Any, before: Any, batch: dict[str, Tensor]) -> Tensor:
    """With the kept tokens of the reference, and the rest of its mass spread evenly."""
    ids, mass = sharded_prior.kept_mass(before)
    rest = (1.0 - mass.sum(dim=-1, keepdim=True)) / VOCAB
    spread = rest.expand(*mass.shape[:2], VOCAB).scatter_add(-1, ids, mass)
    labels = batch["labels"][:, 1:].flatten()
    loss = prior_sum(
        model(input_ids=batch["input_ids"]).logits[:, :-1].flatten(0, 1),
        spread[:, 1:].flatten(0, 1).log(),
        labels,
        batch["smoothing"][:, 1:].flatten().double(),
    )
    return loss / (labels != -100).sum()


@pytest.mark.slow
def test_every_cut_and_engine(tmp_path: Path) -> None:
    output = tmp_path / "gradients.pt"
    done = subprocess.run(
        [sys.executable, sharded_prior.__file__, str(output)],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    found: dict[Any, dict[str, Tensor]] = torch.load(output)
    anchored_cuts = 2 * len(sharded_prior.ANCHORED_CUTS)
    assert len(found) == 3 * (3 * (len(sharded_prior.CUTS) + 1) + anchored_cuts)
    for reference, anchored in itertools.product(sharded_prior.REFERENCES, (False, True)):
        if reference == "kept" and anchored:
            continue
        wanted = expected(reference, anchored)
        for case in found:
            if (case[-1], case[0] == "anchored") != (reference, anchored):
                continue
            assert found[case].keys() == wanted.keys(), case
            for name, gradient in wanted.items():
                error = (found[case][name] - gradient).norm() / gradient.norm()
                assert error < 2e-6, (case, name, error)
