from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from axolotl_ual.evaluation.clustering import pictures, silhouettes


def test_silhouettes_by_hand() -> None:
    # On a line: a at 0 and 1, b at 4 and 6.
    # 0: a = 1, b = (4 + 6) / 2 = 5: 4 / 5.      1: a = 1, b = (3 + 5) / 2 = 4: 3 / 4.
    # 4: a = 2, b = (4 + 3) / 2 = 3.5: 1.5 / 3.5. 6: a = 2, b = (6 + 5) / 2 = 5.5: 3.5 / 5.5.
    found = silhouettes(np.array([[0.0], [1.0], [4.0], [6.0]]), ["a", "a", "b", "b"])
    assert found == pytest.approx([4 / 5, 3 / 4, 1.5 / 3.5, 3.5 / 5.5])


def test_the_mean_is_scikit_learns_score() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(40, 5)).astype(np.float32)
    labels = [str(n % 3) for n in range(40)]
    found = silhouettes(features, labels).mean()
    assert found == pytest.approx(silhouette_score(features.astype(np.float64), labels))


def test_what_makes_no_groups() -> None:
    features = np.arange(6.0).reshape(3, 2)
    for labels in (["a"] * 3, ["a", "b", "c"]):
        with pytest.raises(ValueError, match=f"{len(set(labels))} groups of 3 rows"):
            silhouettes(features, labels)


@pytest.mark.slow
def test_pictures_are_seeded() -> None:
    features = np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)
    first, second = pictures(features, seed=3), pictures(features, seed=3)
    assert "t-SNE" in first
    for name, places in first.items():
        assert places.shape == (24, 2) and np.array_equal(places, second[name])
