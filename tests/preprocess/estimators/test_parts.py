"""Rows scored in parts, wherever, give what all rows give at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from judging_kit import sample, session, settings

import judge_server
import tiny
from axolotl_ual.errors import BackendError
from axolotl_ual.preprocess.calls.budget import Budget
from axolotl_ual.preprocess.data.sample import Sample
from axolotl_ual.preprocess.engines.base import estimate
from axolotl_ual.preprocess.engines.local import LocalEngine
from axolotl_ual.preprocess.estimators import build_estimator
from axolotl_ual.preprocess.estimators.base import Estimator, RowScores, join_scores
from axolotl_ual.preprocess.progress import Progress, SilentProgress
from axolotl_ual.settings.ual import AnnotateConfig

SAMPLES = [sample(f"Name {n} things.", f"Thing {n} and thing {n * n}.") for n in range(23)]


class PartsEngine:
    """Another engine: each part of the rows by a scorer of its own, the last part first."""

    def run(self, estimator: Estimator, samples: Sequence[Sample], progress: Progress) -> RowScores:
        bounds = [(0, 4), (4, 5), (5, len(samples))]
        found = {
            start: estimator.scorer().score(samples[start:stop], progress)
            for start, stop in reversed(bounds)
        }
        return join_scores([found[start] for start, _ in bounds])


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


def annotate(server: judge_server.Running, folder: Path) -> dict[str, object]:
    judge = settings(server)
    return {
        "output": "out",
        "cache": str(folder),
        "judge": {**judge, "repeats": 2},
        "panel": {"judges": [judge, {**judge, "model": "other"}]},
        "perplexity": {"device": "cpu"},
        "p_true": {"device": "cpu"},
        "ensemble": {"members": {"judge": 1, "perplexity": 2}},
    }


@pytest.mark.parametrize("name", ["judge", "panel", "perplexity", "entropy", "p_true", "ensemble"])
def test_parts_give_what_all_rows_give(
    name: str, server: judge_server.Running, model: Path, tmp_path: Path
) -> None:
    config = AnnotateConfig.model_validate({"estimator": name, **annotate(server, tmp_path)})
    with session(config.cache, Budget(None)) as lent:
        whole, parts = (
            estimate(build_estimator(config, str(model), lent), SAMPLES, SilentProgress(), engine)
            for engine in (LocalEngine(), PartsEngine())
        )
    assert np.isfinite(whole.uncertainty).all()
    # Batches of another size round another way in the model, so the likelihoods differ by an ulp.
    np.testing.assert_allclose(parts.uncertainty, whole.uncertainty, rtol=1e-5, atol=1e-6)
    assert parts.columns.keys() == whole.columns.keys()
    for column, values in whole.columns.items():
        np.testing.assert_allclose(parts.columns[column], values, rtol=1e-5, atol=1e-6)
    assert parts.failures == whole.failures
    assert parts.facts.keys() == whole.facts.keys()


def test_joined_scores_are_in_order_and_add_up() -> None:
    parts = [
        RowScores({"x": np.array([1.0, np.nan])}, Counter(cut=1), Counter(shortened=0)),
        RowScores({"x": np.array([3.0])}, Counter(cut=2, failed=1), Counter(shortened=2)),
    ]
    joined = join_scores(parts)
    np.testing.assert_array_equal(joined.values["x"], [1.0, np.nan, 3.0])
    assert joined.failures == {"cut": 3, "failed": 1}
    assert joined.counts == {"shortened": 2}
    # A count of 0 is still told.
    assert join_scores(parts[:1]).counts == {"shortened": 0}
    assert "shortened" in join_scores([parts[0], parts[0]]).counts


def test_parts_on_different_scales_are_not_joined() -> None:
    parts = [RowScores(facts={"score": "expected"}), RowScores(facts={"score": "verbalized"})]
    with pytest.raises(BackendError, match="scored in different ways"):
        join_scores(parts)
