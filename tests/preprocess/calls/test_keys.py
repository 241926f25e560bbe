"""Keys of the cache: what was paid for under them stays paid for, so they never change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from judging_kit import session

from axolotl_ual.preprocess.calls.cache import Cache, KeyMaker
from axolotl_ual.preprocess.data.prompt import Prompt
from axolotl_ual.preprocess.data.sample import Sample, Turn
from axolotl_ual.preprocess.dimensions.claims import claims_task
from axolotl_ual.preprocess.dimensions.principles import principle_tasks
from axolotl_ual.preprocess.dimensions.review import Reviewed
from axolotl_ual.preprocess.judge.rubric import load_rubric
from axolotl_ual.preprocess.judge.uncertainty import Uncertainty
from axolotl_ual.preprocess.sampling.build import build_sampler
from axolotl_ual.preprocess.sampling.server import ServerSampler
from axolotl_ual.settings.estimators import JudgeConfig
from axolotl_ual.settings.pairs import PairsConfig

SAMPLE = Sample(
    (
        Turn("user", "Why?", False),
        Turn("assistant", "So\ud800.", True),
        Turn("assistant", "x", True, True),
    )
)
PROMPT = Prompt((("system", "Be brief."), ("user", "Why?")))
PAIRS = PairsConfig.model_validate(
    {
        "output": "o",
        "seed": 7,
        "judge": {"model": "m"},
        "sampling": {"backend": "api", "n": 4, "api": {"model": "m"}},
    }
)


def key(task: Any, item: Any) -> str:
    """Of the second repeat."""
    return KeyMaker(task.identity).key(task.sample(item), 1).hex()


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        ("verbalized", "efec339968dd916e4e98fb537ab5d4062df072f65864a78ea2c3db5e0f67eeaa"),
        ("expected", "22f9ad345690a90fd8df8f8a0f633d8e56676a8828ca29ba788dcec8d4b48ce0"),
    ],
)
def test_keys_of_a_judge(score: Any, expected: str) -> None:
    task = Uncertainty(JudgeConfig(model="m"), load_rubric("uncertainty-v1"), score)
    assert key(task, SAMPLE) == expected


def test_keys_of_ratings() -> None:
    assert PAIRS.judge is not None
    reviewed = Reviewed(PROMPT, "So.")
    claims = "ef13978fe836256df5b3a2b084ecd532d1c9d6f2c3f57965979548eac546f020"
    assert key(claims_task(PAIRS.judge), reviewed) == claims
    (principle,) = principle_tasks(PAIRS.judge, {"kind": "Be kind."})
    rated = "99bc0b6afd91ffb001f5c6437b80939631bd11dc549d02e8ed23e1d3f22c560b"
    assert key(principle, reviewed) == rated


def test_keys_of_responses(tmp_path: Path) -> None:
    with session(tmp_path) as lent:
        sampler = build_sampler(PAIRS, None, None, lent)
    assert isinstance(sampler, ServerSampler)
    sampled = "20205431bdfb690d50ec2f7b6b8050b24e0693f5f5b8c7037d0f2ebfbc306916"
    assert key(sampler.task, PROMPT) == sampled


def test_keys_of_values_that_were_computed_here(tmp_path: Path) -> None:
    block = Sample((Turn(None, "[]", False),))
    with Cache(tmp_path) as cache:
        values = cache.values({"kind": "value-block", "classifier": {"model": "c"}})
        assert values.find([block]) == [None]
        values.put([(block, [0.5, None])])
        assert values.find([SAMPLE, block]) == [None, [0.5, None]]
        ((found, *_),) = cache.entries()
    assert found.hex() == "1d3e40f33295e28d36559ecc7c61dca6be12d45f3b2842bac7d8c53b29df56f1"
