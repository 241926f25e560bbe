"""From rows to a training that smooths sentence by sentence, by the two real commands."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner

import tiny
from axolotl_ual.preprocess.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.host]

ANSWERS = [
    "The sky is blue. It is blue because of the air!  And at night?\nIt is black.",
    "1. One.\n2. Two, e.g. this.\n\n```\na = 1. b = 2\n\nc = 3\n```\nThat is all.",
    "Nothing.",
]


def test_sentences_that_were_scored_are_those_that_are_trained(tmp_path: Path) -> None:
    model = tiny.make_model(tmp_path / "model")
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"Question {n}. Sure?"},
                {"role": "assistant", "content": ANSWERS[n % 3]},
                {"role": "user", "content": "Again!"},
                {"role": "assistant", "content": ANSWERS[(n + 1) % 3]},
            ]
        }
        for n in range(6)
    ]
    asked = [{"instruction": f"Tell {n}.", "output": ANSWERS[n % 3]} for n in range(6)]
    entries = [
        {"path": str(tiny.write_rows(tmp_path / "chats.jsonl", chats)), "type": "chat_template"},
        {"path": str(tiny.write_rows(tmp_path / "asked.jsonl", asked)), "type": "alpaca"},
    ]
    annotate = {"output": str(tmp_path / "out"), "estimator": "perplexity", "unit": "sentence"}
    recipe = tiny.recipe(
        model,
        tmp_path / "run",
        entries,
        plugins=["axolotl_ual.UALPlugin"],
        ual={"annotate": annotate},
        max_steps=2,
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    result = CliRunner().invoke(main, ["annotate", str(tmp_path / "recipe.yaml")])
    assert result.exit_code == 0, result.output
    tables = [pq.read_table(path) for path in sorted((tmp_path / "out").glob("*.parquet"))]
    count = sum(len(one) for table in tables for one in table["ual_sentences"].to_pylist())
    assert f"{count} sentences" in result.output and count > 40
    run = tiny.axolotl(recipe, tmp_path / "run")
    assert "12 of 12 training rows carry smoothing" in run.text
    assert "12 of them one for each sentence" in run.text


TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
    "{{ m['content'] | replace('air', 'thin air') }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_a_row_that_its_template_writes_otherwise_is_smoothed_as_a_whole(tmp_path: Path) -> None:
    """It is told before anything is scored, and the training goes on."""
    model = tiny.make_model(tmp_path / "model")
    chats = [
        {
            "messages": [
                {"role": "user", "content": f"Question {n}. Sure?"},
                {"role": "assistant", "content": ANSWERS[answer]},
            ]
        }
        for n, answer in enumerate([1, 0, 2, 1])
    ]
    path = tiny.write_rows(tmp_path / "chats.jsonl", chats)
    annotate = {"output": str(tmp_path / "out"), "estimator": "perplexity", "unit": "sentence"}
    recipe = tiny.recipe(
        model,
        tmp_path / "run",
        [{"path": str(path), "type": "chat_template"}],
        plugins=["axolotl_ual.UALPlugin"],
        ual={"annotate": annotate},
        chat_template="jinja",
        chat_template_jinja=TEMPLATE,
        max_steps=2,
    )
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    plan = CliRunner().invoke(main, ["annotate", str(tmp_path / "recipe.yaml"), "--dry-run"])
    said = " ".join(plan.output.split())
    assert "1 rows are smoothed as a whole: the chat template or the tokenizer writes" in said
    assert f"{path}: row 1 (line 2)" in said
    result = CliRunner().invoke(main, ["annotate", str(tmp_path / "recipe.yaml")])
    assert result.exit_code == 0, result.output
    (table,) = (pq.read_table(file) for file in (tmp_path / "out").glob("*.parquet"))
    sentences = table["ual_sentences"].to_pylist()
    assert [row is None for row in sentences] == [False, True, False, False]
    assert None not in table["ual_smoothing"].to_pylist()
    facts = json.loads((tmp_path / "out" / "manifest.json").read_text())["trained"]
    assert facts["rows_smoothed_as_a_whole"] == 1
    run = tiny.axolotl(recipe, tmp_path / "run")
    assert "4 of 4 training rows carry smoothing" in run.text
    assert "3 of them one for each sentence" in run.text
