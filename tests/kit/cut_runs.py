"""Real trainings of one model on one set of samples, whole and cut over processes.

Gradients are read off one step of SGD whose rate is so high that what a weight was before is lost
in its rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from curriculum_data import write_samples
from safetensors.torch import load_file

import tiny

PLUGIN = "axolotl_ual.UALPlugin"


class Bench:
    """One tiny model, 16 samples of three stages, and runs on them.

    Args:
        folder: of the model and of all runs.
        shape: of the model, where it is not that of `tiny.make_model`.
    """

    def __init__(self, folder: Path, **shape: int) -> None:
        self.folder = folder
        self.model = tiny.make_model(folder / "model", **shape)
        self.data = write_samples(folder / "rows.jsonl", (6, 5, 5))
        self.count = 0

    def run(
        self, plugins: list[str], processes: int, *, check: bool = True, **settings: Any
    ) -> tiny.Run:
        """Train for one step, or as the settings say."""
        self.count += 1
        run = self.folder / f"run{self.count}"
        recipe = tiny.recipe(
            self.model,
            run,
            [{"path": str(self.data), "type": "alpaca"}],
            **{
                "plugins": plugins,
                "adapter": None,
                "optimizer": "sgd",
                "learning_rate": 1e4,
                "max_grad_norm": 0.0,
                "max_steps": 1,
                "save_strategy": "no",
                **settings,
            },
        )
        return tiny.axolotl(recipe, run, processes=processes, check=check)

    def assert_gradients(self, found: tiny.Run, wanted: tiny.Run) -> None:
        """Every weight moved alike, to 1e-6 of how far it moved."""
        before = load_file(self.model / "model.safetensors")
        moved = load_file(wanted.output / "model.safetensors")
        weights = load_file(found.output / "model.safetensors")
        assert weights.keys() == moved.keys()
        for name, weight in moved.items():
            step = weight - before[name]
            assert (weights[name] - weight).norm() < 1e-6 * step.norm(), name


def assert_equal(found: tiny.Run, wanted: tiny.Run, *keys: str) -> None:
    """Losses, the gradient's norm and tokens were logged alike, and what `keys` name, to 1e-6."""
    for key in ("loss", "loss/nll", "loss/smoothing", "grad_norm", "ual/tokens", *keys):
        assert len(wanted.values(key)) > 0, key
        assert found.values(key) == pytest.approx(wanted.values(key), rel=1e-6, abs=1e-6), key
