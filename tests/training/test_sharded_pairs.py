"""A step on pairs is the step of one process, however it is cut and its model sharded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import sharded_pairs
import torch
from sharded_pairs import LOSS, STEPS, Case
from torch import Tensor

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[Any, dict[str, Tensor]]:
    output = Path(tmp_path_factory.mktemp("sharded")) / "gradients.pt"
    done = subprocess.run(
        [sys.executable, sharded_pairs.__file__, str(output)],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:]
    results: dict[Any, dict[str, Tensor]] = torch.load(output)
    return results


def test_in_float64_every_cut_is_the_step_of_one_process(
    found: dict[Any, dict[str, Tensor]],
) -> None:
    """So that what float32 has beyond it is rounding, and no rule that a cut changes."""
    for case in cuts("float64", 2 * 3):
        for name, error in errors(found[tuple(case)], alone(found, case, "float64")).items():
            assert error < 1e-12, (case, name, error)


def test_in_float32_every_cut_errs_at_most_twice_as_much_as_one_process(
    found: dict[Any, dict[str, Tensor]],
) -> None:
    """Error is the distance from the step in float64.

    One process errs by 2e-6 to 4e-6, by which kernels the processor takes. A cut adds up in
    another order, and which of two orders comes out closer is chance.
    """
    # Two losses with everything and four variants by themselves.
    each = cuts("float32", 6 * 4)
    own = [
        error
        for case in each
        for error in errors(alone(found, case, "float32"), alone(found, case, "float64")).values()
    ]
    assert max(own) < 1e-5
    for case in each:
        for name, error in errors(found[tuple(case)], alone(found, case, "float64")).items():
            assert error < max(1e-6, 2 * max(own)), (case, name, error)


def cuts(dtype: str, number: int) -> list[Case]:
    """The cases of one step over several processes; in float64 there is no ZeRO-3."""
    each = [
        case
        for case in sharded_pairs.cases()
        if case.dtype == dtype and case.engine != STEPS and case.processes > 1
    ]
    assert len(each) == number
    return each


def alone(found: dict[Any, dict[str, Tensor]], case: Case, dtype: str) -> dict[str, Tensor]:
    """What one process makes of the same pairs."""
    result = found[tuple(Case(case.variant, "ddp", 1, 1, dtype))]
    assert len(result) > 20
    return result


def test_variants_train_differently(found: dict[Any, dict[str, Tensor]]) -> None:
    """So that a setting which is lost on the way to a process would show."""
    losses = {
        variant: float(found[tuple(Case(variant, "ddp", 1, 1, "float32"))][LOSS])
        for variant in sharded_pairs.VARIANTS
    }
    assert len({round(loss, 4) for loss in losses.values()}) == len(losses) == 6


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 1e-4), ("float64", 1e-9)])
def test_later_steps_part_by_the_rounding_of_the_first_alone(
    found: dict[Any, dict[str, Tensor]], dtype: str, bound: float
) -> None:
    """In float64 losses and weights of every step agree, so that float32's difference is its own.

    AdamW divides each gradient by its size, so that the rounding of a small one is a step too.
    """
    for variant in ("all", "all of ipo"):
        alone = found[tuple(Case(variant, STEPS, 1, 1, dtype))]
        losses = alone[LOSS]
        assert len(losses) == 4 and losses[3] < losses[0]
        for processes in (2, 4):
            cut = found[tuple(Case(variant, STEPS, processes, 2, dtype))]
            for name, error in errors(cut, alone).items():
                assert error < bound, (variant, processes, name, error)


def errors(found: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Relative error of each entry."""
    assert found.keys() == expected.keys()
    return {
        name: float((found[name] - whole).norm() / whole.norm()) for name, whole in expected.items()
    }
