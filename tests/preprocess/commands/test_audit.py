"""`annotate --audit`: agreement of repeats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from judging_kit import command, write_recipe

import judge_server
from axolotl_ual.preprocess.commands.audit import agreement


def test_agreement_by_hand() -> None:
    """Rows (0.1, 0.3) and (0.7, 0.9): means 0.2 and 0.8, both variances 0.02.

    MSW = 0.02, MSB = 2 * 0.18 = 0.36, ICC = (0.36 - 0.02) / (0.36 + 0.02) = 0.8947.
    """
    found = agreement(np.array([0.2, 0.8]), np.sqrt([0.02, 0.02]), 2)
    assert found is not None
    assert found.icc == pytest.approx(0.34 / 0.38)
    assert found.within == pytest.approx(np.sqrt(0.02))
    assert found.between == pytest.approx(np.sqrt(0.18))


@given(arrays(np.float64, (6, 4), elements=st.floats(0, 1)))
def test_agreement_equals_the_textbook(scores: np.ndarray) -> None:
    """Sums of squares as in a table of analysis of variance."""
    n, k = scores.shape
    grand = scores.mean()
    between = k * ((scores.mean(axis=1) - grand) ** 2).sum() / (n - 1)
    within = ((scores - scores.mean(axis=1, keepdims=True)) ** 2).sum() / (n * (k - 1))
    found = agreement(scores.mean(axis=1), scores.std(axis=1, ddof=1), k)
    assert found is not None
    if between + within < 1e-9:
        return
    wanted = (between - within) / (between + (k - 1) * within)
    assert found.icc == pytest.approx(wanted, abs=1e-6)


def test_a_judge_that_repeats_itself(server: judge_server.Running, tmp_path: Path) -> None:
    recipe = write_recipe(tmp_path, server, temperature=0.5)
    result = command("annotate", recipe, "--audit", "20")
    assert result.exit_code == 0, result.output
    assert "20 rows, 5 times each" in result.output
    assert "ICC): 1.000; one score for each row is enough" in result.output
    assert server.stats()["requests"] == 100
    assert not (tmp_path / "out").exists()
    # The first repeats are what a run asks for.
    assert command("annotate", recipe).exit_code == 0
    assert server.stats()["requests"] == 110


def test_a_judge_that_guesses(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(by_seed={str(seed): 20 * seed for seed in range(5)})
    result = command("annotate", write_recipe(tmp_path, server, temperature=0.5), "--audit", "9")
    assert "most of what it says is chance" in result.output


def test_a_judge_that_always_says_the_same(server: judge_server.Running, tmp_path: Path) -> None:
    server.set(by_model={"m": 40})
    result = command("annotate", write_recipe(tmp_path, server), "--audit", "9")
    assert "does not tell the rows apart" in result.output
