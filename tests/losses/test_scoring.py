"""Token scores inside wrapped models: every engine gives the gradients of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SCRIPT = Path(__file__).resolve().parents[1] / "kit" / "sharded_scores.py"


@pytest.mark.slow
def test_engines_give_the_gradients_of_one_process(tmp_path: Path) -> None:
    output = tmp_path / "gradients.pt"
    run = subprocess.run(
        [sys.executable, str(SCRIPT), str(output)],
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]
    found = torch.load(output)
    assert len(found) == 2 + 6
    for (engine, processes, head), gradients in found.items():
        expected = found["ddp", 1, head]
        assert gradients.keys() == expected.keys()
        assert ("lm_head.weight" in gradients) == (head == "trained")
        for name, gradient in gradients.items():
            torch.testing.assert_close(
                gradient.float(),
                expected[name],
                rtol=1e-5,
                atol=1e-6,
                msg=lambda text, case=(engine, processes, name): f"{case}: {text}",
            )
