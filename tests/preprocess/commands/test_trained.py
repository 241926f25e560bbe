"""What is judged is what training uses: rows that cannot be read, masks, filters and the mean."""

from __future__ import annotations

import importlib.util
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result

import judge_server
import tiny
from axolotl_ual.columns import Manifest
from axolotl_ual.data.annotated import locate
from axolotl_ual.preprocess.cli import main
from axolotl_ual.settings.ual import parse_ual

pytestmark = pytest.mark.slow

Rows = list[dict[str, Any]]
ROWS = [{"instruction": f"Add {n} and 1.", "output": f"{n + 1}"} for n in range(12)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def running() -> Iterator[judge_server.Running]:
    with judge_server.running(keep=True) as server:
        yield server


@pytest.fixture
def server(
    running: judge_server.Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> judge_server.Running:
    monkeypatch.chdir(tmp_path)
    running.restore()
    running.set(keep=True)
    return running


def write_recipe(
    model: Path,
    server: judge_server.Running,
    entries: list[dict[str, Any]],
    ual: dict[str, Any] | None = None,
    **recipe: Any,
) -> Path:
    """A recipe that Axolotl accepts, judged by the server; `ual` is of its `annotate:`."""
    judge = {"model": "m", "base_url": server.base_url, "max_retries": 0}
    annotate = {"output": "out", "cache": "cache", "judge": judge, **(ual or {})}
    smoothing = annotate.pop("smoothing", {})
    raw = tiny.recipe(model, Path("run"), entries, **recipe)
    raw["ual"] = {"annotate": annotate, "smoothing": smoothing}
    Path("recipe.yaml").write_text(yaml.safe_dump(raw))
    return Path("recipe.yaml")


def annotate(recipe: Path, *options: str) -> Result:
    return CliRunner().invoke(main, ["annotate", str(recipe), *options])


def written(name: str = "train") -> Any:
    return pq.read_table(f"out/{name}.parquet")


def prompts(server: judge_server.Running) -> list[str]:
    return [body["messages"][-1]["content"] for body in server.requests()]


# --- rows that cannot be read ----------------------------------------------------------------

ALPACA = {"path": "d.jsonl", "type": "alpaca"}
CHAT = {"path": "d.jsonl", "type": "chat_template"}
GOOD = [
    {"role": "user", "content": "Hi."},
    {"role": "assistant", "content": "Hello there."},
]
UNREADABLE: dict[str, tuple[dict[str, Any], Rows, str]] = {
    "empty output": (
        ALPACA,
        [*ROWS[:4], {"instruction": "x", "output": " "}],
        "row 4 (line 5): `output` is an empty response",
    ),
    "null output": (
        ALPACA,
        [{"instruction": "x", "output": None}, *ROWS[:4]],
        "row 0 (line 1): `output` is missing or null",
    ),
    "null turn": (
        CHAT,
        [
            {"messages": GOOD},
            {"messages": [GOOD[0], {"role": "assistant", "content": None}]},
            {"messages": GOOD},
        ],
        "row 1 (line 2): `messages[1].content` is missing or null",
    ),
    "only human turns": (
        CHAT,
        [{"messages": GOOD}, {"messages": GOOD[:1]}, {"messages": GOOD}],
        "row 1 (line 2): `messages` has nothing in it that is trained on",
    ),
    "no messages": (
        CHAT,
        [{"messages": GOOD}, {"messages": []}, {"messages": GOOD}],
        "row 1 (line 2): `messages` is an empty list",
    ),
    "all turns untrained": (
        {**CHAT, "message_field_training": "train"},
        [
            {"messages": [GOOD[0], {**GOOD[1], "train": True}]},
            {"messages": [GOOD[0], {**GOOD[1], "train": False}]},
        ],
        "row 1 (line 2): `messages` has nothing in it that is trained on",
    ),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_row_that_cannot_be_read_stops_nothing_where_it_need_not(
    model: Path, server: judge_server.Running, name: str
) -> None:
    entry, rows, said = UNREADABLE[name]
    tiny.write_rows(Path("d.jsonl"), rows)
    stopped = annotate(write_recipe(model, server, [entry]))
    assert stopped.exit_code == 1 and said in stopped.output
    assert "ual.annotate.on_unreadable" in stopped.output and not server.requests()

    mean = {"on_unreadable": "mean"}
    told = annotate(write_recipe(model, server, [entry], mean), "--dry-run")
    assert said in told.output and "smoothed by the mean" in told.output
    kept = annotate(write_recipe(model, server, [entry], mean))
    assert kept.exit_code == 0, kept.output
    table = written()
    assert table.num_rows == len(rows)
    [bad] = [n for n, value in enumerate(table["ual_uncertainty"].to_pylist()) if value is None]
    assert said.startswith(f"row {bad} ")
    assert table["ual_smoothing"][bad].as_py() == pytest.approx(0.1)
    manifest = Manifest.read("out")
    assert manifest.counts["unreadable"] == manifest.failures["unreadable"] == 1
    assert manifest.counts["missing"] == 1 and manifest.counts["dropped"] == 0
    [line] = Path("out/unreadable.jsonl").read_text().splitlines()
    assert json.loads(line)["place"].endswith(said.partition(":")[0])

    dropped = annotate(write_recipe(model, server, [entry], {"on_unreadable": "drop"}))
    assert dropped.exit_code == 0, dropped.output
    good = [row for n, row in enumerate(rows) if n != bad]
    copy = datasets.Dataset.from_parquet("out/train.parquet")
    assert [{name: row[name] for name in good[0]} for row in copy] == good
    manifest = Manifest.read("out")
    assert manifest.counts == {
        "rows": len(rows),
        "scored": len(rows) - 1,
        "missing": 1,
        "dropped": 1,
        "unreadable": 1,
    }
    # The policy is a part of what was made: training with another one asks for another run.
    raw = yaml.safe_load(Path("recipe.yaml").read_text())
    assert locate(raw, parse_ual(raw["ual"]), "recipe.yaml").entries


def test_no_readable_row_is_an_error_whatever_the_policy(
    model: Path, server: judge_server.Running
) -> None:
    tiny.write_rows(Path("d.jsonl"), [{"instruction": "x", "output": ""}] * 3)
    result = annotate(write_recipe(model, server, [ALPACA], {"on_unreadable": "drop"}))
    assert result.exit_code == 1 and "3 of 3 rows cannot be read" in result.output


# --- judged is trained -----------------------------------------------------------------------

THOUGHT = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "<think>\nadding pebbles slowly\n</think>\n\nFour."},
    {"role": "user", "content": "And one more?"},
    {"role": "assistant", "content": "<think>\ncounting one further\n</think>\n\nFive."},
]
REASONED = [
    {"role": "user", "content": "Two and two?"},
    {"role": "assistant", "content": "Four.", "reasoning_content": "adding pebbles slowly"},
]
CALLING = [
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "Let me look.",
        "tool_calls": [
            {
                "type": "function",
                "function": {"name": "weather", "arguments": json.dumps({"place": "Oslo"})},
            }
        ],
    },
    {"role": "tool", "content": "sunny"},
    {"role": "assistant", "content": "It is sunny."},
]
ONLY_CALLING = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": CALLING[1]["tool_calls"]},
]
# Template of Axolotl, conversation, what a judge must see, and what it must not see.
WRITTEN: dict[str, tuple[str, Rows, list[str], list[str]]] = {
    "thinking of earlier turns": (
        "qwen3",
        THOUGHT,
        ["Four.", "counting one further", "Five."],
        ["pebbles"],
    ),
    "reasoning that is written": ("qwen3", REASONED, ["adding pebbles slowly", "Four."], []),
    "reasoning that is not": ("chatml", REASONED, ["Four."], ["pebbles"]),
    "calls that are written": (
        "qwen3",
        CALLING,
        ["Let me look.", '"name": "weather"', "It is sunny."],
        [],
    ),
    "calls that are not": ("chatml", CALLING, ["Let me look.", "It is sunny."], ['"weather"']),
    "thinking that stays": ("chatml", THOUGHT, ["pebbles", "Four.", "further", "Five."], []),
}


def trained_by_axolotl(model: Path, template: str, messages: Rows) -> str:
    """What Axolotl's own strategy trains, decoded."""
    from axolotl.prompt_strategies.chat_template import StrategyLoader
    from axolotl.utils.dict import DictDefault
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    cfg = DictDefault({"sequence_len": 2048, "chat_template": template, "train_on_inputs": False})
    strategy = StrategyLoader()(tokenizer, cfg, {"roles_to_train": ["assistant"]})
    row = strategy.tokenize_prompt({"messages": json.loads(json.dumps(messages))})
    kept = [i for i, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100]
    return str(tokenizer.decode(kept))


@pytest.mark.parametrize("name", WRITTEN)
def test_a_judge_sees_what_the_chat_template_writes(
    model: Path, server: judge_server.Running, name: str
) -> None:
    template, messages, seen, unseen = WRITTEN[name]
    by_axolotl = trained_by_axolotl(model, template, messages)
    assert all(part in by_axolotl for part in seen)
    assert not any(part in by_axolotl for part in unseen)
    tiny.write_rows(Path("d.jsonl"), [{"messages": messages}, {"messages": GOOD}])
    result = annotate(write_recipe(model, server, [CHAT], chat_template=template))
    assert result.exit_code == 0, result.output
    shown = next(text for text in prompts(server) if messages[0]["content"] in text)
    response = shown.rpartition(messages[0]["content"])[2]
    assert all(part in response for part in seen)
    assert not any(part in response for part in unseen)
    told = "1 rows: what the chat template does not write"
    assert (told in result.output) == bool(unseen)
    assert Manifest.read("out").trained["rows_not_written_whole"] == bool(unseen)
    # The data are written as they were.
    assert written().num_rows == 2


def test_a_row_of_which_nothing_is_trained_is_not_judged(
    model: Path, server: judge_server.Running
) -> None:
    tiny.write_rows(Path("d.jsonl"), [{"messages": ONLY_CALLING}, {"messages": GOOD}])
    recipe = write_recipe(model, server, [CHAT], chat_template="chatml")
    result = annotate(recipe)
    assert result.exit_code == 0, result.output
    assert "d.jsonl: row 0 (line 1)" in result.output
    assert len(prompts(server)) == 1 and "Hello there." in prompts(server)[0]
    manifest = Manifest.read("out")
    assert manifest.counts["untrained"] == manifest.failures["no trained token"] == 1
    assert manifest.counts["scored"] == 1
    assert written()["ual_uncertainty"][0].as_py() is None


def test_without_axolotl_it_is_said_what_is_not_known(
    model: Path, server: judge_server.Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "axolotl" else found(name, *a)
    )
    tiny.write_rows(Path("d.jsonl"), [{"messages": THOUGHT}, {"messages": GOOD}])
    result = annotate(write_recipe(model, server, [CHAT], val_set_size=0.5))
    assert result.exit_code == 0, result.output
    for words in ("val_set_size: 0.5", "sequence_len", "thinking", "Axolotl is not installed"):
        assert words in result.output
    assert "pebbles" in "".join(prompts(server))
    assert Manifest.read("out").trained == {"not_known": "Axolotl is not installed here"}


# --- the mean over what is trained -----------------------------------------------------------


def mean_in_training(recipe: Path) -> tuple[int, float]:
    """Rows and mean smoothing of the training set that Axolotl itself makes of the copy."""
    from axolotl.loaders import load_tokenizer
    from axolotl.utils.config import normalize_cfg_datasets, validate_config
    from axolotl.utils.data import sft
    from axolotl.utils.dict import DictDefault

    from axolotl_ual.data.carry import carrying

    raw = yaml.safe_load(recipe.read_text())
    entries = locate(raw, parse_ual(raw.pop("ual")), str(recipe)).entries
    raw = {**raw, "datasets": entries, "dataset_prepared_path": tempfile.mkdtemp()}
    raw.pop("plugins", None)
    cfg = validate_config(DictDefault(raw))
    cfg.tokenizer_config = cfg.base_model_config = cfg.base_model
    normalize_cfg_datasets(cfg)
    with carrying():
        dataset, _, _ = sft._load_and_prepare_datasets(load_tokenizer(cfg), cfg, split="train")
    values = np.asarray(dataset["ual_smoothing"], dtype=np.float64)
    return len(values), float(values.mean())


LEAVING: dict[str, tuple[dict[str, Any], Rows, dict[str, Any], str]] = {
    "validation split": (
        ALPACA,
        [{"instruction": f"q {n}", "output": f"a {n}"} for n in range(40)],
        {"val_set_size": 0.25},
        "of 40 sequences 30 go to training, 10 to the validation set",
    ),
    "rows that are too long": (
        CHAT,
        [
            {"messages": [GOOD[0], {"role": "assistant", "content": "word " * (n % 4) * 20 + "."}]}
            for n in range(40)
        ],
        {"sequence_len": 250},
        "10 rows are longer than sequence_len: 250, and left out of training",
    ),
    "duplicates": (
        ALPACA,
        [{"instruction": f"q {n % 10}", "output": f"a {n % 10}"} for n in range(16)]
        + [{"instruction": f"r {n}", "output": f"b {n}"} for n in range(8)],
        {"dataset_exact_deduplication": True},
        "of 24 sequences 18 go to training",
    ),
    "split completions": (
        {"path": "d.jsonl", "type": "completion"},
        [{"text": f"{n} " + "word " * (n % 4) * 30} for n in range(20)],
        {"sequence_len": 64, "val_set_size": 4},
        "go to training, 4 to the validation set",
    ),
}


@pytest.mark.parametrize("name", LEAVING)
def test_the_mean_over_what_is_trained(
    model: Path, server: judge_server.Running, name: str
) -> None:
    entry, rows, more, said = LEAVING[name]
    tiny.write_rows(Path("d.jsonl"), rows)
    recipe = write_recipe(model, server, [entry], **more)
    # Told before anything is paid.
    assert said in annotate(recipe, "--dry-run").output and not server.requests()
    told = annotate(recipe)
    assert told.exit_code == 0, told.output
    number, mean = mean_in_training(recipe)
    facts = Manifest.read("out").trained
    assert facts["sequences"] == number
    assert facts["mean_smoothing"] == pytest.approx(mean, rel=1e-6)
    drifted = abs(mean - 0.1) > 0.001
    assert (f"the mean smoothing is {mean:.4f} and not 0.1" in told.output) == drifted
    # Solved over what is trained; what training leaves out is not judged.
    asked = len(server.requests())
    recipe = write_recipe(model, server, [entry], {"trained": "only", "cache": "other"}, **more)
    solved = annotate(recipe)
    assert solved.exit_code == 0, solved.output
    number, mean = mean_in_training(recipe)
    assert mean == pytest.approx(0.1, rel=1e-6)
    assert Manifest.read("out").trained["mean_smoothing"] == pytest.approx(0.1, rel=1e-6)
    assert len(server.requests()) - asked <= asked
    assert written().num_rows == len(rows)


def test_rows_that_leave_are_not_paid_for_where_only_the_trained_are_judged(
    model: Path, server: judge_server.Running
) -> None:
    _, rows, more, _ = LEAVING["validation split"]
    tiny.write_rows(Path("d.jsonl"), rows)
    recipe = write_recipe(model, server, [ALPACA], {"trained": "only"}, **more)
    assert annotate(recipe).exit_code == 0
    assert len(server.requests()) == 30
    manifest = Manifest.read("out")
    assert manifest.failures == {"not trained": 10} and manifest.counts["scored"] == 30


# --- data that are tokenised already, and the card -------------------------------------------


def card_recipe() -> dict[str, Any]:
    """What the card says to train with."""
    card = Path("out/README.md").read_text()
    block: dict[str, Any] = yaml.safe_load(card.rpartition("```yaml\n")[2].partition("```")[0])
    return block


def test_rows_that_are_tokenised_already(model: Path, server: judge_server.Running) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = []
    for n in range(6):
        prompt, answer = tokenizer(f"question {n}: ")["input_ids"], tokenizer(f"{n}.")["input_ids"]
        ids = [*prompt, *answer]
        labels = [-100] * len(prompt) + answer
        rows.append({"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels})
    tiny.write_rows(Path("d.jsonl"), rows)
    recipe = write_recipe(model, server, [{"path": "d.jsonl"}])
    result = annotate(recipe)
    assert result.exit_code == 0, result.output
    assert sorted("question" in text for text in prompts(server)) == [True] * 6
    assert written()["input_ids"].to_pylist() == [row["input_ids"] for row in rows]
    assert "type" not in card_recipe()["datasets"][0]
    assert mean_in_training(recipe) == (6, pytest.approx(0.1, rel=1e-6))
    # Axolotl takes rows as tokenised only where they have all three columns.
    tiny.write_rows(
        Path("d.jsonl"), [{k: v for k, v in row.items() if k != "attention_mask"} for row in rows]
    )
    before = len(server.requests())
    result = annotate(recipe)
    assert result.exit_code == 1 and "attention_mask" in result.output
    assert len(server.requests()) == before


WEIGHTED = [
    {"role": "user", "content": "One?", "weight": 0},
    {"role": "assistant", "content": "No.", "weight": 0},
    {"role": "user", "content": "Two?", "weight": 0},
    {"role": "assistant", "content": "Yes.", "weight": 1},
]


def test_the_card_trains_the_turns_of_the_recipe(model: Path, server: judge_server.Running) -> None:
    tiny.write_rows(Path("d.jsonl"), [{"talk": WEIGHTED}] * 4)
    entry = {
        "path": "d.jsonl",
        "type": "chat_template",
        "field_messages": "talk",
        "message_field_training": "weight",
        "roles_to_train": [],
        "train_on_eos": "turn",
    }
    recipe = write_recipe(model, server, [entry], chat_template="chatml", train_on_inputs=False)
    assert annotate(recipe).exit_code == 0
    raw = yaml.safe_load(recipe.read_text())
    told = card_recipe()
    assert told["datasets"] == locate(raw, parse_ual(raw["ual"]), "recipe.yaml").entries
    assert told["datasets"][0]["message_field_training"] == "weight"
    assert told["chat_template"] == "chatml" and told["train_on_inputs"] is False
    assert told["plugins"] == ["axolotl_ual.UALPlugin"]


def test_a_type_of_earlier_times_is_explained(model: Path, server: judge_server.Running) -> None:
    talk = [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "Ho."}]
    tiny.write_rows(Path("d.jsonl"), [{"conversations": talk}])
    result = annotate(write_recipe(model, server, [{"path": "d.jsonl", "type": "sharegpt"}]))
    assert result.exit_code == 1
    for words in ("`type: chat_template`", "field_messages: conversations", "role: from"):
        assert words in result.output


def test_what_axolotl_says_is_told_whole(model: Path, server: judge_server.Running) -> None:
    tiny.write_rows(Path("d.jsonl"), [{"prompt": "a", "generation": "b"}])
    entry = {"path": "d.jsonl", "type": "metharme"}
    result = annotate(
        write_recipe(model, server, [entry], noisy_embedding_alpha=1, neftune_noise_alpha=2)
    )
    assert result.exit_code == 1
    # The useful words stand at the end of what Axolotl says.
    assert "remove the deprecated noisy_embedding_alpha setting" in " ".join(result.output.split())


def test_rows_that_are_dropped_change_what_is_trained(
    model: Path, server: judge_server.Running
) -> None:
    # A row without an answer is dropped, so the validation split falls on other rows.
    rows = [{"instruction": f"q {n}", "output": f"a {n}"} for n in range(21)]
    tiny.write_rows(Path("d.jsonl"), rows)
    server.set(rules=[["a 7\n", "prose"]])
    ual = {"trained": "only", "on_missing": "drop"}
    recipe = write_recipe(model, server, [ALPACA], ual, val_set_size=5)
    result = annotate(recipe)
    assert result.exit_code == 0, result.output
    manifest = Manifest.read("out")
    number, mean = mean_in_training(recipe)
    assert manifest.counts["dropped"] == 1 and written().num_rows == 20
    assert manifest.trained["sequences"] == number == 15
    assert manifest.trained["mean_smoothing"] == pytest.approx(mean, rel=1e-6)
    assert mean == pytest.approx(0.1, rel=1e-6)
