"""Responses of a local model: the draw, and what it depends on."""

import numpy as np
import pytest
import torch

import tiny
from axolotl_ual.errors import BackendError
from axolotl_ual.preprocess.models.local.generate import Draw, Generator, choose, uniforms

KEY = "ual.pairs.sampling.local"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    # Wide weights: the distributions must be far from uniform for the tests to mean anything.
    return tiny.make_model(tmp_path_factory.mktemp("model"), initializer_range=0.4)


@pytest.fixture(scope="module")
def generator(folder):
    return Generator.load(str(folder), None, key=KEY, device="cpu", dtype="auto")


def test_the_draw_inverts_the_cumulative_distribution():
    # p = 0.5, 0.3, 0.15, 0.05 at ids 2, 0, 3, 1. The nucleus of 0.9 is the first three: 0.95.
    logits = torch.log(torch.tensor([[0.3, 0.05, 0.5, 0.15]])).expand(10_000, -1)
    grid = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    tokens = choose(logits, grid, Draw(1.0, 0.9, 1))
    shares = torch.bincount(tokens, minlength=4) / 10_000
    expected = torch.tensor([0.3 / 0.95, 0.0, 0.5 / 0.95, 0.15 / 0.95])
    assert shares == pytest.approx(expected.numpy(), abs=2e-4)
    # All of it with top_p 1, squares with temperature 1/2: 0.25, 0.09, 0.0225, 0.0025 of 0.365.
    tokens = choose(logits, grid, Draw(0.5, 1.0, 1))
    expected = torch.tensor([0.09, 0.0025, 0.25, 0.0225]) / 0.365
    shares = torch.bincount(tokens, minlength=4) / 10_000
    assert shares == pytest.approx(expected.numpy(), abs=2e-4)
    assert set(choose(logits, grid, Draw(0.0, 1.0, 1)).tolist()) == {2}
    # A nucleus is never empty.
    assert set(choose(logits, grid, Draw(1.0, 1e-9, 1)).tolist()) == {2}


def test_uniform_numbers_belong_to_the_row():
    assert (uniforms([7, 8], 5)[1] == uniforms([8], 5)[0]).all()
    assert (uniforms([7], 3)[0] == uniforms([7], 9)[0][:3]).all()


PROMPTS = ["a", "What is the capital of France?", "Say something long, please. " * 3, "b"]


def encoded(generator):
    return [generator.encode(text, has_template=False, max_length=100) for text in PROMPTS]


def test_a_response_does_not_depend_on_its_batch(generator):
    draw = Draw(1.0, 0.95, 24)
    prompts = encoded(generator) * 3
    seeds = list(range(12))
    together = generator.generate(prompts, seeds, draw)
    alone = [
        generator.generate([prompt], [seed], draw)[0]
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    backwards = generator.generate(prompts[::-1], seeds[::-1], draw)[::-1]
    assert [r.text for r in together] == [r.text for r in alone] == [r.text for r in backwards]
    for one, other in zip(together, alone, strict=True):
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-4)
    assert len({r.text for r in together}) == 12


def test_logprobs_are_those_of_the_model_at_temperature_one(generator):
    prompt = encoded(generator)[1]
    found = generator.generate([prompt], [3], Draw(0.7, 0.9, 16))[0]
    # The tokens are found again through the text's bytes: read them from the model's own forward.
    ids = list(prompt)
    total = 0.0
    replay = generator.generate([prompt], [3], Draw(0.7, 0.9, 16))[0]
    assert replay.text == found.text
    for step in range(len(found.logprobs)):
        with torch.inference_mode():
            logits = generator.model(torch.tensor([ids])).logits[0, -1]
        uniform = torch.tensor([uniforms([3], 16)[0, step]])
        token = int(choose(logits[None], uniform, Draw(0.7, 0.9, 16))[0])
        total += float(logits.log_softmax(-1)[token])
        ids.append(token)
    assert generator.tokenizer.decode(ids[len(prompt) :], skip_special_tokens=True) == found.text
    assert found.logprobs.sum() == pytest.approx(total, abs=1e-4)


def test_a_response_stops_at_the_end_token(folder):
    generator = Generator.load(str(folder), None, key=KEY, device="cpu", dtype="auto")
    end = generator.tokenizer.eos_token_id
    with torch.no_grad():
        # The end token gets about half of the mass at every step.
        generator.model.lm_head.weight[end] = 0.0
        generator.model.lm_head.register_forward_hook(
            lambda module, args, out: out.index_copy(
                -1, torch.tensor([end]), out.logsumexp(-1, keepdim=True)
            )
        )
    prompts = encoded(generator)[:1] * 64
    found = generator.generate(prompts, list(range(64)), Draw(1.0, 1.0, 4))
    stopped = [r for r in found if r.stopped]
    # 1 - 2^-4 of the responses stop within four tokens; 60 of 64, standard deviation 2.
    assert 52 <= len(stopped) < 64
    assert any(len(r.logprobs) == 0 and r.text == "" for r in stopped)
    assert all(len(r.logprobs) == 4 for r in found if not r.stopped)
    assert all("</s>" not in r.text for r in found)


def test_settings_of_the_checkpoint_do_not_leak(folder, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "generation_config.json").write_text(
        '{"do_sample": true, "temperature": 0.1, "top_k": 1, "repetition_penalty": 1.9, '
        '"eos_token_id": 2}'
    )
    plain = Generator.load(str(folder), None, key=KEY, device="cpu", dtype="auto")
    other = Generator.load(str(copy), None, key=KEY, device="cpu", dtype="auto")
    draw = Draw(1.0, 0.95, 16)
    prompt = encoded(plain)[:1]
    assert plain.generate(prompt, [1], draw)[0].text == other.generate(prompt, [1], draw)[0].text


def test_an_adapter_changes_the_responses(folder, tmp_path):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(folder)
    adapted = get_peft_model(
        model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
    )
    adapted.save_pretrained(tmp_path / "adapter")
    plain = Generator.load(str(folder), None, key=KEY, device="cpu", dtype="auto")
    with_adapter = Generator.load(
        str(folder), str(tmp_path / "adapter"), key=KEY, device="cpu", dtype="auto"
    )
    draw, prompts = Draw(1.0, 0.95, 16), encoded(plain)
    first = [r.text for r in plain.generate(prompts, [1, 2, 3, 4], draw)]
    second = [r.text for r in with_adapter.generate(prompts, [1, 2, 3, 4], draw)]
    assert first != second
    with pytest.raises(BackendError, match=r"sampling\.local\.adapter"):
        Generator.load(str(folder), str(folder), key=KEY, device="cpu", dtype="auto")


def test_a_long_prompt_loses_its_left(generator):
    ids = generator.encode("x" * 50, has_template=False, max_length=1000)
    cut = generator.encode("x" * 50, has_template=False, max_length=10)
    assert len(cut) == 10 and cut[-5:] == ids[-5:]
    assert np.isfinite(generator.generate([cut], [0], Draw(1.0, 1.0, 2))[0].logprobs).all()
