"""`ual.annotate.unit: sentence` through the command line: real HTTP, a tiny model, real rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from judge_answers import score_of

import judge_server
import tiny
from axolotl_ual import columns
from axolotl_ual.columns import Manifest
from axolotl_ual.preprocess.cli import main

ANSWERS = [
    ["Paris is in France. ", "It is big!\n", "Nobody knows how big."],
    ["Yes."],
    ["No, e.g. at night. ", "That is all."],
]
AGAIN = ["Once more. ", "It is as it was."]
"""What the first row says in a second turn."""


def dialogues() -> list[dict[str, Any]]:
    rows = []
    for number, sentences in enumerate(ANSWERS):
        said = [("user", f"Question {number}?"), ("assistant", "".join(sentences))]
        if number == 0:
            said += [("user", "Again?"), ("assistant", "".join(AGAIN))]
        rows.append({"messages": [{"role": role, "content": text} for role, text in said]})
    return rows


OF_ROWS = [[*ANSWERS[0], *AGAIN], ANSWERS[1], ANSWERS[2]]


def size(text: str) -> int:
    return len("".join(text.split()))


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny.write_rows(Path("data.jsonl"), dialogues())


def write_recipe(annotate: dict[str, Any], base_model: str = "none", **ual: Any) -> None:
    recipe = {
        "base_model": base_model,
        "datasets": [{"path": "data.jsonl", "type": "chat_template"}],
        "ual": {"annotate": {"output": "out", "cache": "cache", **annotate}, **ual},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))


def by_judge(server: judge_server.Running, **annotate: Any) -> dict[str, Any]:
    return {"judge": {"model": "judge", "base_url": server.base_url}, **annotate}


def run(*options: str) -> Result:
    return CliRunner().invoke(main, ["annotate", "recipe.yaml", *options])


def written() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pq.read_table("out/train.parquet").to_pylist()
    return rows


def test_each_sentence_is_judged_behind_what_comes_before_it(
    server: judge_server.Running,
) -> None:
    server.set(keep=True)
    write_recipe(by_judge(server, unit="sentence"))
    result = run()
    assert result.exit_code == 0, result.output
    assert "8 sentences" in result.output
    stated = {}
    for request in server.requests():
        shown = request["messages"][-1]["content"]
        asked, _, judged = shown.rpartition(" RESPONSE role=assistant\n")
        stated[judged.split("\nSAMPLE-")[0].strip()] = (score_of(request["messages"]), asked)
    assert len(stated) == 8 and server.stats()["requests"] == 8
    for row, sentences in zip(written(), OF_ROWS, strict=True):
        scores = [stated[text.strip()][0] / 100 for text in sentences]
        found = row[columns.SENTENCES]
        assert [one["uncertainty"] for one in found] == pytest.approx(scores, abs=1e-7)
        sizes = [size(text) for text in sentences]
        assert [one["end"] for one in found] == np.cumsum(sizes).tolist()
        for column, key in ((columns.UNCERTAINTY, "uncertainty"), (columns.SMOOTHING, "smoothing")):
            mean = np.average([one[key] for one in found], weights=sizes)
            assert row[column] == pytest.approx(mean, abs=1e-6)
        for place, text in enumerate(sentences):
            asked = stated[text.strip()][1]
            assert all(before.strip() in asked for before in sentences[:place])
            assert not any(later.strip() in asked for later in sentences[place + 1 :])
    smoothing = [row[columns.SMOOTHING] for row in written()]
    assert np.mean(smoothing) == pytest.approx(0.1, abs=1e-6)
    manifest = Manifest.read("out")
    assert manifest.estimator["sentences"] == {"number": 8}
    assert manifest.counts["scored"] == 3
    described = {column.name: column.dtype for column in manifest.sources[0].file.columns}
    assert described[columns.SENTENCES] == "list"
    before = Path("out/train.parquet").read_bytes()
    assert run().exit_code == 0
    assert server.stats()["requests"] == 8 and Path("out/train.parquet").read_bytes() == before


def test_a_plan_tells_the_sentences_and_sends_nothing(server: judge_server.Running) -> None:
    write_recipe(by_judge(server, unit="sentence"))
    result = run("--dry-run")
    assert result.exit_code == 0, result.output
    assert "8 sentences, each scored behind what comes before it" in result.output
    assert "8 requests" in result.output and server.stats()["requests"] == 0


def test_rows_of_one_sentence_are_as_without(server: judge_server.Running) -> None:
    said = [[("user", f"{n}?"), ("assistant", "No.")] for n in range(12)]
    rows = [{"messages": [{"role": r, "content": t} for r, t in turns]} for turns in said]
    tiny.write_rows(Path("data.jsonl"), rows)
    found = {}
    for unit in ("row", "sentence"):
        write_recipe(by_judge(server, unit=unit))
        assert run().exit_code == 0
        found[unit] = pq.read_table("out/train.parquet")
    assert server.stats()["requests"] == 12
    assert found["sentence"].column_names == [
        *found["row"].column_names[:4],
        columns.SENTENCES,
        *found["row"].column_names[4:],
    ]
    assert found["sentence"].drop_columns([columns.SENTENCES]).equals(found["row"])


def test_a_sentence_without_a_score_takes_the_mean_of_its_row(
    server: judge_server.Running,
) -> None:
    server.set(rules=[["RESPONSE role=assistant\nIt is big", "I cannot tell."]])
    write_recipe(by_judge(server, unit="sentence"))
    result = run()
    assert result.exit_code == 0, result.output
    assert "1 without a score, which take the mean of their row" in result.output
    first = written()[0]
    own = [one["uncertainty"] for one in first[columns.SENTENCES]]
    sizes = [size(text) for text in OF_ROWS[0]]
    known = [index for index in range(5) if index != 1]
    mean = np.average([own[i] for i in known], weights=[sizes[i] for i in known])
    assert own[1] == pytest.approx(mean, abs=1e-6)
    line = json.loads(Path("out/unscored.jsonl").read_text().splitlines()[0])
    assert (line["row"], line["sentence"]) == (0, 1)
    assert Manifest.read("out").estimator["sentences"]["failed"]


def test_sentences_are_read_by_a_local_model(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = str(tiny.make_model(tmp_path_factory.mktemp("model")))
    write_recipe({"estimator": "perplexity", "unit": "sentence"}, model)
    assert run().exit_code == 0
    numbers = [one["uncertainty"] for row in written() for one in row[columns.SENTENCES]]
    # Ranks among all sentences of the run.
    assert len(numbers) == 8 and min(numbers) == 0.0 and max(numbers) == 1.0


def test_workers_on_ray_score_sentences_alike(server: judge_server.Running) -> None:
    found = []
    for engine in ({"kind": "local"}, {"kind": "ray", "workers": 2, "rows_per_block": 3}):
        write_recipe(by_judge(server, unit="sentence", engine=engine))
        result = run()
        assert result.exit_code == 0, result.output
        found.append(Path("out/train.parquet").read_bytes())
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("annotate", "said"),
    [
        ({"estimator": "custom", "custom": {"build": "m:b"}}, "not with `estimator: custom`"),
        (
            {
                "estimator": "self_consistency",
                "self_consistency": {"model": "m", "anchor": False},
            },
            "set `anchor: true`",
        ),
    ],
)
def test_what_cannot_score_sentences_is_refused(annotate: dict[str, Any], said: str) -> None:
    write_recipe({"unit": "sentence", **annotate})
    result = run()
    assert result.exit_code == 1 and said in " ".join(result.output.split())


def test_sentences_that_cannot_be_trained_on_are_not_paid_for(
    server: judge_server.Running,
) -> None:
    again = {"reestimate": {"estimator": "perplexity"}, "curriculum": {"mode": "phased"}}
    write_recipe(by_judge(server, unit="sentence"), **again)
    result = run()
    said = " ".join(result.output.split())
    assert result.exit_code == 1 and server.stats()["requests"] == 0
    assert "ual.annotate.unit: sentence: sentences have a smoothing each" in said
    assert "set `ual.annotate.unit: row`" in said
    checked = CliRunner().invoke(main, ["check", "recipe.yaml"])
    assert "ual.annotate.unit: sentence" in " ".join(checked.output.split())
