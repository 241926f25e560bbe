"""With a reference as the prior, a global batch gives the same gradients however it is cut."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
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


Found = dict[Any, dict[str, Tensor]]


@pytest.fixture(scope="module")
def errors(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, float]]:
    """Relative error of each gradient against full logits in float64, by case."""
    output = tmp_path_factory.mktemp("sharded") / "gradients.pt"
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
    found: Found = torch.load(output)
    wanted = functools.cache(expected)
    return {case: apart(found[case], wanted(case[4], case[0] == "anchored")) for case in found}


def apart(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, float]:
    assert found.keys() == wanted.keys()
    return {
        name: float((found[name] - whole).norm() / whole.norm()) for name, whole in wanted.items()
    }


@pytest.mark.slow
def test_every_cut_and_engine(errors: dict[Any, dict[str, float]]) -> None:
    """To 1e-6, or to twice what float32 itself gives one process where that is more (1.14e-6)."""
    cases = [case for case in errors if case[-1] == "float32"]
    anchored_cuts = 2 * len(sharded_prior.ANCHORED_CUTS)
    assert len(cases) == 3 * (3 * (len(sharded_prior.CUTS) + 1) + anchored_cuts)
    for reference in sharded_prior.REFERENCES:
        here = [case for case in cases if case[4] == reference]
        alone = [error for case in here if case[2:4] == (1, 1) for error in errors[case].values()]
        assert max(alone) < 5e-6
        for case in here:
            for name, error in errors[case].items():
                assert error < max(1e-6, 2 * max(alone)), (case, name, error)


@pytest.mark.slow
def test_in_float64_every_cut_and_engine_is_exact(errors: dict[Any, dict[str, float]]) -> None:
    """So that the errors above are float32's rounding, and no rule that a cut changes."""
    cases = [case for case in errors if case[-1] == "float64"]
    assert len(cases) == 2 * (len(sharded_prior.REFERENCES) + 2 * len(sharded_prior.ANCHORED_CUTS))
    for case in cases:
        # What a reference gave before is kept in float32, whose rounding is 6e-8.
        bound = 1e-7 if case[4] == "kept" else 1e-12
        for name, error in errors[case].items():
            assert error < bound, (case, name, error)
