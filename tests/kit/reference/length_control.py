"""AlpacaEval 2's regression by scikit-learn's own cross-validation, features spelled out."""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import make_scorer
from sklearn.model_selection import GroupKFold


def _score(y: Any, predicted: Any, preference: Any, weight: Any) -> float:
    q = np.clip(predicted, 1e-15, 1 - 1e-15)
    return float(np.mean(weight * (preference * np.log(q) + (1 - preference) * np.log(1 - q))))


def length_controlled_rate(
    features: np.ndarray, equal: np.ndarray, preference: np.ndarray, weight: np.ndarray
) -> float:
    """Mean prediction at features `equal` of a model fitted on (features, preference, weight)."""
    count = len(preference)
    with sklearn.config_context(enable_metadata_routing=True):
        scorer = make_scorer(_score, response_method="predict_proba").set_score_request(
            preference=True, weight=True
        )
        model = LogisticRegressionCV(
            cv=GroupKFold(5),
            scoring=scorer,
            solver="liblinear",
            l1_ratios=(1.0,),
            fit_intercept=False,
            random_state=123,
            use_legacy_attributes=False,
        ).set_fit_request(sample_weight=True)
        model.fit(
            np.concatenate([features, features]),
            np.repeat([1, 0], count),
            sample_weight=np.concatenate([preference, 1 - preference]) * np.tile(weight, 2),
            groups=np.tile(np.arange(count), 2),
            preference=np.tile(preference, 2),
            weight=np.tile(weight, 2),
        )
        return float(model.predict_proba(equal)[:, 1].mean())
