"""Real runs of `axolotl train` with `rl: grpo`: which prompts are answered when."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_rewards import answered

import tiny

pytestmark = pytest.mark.slow

STAGES = ("conservative", "moderate", "exploratory")
NUMBERS = {"conservative": range(5), "moderate": range(5, 8), "exploratory": range(8, 12)}
RATES = {number: (number * 5 % 12) / 12 for number in range(12)}
"""All different: 0, 5/12, 10/12, 3/12, ..."""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grpo")
    tiny.make_model(folder / "model")
    stage_of = {number: stage for stage in STAGES for number in NUMBERS[stage]}
    # Mixed, so that the order of the file is none of those that are asked for.
    order = [(number * 7 + 3) % 12 for number in range(12)]
    rows = [
        {
            "question": f"question {number}",
            "pass_rate": RATES[number],
            "ual_stage": stage_of[number],
            "ual_uncertainty": RATES[number],
        }
        for number in order
    ]
    tiny.write_rows(folder / "prompts.jsonl", rows)
    return folder


def grpo(work: Path, name: str, curriculum: dict[str, Any], **overrides: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "plugins": ["axolotl_ual.UALPlugin"],
        "rl": "grpo",
        "chat_template": "tokenizer_default",
        "max_steps": None,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "save_strategy": "no",
        "trl": {
            "num_generations": 2,
            "max_completion_length": 4,
            "reward_funcs": ["tiny_rewards.few_letters"],
            "use_vllm": False,
            "beta": 0.04,
        },
        "ual": {"curriculum": curriculum},
        **overrides,
    }
    entry = {
        "path": str(work / "prompts.jsonl"),
        "type": "tiny_rewards.transform",
        "ds_type": "json",
        "split": "train",
    }
    return tiny.recipe(work / "model", work / name, [entry], **settings)


def prompts_of(times: list[list[str]], generations: int = 2) -> list[int]:
    """The numbers of the prompts in the order of their answers; each is answered in a row."""
    flat = [int(prompt.removeprefix("question ")) for time in times for prompt in time]
    groups = [flat[at : at + generations] for at in range(0, len(flat), generations)]
    assert all(len(set(group)) == 1 and len(group) == generations for group in groups)
    return [group[0] for group in groups]


@pytest.mark.parametrize("rl", ["grpo", "gdpo"])
def test_stages_are_answered_one_after_the_other(work: Path, rl: str) -> None:
    # 12 prompts, 2 at a time: 6 steps. 5, 3 and 4 of a stage: step 3 opens the second stage with
    # the first one's tail, and belongs to the second.
    # Axolotl gives the trainer of gdpo an adapter twice, which TRL refuses.
    keys = ("adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_target_linear")
    without = dict.fromkeys(keys) if rl == "gdpo" else {}
    run = tiny.axolotl(grpo(work, rl, {"mode": "phased"}, rl=rl, **without), work / rl)
    order = prompts_of(answered(work / rl))
    assert set(order[:5]) == set(NUMBERS["conservative"])
    assert set(order[5:8]) == set(NUMBERS["moderate"])
    assert set(order[8:]) == set(NUMBERS["exploratory"])
    assert run.values("ual/stage") == [1, 1, 2, 2, 3, 3]
    assert len(run.values("loss")) == 6
    assert "12 prompts with 2 responses each, 2 prompts at a time, in 6 steps" in run.text
    assert run.values("epoch")[:6] == pytest.approx([step / 6 for step in range(1, 7)])


def test_prompts_of_ebft_follow_the_stages(work: Path) -> None:
    """Its features are compared with those of the row's own response."""
    settings = grpo(work, "ebft", {"mode": "phased"}, rl="ebft", ebft={"use_whitening": False})
    settings["trl"] = {**settings["trl"], "reward_funcs": None}
    settings["datasets"][0]["type"] = "tiny_rewards.with_truth"
    settings["plugins"] = [*settings["plugins"], "tiny_rewards.WritesAnswered"]
    run = tiny.axolotl(settings, work / "ebft")
    order = prompts_of(answered(work / "ebft"))
    assert set(order[:5]) == set(NUMBERS["conservative"])
    assert set(order[5:8]) == set(NUMBERS["moderate"])
    assert set(order[8:]) == set(NUMBERS["exploratory"])
    assert run.values("ual/stage") == [1, 1, 2, 2, 3, 3]
    assert "12 prompts with 2 responses each, 2 prompts at a time, in 6 steps" in run.text


def test_prompts_go_by_a_column_and_serve_several_steps(work: Path) -> None:
    # From the highest pass rate down, those below 0.2 (numbers 0 of 0, 5 of 1/12, 10 of 2/12) left
    # out. 4 prompts at a time are 8 responses: 2 steps of 4. 9 prompts are 2 times 4, and one.
    curriculum = {
        "mode": "phased",
        "by": "pass_rate",
        "direction": "descending",
        "order": ["easy", "hard"],
        "shuffle": False,
        "keep": {"by": "pass_rate", "at_least": 0.2},
    }
    settings = grpo(work, "column", curriculum)
    settings["trl"]["generation_batch_size"] = 8
    run = tiny.axolotl(settings, work / "column")
    by_rate = sorted(RATES, key=lambda number: -RATES[number])
    assert prompts_of(answered(work / "column")) == by_rate[:8]
    assert len(run.values("loss")) == 4
    assert "1 prompts do not fill the last of these times" in run.text
    assert "9 of 12 training rows stay" in run.text
    # 9 prompts in two parts of 4 and 5 (a cut lies nearest to the middle, 4.5).
    assert run.values("ual/stage") == [1, 1, 2, 2]


def test_two_processes_answer_the_same_prompts_as_one(work: Path) -> None:
    settings = grpo(work, "two", {"mode": "cumulative"})
    run = tiny.axolotl(settings, work / "two", processes=2)
    one = grpo(work, "one", {"mode": "cumulative"}, gradient_accumulation_steps=4)
    alone = tiny.axolotl(one, work / "one")
    order = prompts_of(answered(work / "two", processes=2))
    # 5, then 8, then 12 prompts; the last of 25 fills no time of 4.
    assert order == prompts_of(answered(work / "one")) and len(order) == 24
    assert set(order[:5]) == set(NUMBERS["conservative"])
    assert sorted(order[5:13]) == [*range(8)]
    assert run.values("ual/stage") == alone.values("ual/stage")


def test_a_killed_run_goes_on_with_the_next_prompts(work: Path) -> None:
    """2 micro-batches of 2 responses to a step, and 6 responses at a time.

    So 3 prompts serve 3 micro-batches, which are a step and a half: responses are sampled before
    micro-batches 0, 3, 6 and 9, in steps 1, 2, 4 and 5. The checkpoint is of step 2, in the midst
    of the second three prompts, which are answered again.
    """
    more: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2}
    settings = grpo(work, "undisturbed", {"mode": "phased"}, **more)
    settings["trl"]["generation_batch_size"] = 6
    whole = tiny.axolotl(settings, work / "undisturbed")
    order = prompts_of(answered(work / "undisturbed"))
    assert sorted(order) == [*range(12)]
    assert set(order[:5]) == set(NUMBERS["conservative"])
    assert "3 prompts at a time, in 6 steps" in whole.text
    # 5, 3 and 4 prompts of a stage, 3 at a time: step 2 begins the second three, of which one is
    # of the first stage; step 4 the third, whose last is of the third.
    assert whole.values("ual/stage") == [1, 2, 2, 3, 3, 3]
    assert sampled(whole) == [1, 2, 4, 5]
    folder = work / "killed"
    killed = {
        **settings,
        "output_dir": str(folder / "out"),
        "plugins": ["axolotl_ual.UALPlugin", "tiny_plugins.KilledOnce"],
    }
    broken = tiny.axolotl(killed, folder, check=False)
    assert broken.returncode != 0
    assert prompts_of(answered(folder)) == order[:6]
    (folder / "answered.0").unlink()
    last = str(broken.output / "checkpoint-2")
    again = tiny.axolotl({**killed, "resume_from_checkpoint": last}, folder, keep=True)
    assert prompts_of(answered(folder)) == order[3:]
    assert sampled(again)[-3:] == [3, 4, 5]
    assert again.values("ual/stage")[-4:] == whole.values("ual/stage")[2:]


def sampled(run: tiny.Run) -> list[int]:
    """Steps in which responses were sampled."""
    return [entry["step"] for entry in run.log if "reward" in entry]


def test_what_trl_refuses_is_refused_before_a_model_is_loaded(work: Path) -> None:
    settings = grpo(work, "refused", {"mode": "phased"}, micro_batch_size=4)
    settings["trl"]["generation_batch_size"] = 6
    run = tiny.axolotl(settings, work / "refused", check=False)
    assert run.returncode != 0
    assert "generation_batch_size (6) must be divisible by the global batch size (4)" in run.text
    assert "Loading weights" not in run.text
