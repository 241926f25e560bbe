"""`axolotl-ual pairs` end to end: constructed responses, any order, judges, bad input."""

import json
import math
import random

import numpy as np
import pyarrow.parquet as pq
import pytest
import sampling_server
import tiny_nli
import yaml
from click.testing import CliRunner

from axolotl_ual.columns import STAGES, Manifest
from axolotl_ual.preprocess.cli import main

SURE = 1 / (1 + math.exp(-8))
HIGH = math.exp(8) / (math.exp(8) + 2)
LOW = 1 / (math.exp(8) + 2)


@pytest.fixture(scope="module")
def rule(tmp_path_factory):
    return tiny_nli.make_rule_model(tmp_path_factory.mktemp("rule"))


def write_recipe(folder, rule, **pairs):
    """A recipe whose dimensions all follow the rule; `pairs` overrides."""
    settings = {
        "output": str(folder / "out"),
        "cache": str(folder / "cache"),
        "nli": {"model": str(rule), "device": "cpu", "max_length": 128},
        "value": {
            "method": "classifier",
            "classifier": {
                "model": str(rule),
                "labels": {"contradiction": 1.0},
                "device": "cpu",
                "max_length": 128,
            },
        },
        **pairs,
    }
    recipe = {"base_model": "none", "rl": "dpo", "ual": {"pairs": settings}}
    if (folder / "prompts.jsonl").exists():
        recipe["datasets"] = [
            {"path": str(folder / "prompts.jsonl"), "type": "chat_template.default"}
        ]
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(*arguments, status=0):
    result = CliRunner().invoke(main, ["pairs", *map(str, arguments)])
    assert result.exit_code == status, result.output
    return result.output


def rows_of(folder, name):
    return pq.read_table(folder / "out" / f"{name}.parquet").to_pylist()


HISTORY = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "what is it ?"},
]
CONSTRUCTED = [
    *({"messages": HISTORY, "response": text} for text in ("it is m1", "the m1", " m2\n", "no")),
    *({"prompt": "same", "response": "m1"} for _ in range(3)),
    {"prompt": "unusable", "response": "  "},
    {"prompt": "unusable", "response": "m1", "finish_reason": "length"},
    {"prompt": "unusable", "failure": "refused"},
    {"prompt": "lonely", "response": "m1"},
]


def test_constructed_responses_score_as_derived_by_hand(tmp_path, rule):
    responses = write_rows(tmp_path / "responses.jsonl", CONSTRUCTED)
    output = run(write_recipe(tmp_path, rule), "--from-responses", responses)
    found = {
        (row["prompt_id"], row["response"]): row
        for row in rows_of(tmp_path, "responses")
        if row["status"] == "usable"
    }
    # Meanings 1, 1, 2 and none, so clusters of 2, 1 and 1: u_s = 1/2, 1/2, 3/4, 3/4 and
    # SE = (1/2 ln 2 + 1/2 ln 4) / ln 4 = 3/4.
    # u_f over the three others, SURE where meanings differ, 1 - SURE where they agree, 1/2 where
    # one has none: (1 - SURE + SURE + 1/2) / 3 = 1/2, likewise, (2 SURE + 1/2) / 3, 1/2.
    # u_v: P(contradiction) over three labels with logits 8, 0, 0: HIGH where "no" is said.
    factual = (2 * SURE + 0.5) / 3
    expected = {
        "it is m1": (1 / 2, 1 / 2, LOW),
        "the m1": (1 / 2, 1 / 2, LOW),
        "m2": (3 / 4, factual, LOW),
        "no": (3 / 4, 1 / 2, HIGH),
    }
    for text, (semantic, factual, value) in expected.items():
        row = found[0, text]
        assert row["ual_semantic"] == pytest.approx(semantic, abs=1e-6)
        assert row["ual_factual"] == pytest.approx(factual, abs=1e-6)
        assert row["ual_value"] == pytest.approx(value, abs=1e-6)
        assert row["ual_uncertainty"] == pytest.approx((semantic + factual + value) / 3, abs=1e-6)
        assert row["semantic_entropy"] == pytest.approx(0.75)
    assert found[0, "it is m1"]["cluster"] == found[0, "the m1"]["cluster"] == 0
    assert [row["duplicate_of"] for row in rows_of(tmp_path, "responses")][4:7] == [None, 0, 0]
    [pair] = rows_of(tmp_path, "train")
    assert pair["messages"] == HISTORY
    assert pair["chosen"]["content"] in ("it is m1", "the m1")
    assert pair["rejected"] == {"role": "assistant", "content": "no"}
    # (3/4 + 1/2 + HIGH) / 3 - (1/2 + 1/2 + LOW) / 3
    assert pair["ual_gap"] == pytest.approx((0.25 + HIGH - LOW) / 3, abs=1.5e-6)
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.kind == "pairs"
    assert manifest.failures == {
        "no pair: no_usable_response": 1,
        "no pair: no_uncertainty": 1,
        "no pair: identical_texts": 1,
        "factual: single usable response": 1,
    }
    counts = {"prompts": 4, "responses": 11, "usable": 8, "empty": 1, "truncated": 1, "failed": 1}
    assert {name: manifest.counts[name] for name in counts} == counts
    assert "no pair: no_usable_response: 1" in output


def test_several_policies_are_counted_in_summary_manifest_and_card(tmp_path, rule):
    responses = write_rows(tmp_path / "responses.jsonl", CONSTRUCTED)
    recipe = write_recipe(tmp_path, rule, policy=["worst", "second", "median"])
    output = run(recipe, "--from-responses", responses)
    # Two rivals to one chosen text: the lower median is the second best, so found again.
    pairs = rows_of(tmp_path, "train")
    assert [pair["rejected"]["content"] for pair in pairs] == ["no", "m2"]
    assert len({pair["chosen"]["content"] for pair in pairs}) == 1
    assert pairs[0]["ual_gap"] > pairs[1]["ual_gap"] > 0
    by_policy = "1 pairs by worst, 1 pairs by second, 1 pairs by median; 1 pairs found again"
    assert by_policy in output.replace("\n", " ")
    counts = Manifest.read(tmp_path / "out").counts
    assert counts["pairs"] == 2 and counts["pairs found again"] == 1
    card = (tmp_path / "out" / "README.md").read_text()
    assert "in a pair of its own for each,\n`worst`, `second`, `median`;" in card
    assert "| pairs found again | 1 |" in card
    one = write_recipe(tmp_path, rule, policy=["worst"])
    run(one, "--from-responses", responses)
    assert "pairs by worst" not in Manifest.read(tmp_path / "out").counts
    assert "the rejected one is `worst`." in (tmp_path / "out" / "README.md").read_text()
    for wrong in ([], ["worst", "worst"], ["best"]):
        assert "ual.pairs.policy" in run(write_recipe(tmp_path, rule, policy=wrong), status=1)


def constructed(number, seed=0):
    rng = random.Random(seed)
    words = [*tiny_nli.MEANINGS[:3], "it", "is", "no", "the"]
    return [
        {
            "prompt": f"question {place} ?",
            "response": " ".join(rng.choices(words, k=rng.randint(1, 4))),
            "logprob_mean": -rng.random(),
        }
        for place in range(number)
        for _ in range(6)
    ]


def test_pairs_do_not_depend_on_the_order_of_rows_and_prompts(tmp_path, rule):
    rows = constructed(70)
    contents = []
    for seed in (None, 1):
        folder = tmp_path / str(seed)
        folder.mkdir()
        if seed is not None:
            random.Random(seed).shuffle(rows)
        responses = write_rows(folder / "responses.jsonl", rows)
        run(write_recipe(folder, rule), "--from-responses", responses)
        pairs = {
            row["messages"][0]["content"]: (
                row["chosen"]["content"],
                row["rejected"]["content"],
                round(row["ual_gap"], 5),
                row["ual_stage"],
            )
            for row in rows_of(folder, "train")
        }
        contents.append(pairs)
    assert contents[0] == contents[1] and len(contents[0]) > 60


def test_gap_stage_and_smoothing_reproduce_from_the_columns(tmp_path, rule):
    responses = write_rows(tmp_path / "responses.jsonl", constructed(60))
    recipe = write_recipe(
        tmp_path, rule, thresholds=[0.1, 0.25], smoothing={"mean": 0.2, "max": 0.3}
    )
    run(recipe, "--from-responses", responses)
    table = pq.read_table(tmp_path / "out" / "train.parquet")
    column = {name: table[name].to_numpy() for name in table.column_names if "ual" in name}
    chosen, rejected = column["ual_uncertainty_chosen"], column["ual_uncertainty_rejected"]
    assert (chosen < rejected).all()
    gap = np.round(rejected.astype(float) - chosen.astype(float), 6).astype(np.float32)
    assert (gap == column["ual_gap"]).all()
    stages = np.where(gap >= np.float32(0.25), 0, np.where(gap >= np.float32(0.1), 1, 2))
    assert [STAGES[code] for code in stages] == column["ual_stage"].tolist()
    assert len(set(stages)) > 1
    smoothing = column["ual_smoothing"].astype(float)
    assert smoothing.mean() == pytest.approx(0.2, abs=1e-7) and smoothing.max() < 0.5
    order = np.argsort(gap)
    assert (np.diff(smoothing[order]) <= 0).all()


def judged(url, **more):
    return {
        "judge": {"model": "j", "base_url": url, "max_retries": 0},
        "factual": {"method": "judge"},
        "value": {"method": "judge", "repeats": 2, "principles": {"kind": "Be kind.", "b": "B."}},
        "semantic": {"method": "none"},
        **more,
    }


@pytest.mark.slow
def test_a_judge_rates_claims_and_principles(tmp_path, rule):
    rows = [{"prompt": "what ?", "response": text} for text in ("yes m1", "no", "it is", "no")]
    rows.append({"prompt": "unratable what ?", "response": "yes"})
    rows.append({"prompt": "forbidden what ?", "response": "yes"})
    responses = write_rows(tmp_path / "responses.jsonl", rows)
    with sampling_server.running() as url:
        recipe = write_recipe(tmp_path, rule, **judged(url))
        plan = run(recipe, "--from-responses", responses, "--dry-run")
        assert sampling_server.stats(url)["requests"] == 0
        run(recipe, "--from-responses", responses)
        report = sampling_server.stats(url)
        # Four distinct responses get one question about claims and two for each principle; the
        # fifth (refused) was answered none. Four digits that were none were asked for once more.
        assert report["requests"] == 4 * (1 + 4) + 4 and report["most_repeats"] == 2
        run(recipe, "--from-responses", responses)
        assert sampling_server.stats(url)["requests"] == report["requests"]
        bodies = report["bodies"]
    assert "factual: 5 requests" in plan and "value: 20 requests" in plan
    found = {row["response"]: row for row in rows_of(tmp_path, "responses")[:4]}
    # The server's claims: yes is supported, m1 unknown, no false.
    assert found["yes m1"]["ual_factual"] == 0.5
    assert (found["no"]["ual_factual"], found["it is"]["ual_factual"]) == (1.0, 0.0)
    shown = {
        (body["messages"][0]["content"], body["messages"][1]["content"])
        for body in bodies
        if "one digit" in body["messages"][0]["content"]
        and "\nyes m1\n" in body["messages"][1]["content"]
        and "unratable" not in body["messages"][1]["content"]
    }
    digits = [int(sampling_server.digit_of(told, asked)) / 9 for told, asked in sorted(shown)]
    assert len(digits) == 2
    row = found["yes m1"]
    assert row["ual_value"] == pytest.approx(np.mean(digits))
    assert row["value_spread_principles"] == pytest.approx(np.std(digits))
    assert row["value_spread_repeats"] == 0.0
    manifest = Manifest.read(tmp_path / "out")
    assert manifest.failures["value: unparsable"] == 1
    assert manifest.failures["value: refused"] == manifest.failures["factual: refused"] == 1
    assert manifest.failures["no pair: no_uncertainty"] == 2


@pytest.mark.slow
def test_a_judge_rates_all_principles_in_one_request(tmp_path, rule):
    rows = [{"prompt": "what ?", "response": text} for text in ("yes m1", "no", "it is")]
    rows.append({"prompt": "unratable what ?", "response": "yes"})
    responses = write_rows(tmp_path / "responses.jsonl", rows)
    value = {
        "method": "judge",
        "repeats": 2,
        "together": True,
        "principles": {"kind": "Be kind.", "b": "B."},
    }
    with sampling_server.running() as url:
        recipe = write_recipe(tmp_path, rule, **judged(url, value=value))
        assert "value: 8 requests" in run(recipe, "--from-responses", responses, "--dry-run")
        run(recipe, "--from-responses", responses)
        report = sampling_server.stats(url)
        # Two repeats of each of three responses; the fourth has a reminder behind each.
        asked = [b for b in report["bodies"] if "# The principles" in b["messages"][0]["content"]]
        assert len(asked) == 3 * 2 + 2 * 2
        run(recipe, "--from-responses", responses)
        assert sampling_server.stats(url)["requests"] == report["requests"]
    schema = asked[0]["response_format"]["json_schema"]["schema"]
    assert sorted(schema["required"]) == ["b", "kind"]
    questions = [body["messages"][1]["content"] for body in asked]
    shown = next(question for question in questions if "\nyes m1\n" in question)
    told = [f"# The principle: {name}" for name in ("kind", "b")]
    digits = [int(sampling_server.digit_of(one, shown)) / 9 for one in told]
    assert digits[0] != digits[1]
    row = next(r for r in rows_of(tmp_path, "responses") if r["response"] == "yes m1")
    assert row["ual_value"] == pytest.approx(np.mean(digits))
    assert row["value_spread_principles"] == pytest.approx(np.std(digits))
    assert row["value_spread_repeats"] == 0.0
    assert Manifest.read(tmp_path / "out").failures["value: unparsable"] == 1


@pytest.mark.slow
def test_sampling_from_prompts_of_several_shapes(tmp_path, rule):
    write_rows(
        tmp_path / "prompts.jsonl",
        [
            {"messages": HISTORY},
            {"messages": [*HISTORY, {"role": "assistant", "content": "an answer to drop"}]},
        ],
    )
    with sampling_server.running() as url:
        sampling = {"backend": "api", "n": 4, "api": {"model": "m", "base_url": url}}
        recipe = write_recipe(tmp_path, rule, sampling=sampling)
        assert "1 of 1 distinct prompts" in run(recipe, "--dry-run")
        run(recipe, "--limit", "1")
        assert Manifest.read(tmp_path / "out").limit == 1
        run(recipe)
        assert sampling_server.stats(url)["requests"] == 1
    rows = rows_of(tmp_path, "responses")
    assert len(rows) == 8 and all(row["messages"] == HISTORY for row in rows)
    # What was written can be scored again.
    run(recipe, "--from-responses", tmp_path / "out" / "responses.parquet")


@pytest.mark.slow
def test_a_response_without_a_dimension_can_be_scored_by_the_rest(tmp_path, rule):
    rows = [{"prompt": "unratable what ?", "response": text} for text in ("yes", "no")]
    responses = write_rows(tmp_path / "responses.jsonl", rows)
    with sampling_server.running() as url:
        recipe = write_recipe(tmp_path, rule, **judged(url))
        said = run(recipe, "--from-responses", responses, status=1)
        assert "none of the 1 prompts gives a pair" in said and "no_uncertainty: 1" in said
        assert not (tmp_path / "out").exists()
        run(
            write_recipe(
                tmp_path, rule, **judged(url, on_missing="renormalise", smoothing={"mean": 0})
            ),
            "--from-responses",
            responses,
        )
    [pair] = rows_of(tmp_path, "train")
    assert (pair["ual_uncertainty_chosen"], pair["ual_uncertainty_rejected"]) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"prompt": "a"}], "row 0 (line 1): `response` is missing or null"),
        ([{"response": "a"}], "row 0 (line 1): `prompt` is missing or null"),
        ([{"messages": [], "response": "a"}], "`messages` is not a list of turns"),
        ([], "there are no rows"),
        (
            [
                {"prompt_id": 1, "prompt": "a", "response": "x"},
                {"prompt_id": 1, "prompt": "b", "response": "y"},
            ],
            "row 1 (line 2): prompt_id 1 stands for two different prompts",
        ),
    ],
)
def test_bad_responses_are_named(tmp_path, rule, rows, said):
    responses = write_rows(tmp_path / "responses.jsonl", rows)
    assert said in run(write_recipe(tmp_path, rule), "--from-responses", responses, status=1)


def test_what_is_missing_in_the_recipe_is_named(tmp_path, rule):
    recipe = write_recipe(tmp_path, rule)
    assert "datasets: this key is needed to know the prompts" in run(recipe, status=1)
    bare = tmp_path / "bare.yaml"
    bare.write_text("base_model: x\n")
    assert "ual.pairs: this section is needed" in run(bare, status=1)
    other = tmp_path / "other.yaml"
    other.write_text("base_model: x\nrl: grpo\n")
    assert "rl: grpo: does not train on preference pairs" in run(other, status=1)
