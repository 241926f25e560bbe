from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np
import pytest

from axolotl_ual.errors import BackendError, ConfigError
from axolotl_ual.preprocess.data.rows import Sample, Turn
from axolotl_ual.preprocess.estimators import likelihood
from axolotl_ual.preprocess.estimators.base import Estimation
from axolotl_ual.preprocess.estimators.likelihood import build_perplexity
from axolotl_ual.preprocess.models.local.encoding import NO_RESPONSE
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.settings.ual import AnnotateConfig
from estimating import estimate_here
from tiny import make_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(Path(tmp_path_factory.mktemp("model")), initializer_range=0.4)


def annotate(**settings: Any) -> AnnotateConfig:
    return AnnotateConfig.model_validate(
        {
            "output": "unused",
            "estimator": "perplexity",
            "perplexity": {"device": "cpu", **settings},
        }
    )


def chat(question: str, *answers: str) -> Sample:
    turns = [Turn("user", question, False)]
    for answer in answers:
        turns += [Turn("assistant", answer, True), Turn("user", "and?", False)]
    return Sample(tuple(turns[:-1]))


def estimate(folder: Path, samples: Sequence[Sample], **settings: Any) -> tuple[Estimation, int]:
    progress = SilentProgress()
    estimator = build_perplexity(annotate(**settings), str(folder))
    return estimate_here(estimator, samples, progress), progress.done


def mean_nll(folder: Path, text: str, *responses: str) -> float:
    """The formula, slowly: tokenise, all logits in fp64, mean over the tokens of the responses."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ids = torch.tensor([encoded["input_ids"]])
    with torch.no_grad():
        log_p = torch.log_softmax(model(ids).logits[0], -1)
    spans = [(text.index(response), text.index(response) + len(response)) for response in responses]
    scores = [
        -float(log_p[position - 1, ids[0, position]])
        for position, (start, end) in enumerate(encoded["offset_mapping"])
        if any(start < stop and end > begin for begin, stop in spans)
    ]
    return sum(scores) / len(scores)


def test_scores_are_the_formula_and_uncertainties_their_order(folder: Path) -> None:
    samples = [
        chat("who?", "four"),
        chat("who are they?", "a b c d e f g"),
        chat("x", "lorem", "ipsum dolor"),
        Sample((Turn(None, "Q: ", False), Turn(None, "zz!", True))),
    ]
    user, assistant = "<|user|>\n", "</s>\n<|assistant|>\n"
    expected = [
        mean_nll(folder, f"{user}who?{assistant}four", "four"),
        mean_nll(folder, f"{user}who are they?{assistant}a b c d e f g", "a b c d e f g"),
        mean_nll(
            folder,
            f"{user}x{assistant}lorem</s>\n{user}and?{assistant}ipsum dolor",
            "lorem",
            "ipsum dolor",
        ),
        mean_nll(folder, "<s>Q: zz!", "zz!"),
    ]
    minmax, _ = estimate(folder, samples, mapping="minmax")
    low, high = min(expected), max(expected)
    assert high - low > 0.1
    np.testing.assert_allclose(
        minmax.uncertainty, [(nll - low) / (high - low) for nll in expected], atol=1e-4
    )
    assert minmax.facts["mean_nll"] == pytest.approx(np.mean(expected), rel=1e-5)
    ranked, done = estimate(folder, samples)
    assert ranked.uncertainty.dtype == np.float32
    np.testing.assert_array_equal(
        ranked.uncertainty, (np.argsort(np.argsort(expected)) / 3).astype(np.float32)
    )
    assert done == len(samples)


def test_rows_that_cannot_be_scored_are_nan_and_counted(folder: Path) -> None:
    samples = [chat("who?", "four"), chat("who?", ""), chat("who?", "seven eight")]
    found, done = estimate(folder, samples)
    assert np.isnan(found.uncertainty).tolist() == [False, True, False]
    assert sorted(found.uncertainty[[0, 2]]) == [0, 1]
    assert found.failures == {NO_RESPONSE: 1}
    assert done == 3


def test_likelihood_that_is_not_finite_is_nan_and_counted(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = make_model(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    model.save_pretrained(folder)
    found, _ = estimate(folder, [chat("who?", "four"), chat("who?", "five")])
    assert np.isnan(found.uncertainty).all()
    assert found.failures == {likelihood.NOT_FINITE: 2}
    assert found.facts["mean_nll"] is None


def test_cuts_and_tokens_are_counted(folder: Path) -> None:
    samples = [
        Sample((Turn(None, "@" * 50, False), Turn(None, "%%%", True))),
        Sample((Turn(None, "@", False), Turn(None, "%" * 50, True))),
        Sample((Turn(None, "@", False), Turn(None, "%", True))),
    ]
    found, _ = estimate(folder, samples, max_length=10)
    assert found.facts["prompts_cut"] == 2
    assert found.facts["responses_cut"] == 1
    # A token a byte, as these are in no merge. Scored: 3, 9 and 1; before them <s> and six '@';
    # <s>; <s> and '@'.
    assert found.usage.completion_tokens == 3 + 9 + 1
    assert found.usage.prompt_tokens == 7 + 1 + 2


def test_max_length_is_within_the_positions_of_the_model(folder: Path) -> None:
    found, _ = estimate(folder, [chat("@" * 900, "four")], max_length=2048)
    assert found.facts["max_length"] == 512
    assert found.facts["prompts_cut"] == 1


class Lazy(Sequence[Sample]):
    """Counts the samples that are alive at a time."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.reads = 0

    def __len__(self) -> int:
        return self.length

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | Sequence[Sample]:
        assert isinstance(index, int) and 0 <= index < self.length
        self.reads += 1
        return Sample((Turn(None, "Q: ", False), Turn(None, "@" * (1 + index % 7), True)))


def test_windows_give_what_one_window_gives(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = estimate(folder, Lazy(50), mapping="minmax")
    monkeypatch.setattr(likelihood, "_WINDOW", 16)
    lazy = Lazy(50)
    parts, done = estimate(folder, lazy, mapping="minmax")
    np.testing.assert_allclose(parts.uncertainty, whole.uncertainty, atol=1e-4)
    assert lazy.reads == 50
    assert done == 50


def test_plan_reads_a_few_rows_and_loads_nothing() -> None:
    lazy = Lazy(100_000)
    plan = build_perplexity(annotate(model="./missing"), None).plan(lazy)
    assert lazy.reads < 1000
    assert plan.requests == 0 and plan.cost_usd == 0
    assert "./missing" in plan.lines[0]
    # Responses of 1 to 7 characters and a prompt of 3: about 7 characters, or 1.75 tokens, a row.
    assert "100,000 rows, about 17" in plan.lines[1]
    assert "0 rows, about 0 tokens" in build_perplexity(annotate(), "m").plan([]).lines[1]


def test_model_is_named_by_the_key_that_the_user_wrote() -> None:
    with pytest.raises(ConfigError, match=r"set `base_model`, or `ual\.annotate\.perplexity"):
        build_perplexity(annotate(), None)
    with pytest.raises(BackendError, match=r"^base_model: './missing' is not a folder"):
        estimate_here(build_perplexity(annotate(), "./missing"), [], SilentProgress())
    with pytest.raises(BackendError, match=r"^ual\.annotate\.perplexity\.model: './missing'"):
        estimate_here(build_perplexity(annotate(model="./missing"), "other"), [], SilentProgress())


@pytest.mark.slow
def test_importing_the_estimator_loads_no_torch() -> None:
    code = (
        "import sys; import axolotl_ual.preprocess.estimators.likelihood; "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
