"""Value uncertainty from ratings and classifiers, and the weighted total."""

import math

import numpy as np
import pytest

from axolotl_ual.preprocess.dimensions.total import shares, total_uncertainty
from axolotl_ual.preprocess.dimensions.value import aggregate, from_labels, from_rewards

NAN = math.nan


def test_ratings_give_mean_and_both_spreads():
    # Principles by row, repeats by column: means 0.2, 0.5, 0.8; u_v = 0.5.
    # Spread over principles: sqrt((0.09 + 0 + 0.09) / 3) = sqrt(0.06)
    # Spread over repeats: standard deviations 0.1, 0, 0.2, their mean is 0.1.
    score = aggregate(np.array([[0.1, 0.3], [0.5, 0.5], [0.6, 1.0]]))
    assert score.uncertainty == pytest.approx(0.5)
    assert score.spread_principles == pytest.approx(math.sqrt(0.06))
    assert score.spread_repeats == pytest.approx(0.1)


def test_a_missing_repeat_leaves_the_others():
    score = aggregate(np.array([[0.25, NAN], [0.5, 1.0]]))
    assert score.uncertainty == pytest.approx((0.25 + 0.75) / 2)


def test_a_principle_without_a_rating_leaves_none():
    assert aggregate(np.array([[0.25, 0.25], [NAN, NAN]])) is None


def test_label_map_is_an_expectation():
    # Softmax of (ln 1, ln 2, ln 5) is (1/8, 2/8, 5/8); w = (1, 0.5, 0): 1/8 + 1/8 = 1/4.
    logits = np.log([[1.0, 2.0, 5.0]])
    found = from_labels(logits, ["bad", "odd", "fine"], {"bad": 1.0, "odd": 0.5}, together=False)
    assert found == pytest.approx([0.25])


def test_labels_that_hold_together_take_the_worst():
    # Sigmoids 1/2 and 3/4 (logit ln 3) with weights 1 and 0.5: max(0.5, 0.375).
    logits = np.array([[0.0, math.log(3)]])
    found = from_labels(logits, ["toxic", "rude"], {"toxic": 1.0, "rude": 0.5}, together=True)
    assert found == pytest.approx([0.5])


def test_a_higher_reward_is_less_uncertain():
    # centre 1, scale 2: sigmoid(0), sigmoid(-ln 3) = 1/4, and no overflow far out.
    found = from_rewards(np.array([1.0, 1 + 2 * math.log(3), -1e9, 1e9]), centre=1.0, scale=2.0)
    assert found == pytest.approx([0.5, 0.25, 1.0, 0.0])


DIMENSIONS = {
    "semantic": np.array([0.3, 0.6, NAN, NAN]),
    "factual": np.array([0.6, NAN, NAN, 0.2]),
    "value": np.array([0.9, 0.0, NAN, 0.8]),
}


def test_total_is_the_weighted_mean():
    weights = {"semantic": 1.0, "factual": 1.0, "value": 1.0}
    # (0.3 + 0.6 + 0.9) / 3; any null leaves a null.
    total = total_uncertainty(DIMENSIONS, weights, "exclude")
    assert total[0] == pytest.approx(0.6)
    assert np.isnan(total[1:]).all()
    # weights 1, 2, 1: (0.3 + 1.2 + 0.9) / 4; without factual (0.6 + 0) / 2;
    # without semantic (2 * 0.2 + 0.8) / 3; nothing stays null.
    weights["factual"] = 2.0
    total = total_uncertainty(DIMENSIONS, weights, "renormalise")
    assert total == pytest.approx([0.6, 0.3, NAN, 0.4], nan_ok=True)


def test_a_dimension_that_is_off_leaves_the_rest_renormalised():
    two = {name: DIMENSIONS[name] for name in ("semantic", "value")}
    # 0.3 and 0.9 with weights 1 and 3: (0.3 + 2.7) / 4
    weights = {"semantic": 1.0, "factual": 7.0, "value": 3.0}
    assert total_uncertainty(two, weights, "exclude")[0] == pytest.approx(0.75)
    assert shares(weights, ["semantic", "value"]) == {"semantic": 0.25, "value": 0.75}


def test_a_dimension_of_weight_zero_cannot_make_a_null():
    weights = {"semantic": 1.0, "factual": 0.0, "value": 1.0}
    assert total_uncertainty(DIMENSIONS, weights, "exclude")[1] == pytest.approx(0.3)
