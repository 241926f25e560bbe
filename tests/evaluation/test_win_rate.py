from __future__ import annotations

import numpy as np
import pytest

from axolotl_ual.evaluation.win_rate import Gamed, both_orders, length_controlled
from reference.length_control import length_controlled_rate


def test_a_judge_that_takes_the_first_gives_a_half() -> None:
    assert both_orders(np.ones(4), np.ones(4)).tolist() == [0.5] * 4
    assert both_orders(np.zeros(4), np.zeros(4)).tolist() == [0.5] * 4
    # Prefers the model in both orders; in none; a tie and a win.
    found = both_orders(np.array([1.0, 0.0, 0.5]), np.array([0.0, 1.0, 0.0]))
    assert found.tolist() == [1.0, 0.0, 0.75]
    assert np.isnan(both_orders(np.array([np.nan]), np.array([1.0]))).all()


def judged(count: int, quality: float, taste: float, seed: int) -> tuple[np.ndarray, ...]:
    """Preferences of a judge who likes quality and, by `taste`, length."""
    rng = np.random.default_rng(seed)
    length, baseline = rng.integers(100, 3000, count), rng.integers(100, 3000, count)
    delta = (length - baseline) / 1000
    chance = 1 / (1 + np.exp(-(quality + taste * np.tanh(delta))))
    return (rng.uniform(size=count) < chance).astype(float), length, baseline


def test_equal_lengths_leave_the_win_rate() -> None:
    preference = np.tile([1.0, 1.0, 1.0, 0.0, 0.5, 1.0], 50)
    same = np.full(300, 80.0)
    # Only the constant is fitted: its prediction is the mean, 4.5 / 6, up to the penalty.
    assert length_controlled(preference, same, same).mean() == pytest.approx(0.75, abs=0.01)


def test_the_taste_for_length_is_taken_out() -> None:
    # The judge sees no difference in quality and likes length; the model is longer by far.
    preference, length, baseline = judged(4000, quality=0.0, taste=2.0, seed=0)
    longer = preference[length > baseline]
    assert longer.mean() > 0.65
    found = length_controlled(
        longer, length[length > baseline].astype(float), baseline[length > baseline].astype(float)
    )
    assert abs(found.mean() - 0.5) < abs(longer.mean() - 0.5) / 2
    both = length_controlled(preference, length.astype(float), baseline.astype(float))
    assert both.mean() == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize("regularised", [False, True])
def test_against_scikit_learns_cross_validation(regularised: bool) -> None:
    preference, length, baseline = judged(300, quality=0.4, taste=1.0, seed=1)
    preference = np.clip(preference * 0.9 + 0.03, 0, 1)
    rng = np.random.default_rng(2)
    difficulty = rng.normal(size=300)
    gamed = Gamed(rng.uniform(size=120), rng.normal(size=120), rng.normal(size=120))
    delta = baseline - length
    own = np.column_stack([np.tanh(delta / delta.std(ddof=1)), difficulty, np.ones(300)])
    equal = own * [0, 1, 1]
    weight = np.ones(300)
    fitted, wanted = own, preference
    if regularised:
        more = np.column_stack([np.tanh(gamed.delta), gamed.difficulty, np.zeros(120)])
        fitted = np.concatenate([more, own])
        wanted = np.concatenate([gamed.preference, preference])
        # AlpacaEval's lambda of 0.2 over two gamed copies.
        weight = np.concatenate([np.full(120, 0.1), weight])
    reference = length_controlled_rate(fitted, equal, wanted, weight)
    found = length_controlled(
        preference,
        length.astype(float),
        baseline.astype(float),
        difficulty,
        gamed if regularised else None,
    )
    assert found.mean() == pytest.approx(reference, abs=1e-9)


def test_what_cannot_be_fitted() -> None:
    with pytest.raises(ValueError, match="4 comparisons"):
        length_controlled(np.ones(4), np.ones(4), np.ones(4))
    gamed = Gamed(np.ones(1), np.ones(1), np.ones(1))
    with pytest.raises(ValueError, match="needs the difficulty"):
        length_controlled(np.ones(9), np.ones(9), np.ones(9), gamed=gamed)
