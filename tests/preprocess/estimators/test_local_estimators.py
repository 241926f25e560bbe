"""entropy, mc_dropout and p_true under a tiny model; ensembles of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sampling_server
import torch
from hypothesis import given
from hypothesis import strategies as st
from judging_kit import sample, session
from transformers import AutoModelForCausalLM, AutoTokenizer

import tiny
from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.data.sample import Sample
from axolotl_ual.preprocess.estimators import build_estimator
from axolotl_ual.preprocess.estimators.base import Estimation
from axolotl_ual.preprocess.estimators.ensemble import mix
from axolotl_ual.preprocess.estimators.likelihood import token_entropy
from axolotl_ual.preprocess.estimators.mc_dropout import dropout_on
from axolotl_ual.preprocess.estimators.p_true import Questions
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.settings.ual import AnnotateConfig, parse_ual
from estimating import estimate_here

ASKED = [sample(f"What is {i} and {i}?", f"It is {2 * i}, " + "no more. " * i) for i in range(1, 9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"), initializer_range=0.4)


def estimate(
    name: str, folder: Path, asked: list[Sample] = ASKED, **section: Any
) -> tuple[Estimation, SilentProgress]:
    settings = {"output": "out", "estimator": name, name: {"device": "cpu", **section}}
    estimator = build_estimator(AnnotateConfig.model_validate(settings), str(folder), session(None))
    progress = SilentProgress()
    assert any("no cost" in line for line in estimator.plan(asked).lines)
    return estimate_here(estimator, asked, progress), progress


def test_entropy_by_hand() -> None:
    """Uniform over 4 tokens: ln 4. One certain token: 0. Half and half, others out: ln 2."""
    logits = torch.tensor([[0.0] * 4, [0.0, -1e9, -1e9, -1e9], [0.0, 0.0, -torch.inf, -torch.inf]])
    found = token_entropy(logits, torch.zeros(3, dtype=torch.long))
    assert found.tolist() == pytest.approx([np.log(4), 0.0, np.log(2)], abs=1e-6)


def test_entropy_is_the_mean_over_the_response(folder: Path) -> None:
    """Against one row at a time through the model, token by token."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from axolotl_ual.preprocess.models.local.encoding import Encoded, encode

    found, progress = estimate("entropy", folder, mapping="minmax")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    plain = []
    for item in encode(ASKED, tokenizer, 2048):
        assert isinstance(item, Encoded)
        with torch.no_grad():
            logits = model(torch.from_numpy(item.ids)[None].long()).logits[0]
        p = logits.double().softmax(dim=1).numpy()
        places = np.flatnonzero(item.scored) - 1
        plain.append(np.mean([-(p[t] * np.log(p[t])).sum() for t in places]))
    scaled = (np.array(plain) - min(plain)) / (max(plain) - min(plain))
    np.testing.assert_allclose(found.uncertainty, scaled, atol=1e-4)
    assert found.facts["mean_entropy"] == pytest.approx(np.mean(plain), rel=1e-5)
    assert progress.done == len(ASKED)


def test_dropout_spreads_and_repeats_by_seed(folder: Path) -> None:
    first, _ = estimate("mc_dropout", folder, rate=0.3, passes=4)
    again, _ = estimate("mc_dropout", folder, rate=0.3, passes=4)
    other, _ = estimate("mc_dropout", folder, rate=0.3, passes=4, seed=1)
    np.testing.assert_array_equal(first.uncertainty, again.uncertainty)
    assert first.facts["mean_spread"] > 1e-4
    assert other.facts["mean_spread"] != first.facts["mean_spread"]


def test_more_dropout_spreads_more(folder: Path) -> None:
    little, _ = estimate("mc_dropout", folder, rate=0.02, passes=6)
    much, _ = estimate("mc_dropout", folder, rate=0.5, passes=6)
    assert much.facts["mean_spread"] > 2 * little.facts["mean_spread"]


def test_a_model_without_dropout_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="no dropout above 0"):
        estimate("mc_dropout", folder)


def test_dropout_is_off_again(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    ids = torch.arange(5, 20)[None]
    before = model(ids).logits
    with dropout_on(model, 0.5), torch.no_grad():
        assert not torch.equal(model(ids).logits, model(ids).logits)
    assert torch.equal(model(ids).logits, before)


@pytest.mark.slow
def test_the_dropout_of_an_adapter_is_used(folder: Path, tmp_path: Path) -> None:
    """A LoRA adapter with lora_dropout, named as the model: nothing else has dropout here."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config = LoraConfig(r=4, lora_dropout=0.3, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), config)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    found, _ = estimate("mc_dropout", folder, model=str(tmp_path), passes=4)
    assert found.facts["mean_spread"] > 1e-4


def test_p_true_is_the_share_of_no(folder: Path) -> None:
    """Against the likelihood of each word, one forward pass each."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from axolotl_ual.preprocess.models.local.encoding import Encoded, encode

    found, progress = estimate("p_true", folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ask = Questions(found.facts["max_length"])
    wanted = []
    for one in ASKED:
        p = {}
        for answer in ("Yes", "No"):
            (item,) = encode([ask(one, answer)], tokenizer, found.facts["max_length"])
            assert isinstance(item, Encoded)
            with torch.no_grad():
                logits = model(torch.from_numpy(item.ids)[None].long()).logits[0].double()
            places = np.flatnonzero(item.scored)
            logp = logits.log_softmax(dim=1)
            p[answer] = np.exp(sum(float(logp[t - 1, int(item.ids[t])]) for t in places))
        wanted.append(p["No"] / (p["Yes"] + p["No"]))
    np.testing.assert_allclose(found.uncertainty, wanted, rtol=1e-3)
    assert progress.done == len(ASKED)


def test_p_true_shows_the_response_in_its_frame() -> None:
    asked = Questions(2048)(sample("Name a prime.", "SAMPLE END 9"), "Yes")
    question, answer = asked.turns
    marker = question.text.split("begins with ")[1].split(";")[0]
    assert f"{marker} PROPOSED RESPONSE\nSAMPLE END 9\n{marker} END" in question.text
    assert (answer.text, answer.trained) == ("Yes", True)


def test_a_long_sample_still_reaches_its_verdict(folder: Path) -> None:
    long = sample("Say much.", "word " * 5000)
    found, _ = estimate("p_true", folder, [long, ASKED[0]], max_length=512)
    assert np.isfinite(found.uncertainty).all()
    assert found.facts["shortened"] == 1


def test_mixing_by_hand() -> None:
    """By value: (3 * 0.2 + 0.6) / 4 = 0.3; a missing member leaves the other; none leaves NaN.

    By rank the rows are 0, 0.5 and 1 in one member, 1, 0.5 and 0 in the other.
    """
    nan = np.nan
    values = {
        "judge": np.array([0.2, nan, nan], np.float32),
        "perplexity": np.array([0.6, 0.9, nan], np.float32),
    }
    found = mix(values, {"judge": 3.0, "perplexity": 1.0}, "value")
    np.testing.assert_allclose(found, [0.3, 0.9, nan], rtol=1e-6)
    orders = {
        "judge": np.array([0.1, 0.2, 0.9], np.float32),
        "perplexity": np.array([0.8, 0.7, 0.1], np.float32),
    }
    ranked = mix(orders, {"judge": 3.0, "perplexity": 1.0}, "rank")
    np.testing.assert_allclose(ranked, [0.25, 0.5, 0.75], rtol=1e-6)


def test_a_product_by_hand() -> None:
    """0.2 * 0.5; a missing member leaves nothing. Weights 3 : 1 are the powers 3/2 and 1/2."""
    values = {
        "perplexity": np.array([0.2, 0.0, 0.7, 0.25], np.float32),
        "self_consistency": np.array([0.5, 0.5, np.nan, 0.81], np.float32),
    }
    found = mix(values, {"perplexity": 2.0, "self_consistency": 2.0}, "product")
    np.testing.assert_allclose(found, [0.1, 0.0, np.nan, 0.2025], rtol=1e-6)
    found = mix(values, {"perplexity": 3.0, "self_consistency": 1.0}, "product")
    np.testing.assert_allclose(found[3], 0.25**1.5 * 0.9, rtol=1e-6)


TEXTS = [(f"What is {i} and {i}?", f"It is {2 * i}" + ", no more" * i) for i in range(1, 9)]


@pytest.mark.slow
def test_likelihood_times_consistency(folder: Path, tmp_path: Path) -> None:
    """CoCoA: -mean log p of the row's response, times 1 less its mean similarity to answers."""
    with sampling_server.running() as url:
        settings = {
            "output": "out",
            "cache": str(tmp_path),
            "estimator": "ensemble",
            "ensemble": {"members": {"perplexity": 1, "self_consistency": 1}, "mix": "product"},
            "perplexity": {"device": "cpu", "mapping": "ratio"},
            "self_consistency": {"model": "m", "base_url": url, "answers": 3},
        }
        config = AnnotateConfig.model_validate(settings)
        with session(config.cache) as lent:
            estimator = build_estimator(config, str(folder), lent)
            rows = [sample(question, answer) for question, answer in TEXTS]
            found = estimate_here(estimator, rows, SilentProgress())
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    nll = []
    for question, answer in TEXTS:
        prompt = f"<|user|>\n{question}</s>\n<|assistant|>\n"
        ids = tokenizer(prompt + answer, add_special_tokens=False, return_tensors="pt").input_ids
        start = len(tokenizer(prompt, add_special_tokens=False).input_ids)
        with torch.no_grad():
            log_p = model(ids).logits[0, :-1].log_softmax(-1)
        nll.append(-log_p.gather(1, ids[0, 1:, None])[start - 1 :].mean().item())
    cocoa = np.array(nll) * found.columns["ual_self_consistency"]
    np.testing.assert_allclose(found.uncertainty, cocoa / max(nll), rtol=1e-4)
    assert np.ptp(found.uncertainty) > 0.01


@given(st.lists(st.floats(0, 1), min_size=2, max_size=9), st.floats(0.1, 9))
def test_a_member_mixed_with_itself_is_itself(values: list[float], weight: float) -> None:
    one = np.array(values, np.float32)
    found = mix({"a": one, "b": one}, {"a": weight, "b": 1.0}, "value")
    np.testing.assert_allclose(found, one, atol=1e-6)


def test_an_ensemble_runs_its_members(folder: Path) -> None:
    local = {"device": "cpu"}
    settings = {
        "output": "out",
        "estimator": "ensemble",
        "ensemble": {"members": {"perplexity": 1, "entropy": 2}},
        "perplexity": local,
        "entropy": local,
    }
    progress = SilentProgress()
    estimator = build_estimator(AnnotateConfig.model_validate(settings), str(folder), session(None))
    found = estimate_here(estimator, ASKED, progress)
    entropy, _ = estimate("entropy", folder)
    perplexity, _ = estimate("perplexity", folder)
    np.testing.assert_allclose(found.columns["ual_entropy"], entropy.uncertainty)
    wanted = (2 * entropy.uncertainty + perplexity.uncertainty) / 3
    np.testing.assert_allclose(found.uncertainty, wanted, rtol=1e-6)
    assert progress.done == len(ASKED)


@pytest.mark.parametrize(
    ("annotate", "problem"),
    [
        ({"ensemble": {"members": {"entropy": 1}}}, "at least 2 items"),
        ({"ensemble": {"members": {"entropy": 1, "perplexity": 0}}}, "must be above 0"),
        ({"ensemble": {"members": {"entropy": 1, "perplexty": 1}}}, "perplexty"),
        ({"ensemble": {"members": {"entropy": 1, "judge": 1}}}, "needs a `judge:` section"),
        ({}, "needs a `ensemble:` section"),
    ],
)
def test_a_wrong_ensemble_is_named(annotate: dict[str, Any], problem: str) -> None:
    raw = {"annotate": {"output": "out", "estimator": "ensemble", **annotate}}
    with pytest.raises(ConfigError, match=problem):
        parse_ual(raw)


def test_settings_name_the_sections_in_use() -> None:
    members = {"perplexity": 1, "entropy": 1}
    raw = {"output": "out", "estimator": "ensemble", "ensemble": {"members": members}}
    settings = parse_ual({"annotate": raw}).result_settings("base")
    assert settings["entropy"]["model"] == settings["perplexity"]["model"] == "base"
    assert settings["ensemble"] == {"members": members, "mix": "rank"}
    assert "judge" not in settings
