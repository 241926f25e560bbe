"""Sampling over real HTTP and from a real local model, through the cache."""

import json

import pytest
import sampling_server
from judging_kit import session

import tiny
from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.data.prompt import Prompt
from axolotl_ual.preprocess.models.local.generate import Generator
from axolotl_ual.preprocess.progress import SilentProgress
from axolotl_ual.preprocess.sampling.base import seed_of
from axolotl_ual.preprocess.sampling.build import build_sampler
from axolotl_ual.preprocess.sampling.local import identity
from axolotl_ual.settings.pairs import PairsConfig


def prompt(text, *history):
    return Prompt((*history, ("user", text)))


PROMPTS = [prompt(f"question {number}") for number in range(12)]


def settings(url, **sampling):
    return PairsConfig.model_validate(
        {
            "output": "out",
            "value": {"method": "none"},
            "sampling": {
                "backend": "api",
                "n": 4,
                "api": {"model": "m", "base_url": url, "max_retries": 1},
                **sampling,
            },
        }
    )


def sample(pairs, cache_folder, prompts=PROMPTS, base_model=None):
    progress = SilentProgress()
    with session(cache_folder) as lent:
        sampled = build_sampler(pairs, base_model, None, lent).sample(prompts, progress)
    assert progress.done == len(prompts)
    return sampled, progress


def texts(sampled):
    return [[response.text for response in group] for group in sampled.responses]


@pytest.mark.slow
def test_a_server_that_heeds_n_is_asked_once_a_prompt(tmp_path):
    with sampling_server.running(n="honoured") as url:
        sampled, _ = sample(settings(url), tmp_path)
        report = sampling_server.stats(url)
    assert report["requests"] == len(PROMPTS)
    body = report["bodies"][0]
    assert (body["n"], body["temperature"], body["top_p"]) == (4, 1.0, 0.95)
    for one, group in zip(PROMPTS, sampled.responses, strict=True):
        seed = seed_of(one, 0, 0)
        expected = [sampling_server.response_of(one.question, seed, k) for k in range(4)]
        assert [response.text for response in group] == expected
        for response in group:
            # The server's log-probability of a word is half its length, negated.
            logprobs = [-0.5 * len(word) for word in response.text.split()]
            assert response.logprob_sum == pytest.approx(sum(logprobs))
            assert response.logprob_mean == pytest.approx(sum(logprobs) / len(logprobs))
            assert (response.seed, response.finish_reason) == (seed, "stop")
    assert sampled.usage.requests == 12 and sampled.usage.prompt_tokens == 60


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["ignored", "refused"])
def test_a_server_without_n_is_asked_again(tmp_path, manner):
    with sampling_server.running(n=manner) as url:
        sampled, progress = sample(settings(url), tmp_path)
        report = sampling_server.stats(url)
    assert report["requests"] == 4 * len(PROMPTS) and report["most_repeats"] == 1
    for one, group in zip(PROMPTS, sampled.responses, strict=True):
        seeds = [seed_of(one, 0, repeat) for repeat in range(4)]
        expected = [sampling_server.response_of(one.question, seed, 0) for seed in seeds]
        assert [response.text for response in group] == expected
        assert [response.seed for response in group] == seeds
    assert any("one completion a request" in line for line in progress.lines) == (
        manner == "refused"
    )


@pytest.mark.slow
@pytest.mark.parametrize("manner", ["ignored", "refused"])
def test_a_server_without_logprobs(tmp_path, manner):
    with sampling_server.running(logprobs=manner) as url:
        sampled, _ = sample(settings(url), tmp_path)
    flat = [response for group in sampled.responses for response in group]
    assert len(flat) == 48 and all(response.logprob_sum is None for response in flat)


@pytest.mark.slow
def test_a_second_run_asks_nothing(tmp_path):
    with sampling_server.running(n="ignored") as url:
        first, _ = sample(settings(url), tmp_path)
        second, _ = sample(settings(url), tmp_path, PROMPTS[::-1])
        assert sampling_server.stats(url)["requests"] == 48
        assert texts(second) == texts(first)[::-1]
        assert (second.usage.requests, second.usage.cached) == (0, 48)
        sample(settings(url, temperature=0.5), tmp_path)
        assert sampling_server.stats(url)["requests"] == 96


@pytest.mark.slow
def test_refused_truncated_and_empty_responses_are_told_apart(tmp_path):
    prompts = [prompt("forbidden"), prompt("truncate this"), prompt("sometimes empty, really")]
    with sampling_server.running() as url:
        sampled, _ = sample(settings(url, n=16), tmp_path, prompts)
    refused, truncated, empty = sampled.responses
    assert [response.failure for response in refused] == ["refused"] * 16
    assert [response.status for response in truncated] == ["usable", "truncated"] * 8
    statuses = [response.status for response in empty]
    assert set(statuses) == {"usable", "empty"}
    assert all((s == "empty") == (r.text == "") for s, r in zip(statuses, empty, strict=True))


@pytest.mark.slow
def test_history_reaches_the_server(tmp_path):
    one = prompt("and then?", ("system", "be brief"), ("user", "hi"), ("assistant", "hello"))
    with sampling_server.running() as url:
        sample(settings(url), tmp_path, [one])
        body = sampling_server.stats(url)["bodies"][0]
    assert body["messages"] == one.as_dicts()


def test_seeds_belong_to_prompt_base_and_number():
    seeds = {seed_of(p, base, n) for p in PROMPTS for base in (0, 1) for n in range(4)}
    assert len(seeds) == 12 * 2 * 4
    assert all(0 <= seed < 2**31 for seed in seeds)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny.make_model(tmp_path_factory.mktemp("model"), initializer_range=0.4)


def local(**options):
    sampling = {"n": 3, "max_tokens": 12, "local": {"device": "cpu", **options}}
    return PairsConfig.model_validate(
        {"output": "out", "value": {"method": "none"}, "sampling": sampling}
    )


def test_a_local_model_samples_the_same_in_any_batch_and_order(model, tmp_path):
    prompts = [prompt("x" * (1 + 3 * number)) for number in range(8)]
    first, _ = sample(local(), tmp_path / "1", prompts, str(model))
    second, _ = sample(local(batch_tokens=1), tmp_path / "2", prompts[::-1], str(model))
    assert texts(first) == texts(second)[::-1]
    flat = [response for group in first.responses for response in group]
    assert len({response.text for response in flat}) > 20
    assert all(response.logprob_sum < 0 and response.tokens > 0 for response in flat)
    again, progress = sample(local(), tmp_path / "1", [*prompts, prompts[0]], str(model))
    assert texts(again) == [*texts(first), texts(first)[0]]
    assert again.usage.cached == 8 and progress.lines == []


def test_a_long_prompt_is_cut_and_counted(model, tmp_path):
    prompts = [prompt("x" * 300), prompt("short")]
    sampled, _ = sample(local(max_prompt_length=50), tmp_path, prompts, str(model))
    assert sampled.facts["prompts_cut"] == 1
    with pytest.raises(ConfigError, match="leaves no room for a prompt"):
        pairs = local()
        pairs.sampling.max_tokens = 512
        sample(pairs, tmp_path, prompts, str(model))


def test_a_model_is_known_by_what_it_holds(tmp_path):
    one = tiny.make_model(tmp_path / "one", seed=0)
    assert identity(str(one)) == identity(str(tiny.make_model(tmp_path / "same", seed=0)))
    assert identity(str(one)) != identity(str(tiny.make_model(tmp_path / "other", seed=1)))
    assert identity("org/name") == "org/name"


def test_no_model_to_sample_from():
    with pytest.raises(ConfigError, match=r"sampling\.local\.model"):
        build_sampler(local(), None, None, session(None))


TEMPLATE = (
    "{% if tools %}{{ tools | length }} tools {% endif %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}{% endfor %}\n{% endfor %}"
)


@pytest.mark.parametrize(("template", "named"), [(TEMPLATE, True), (None, False)])
def test_a_local_model_reads_the_tools_of_a_prompt(model, tmp_path, monkeypatch, template, named):
    # Where the template writes tools it is given them; else they are in the text of the prompt.
    dialogue = {"messages": [{"role": "user", "content": "hi"}], "tools": [{"type": "function"}]}
    one = Prompt((("system", "TOOLS"), ("user", "hi")), json.dumps(dialogue))
    read = []
    encode = Generator.encode

    def note(self, text, *rest):
        read.append(text)
        return encode(self, text, *rest)

    monkeypatch.setattr(Generator, "encode", note)
    with session(tmp_path) as lent:
        sampler = build_sampler(local(), str(model), template, lent)
        sampler.sample([one, prompt("hi")], SilentProgress())
    assert ("1 tools user: hi" in read) == named
    assert any("TOOLS" in text for text in read) != named
