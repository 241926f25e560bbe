from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from held_out import ROWS, make_world, write_recipe

from axolotl_ual.preprocess.calls.cache import FILE
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.evaluation.heldout import find_answer
from axolotl_ual.preprocess.models.local.causal import LocalModel
from axolotl_ual.preprocess.models.local.generate import Generator
from axolotl_ual.settings.evaluate import GSM8K
from browser import chromium
from tiny import write_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world")).parent


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the world's models in it, and a cache and results of its own."""
    for path in world.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["evaluate", "recipe.yaml", *arguments])


def evaluate(*arguments: str) -> dict[str, Any]:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(Path("results/evaluation.json").read_text())
    return found


def find(document: dict[str, Any], measure: str, group: str = "all") -> dict[str, Any]:
    (found,) = (r for r in document["results"] if (r["measure"], r["group"]) == (measure, group))
    return found


def slow_nll(base: Path, adapter: Path | None) -> list[float]:
    """Mean over the tokens of each response, row by row, with no batch and no mask."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    tokenizer = AutoTokenizer.from_pretrained(base)
    sums = []
    for row in ROWS:
        prompt = tokenizer.apply_chat_template(row["messages"][:1], tokenize=False)
        before = tokenizer(prompt + "<|assistant|>\n", add_special_tokens=False)["input_ids"]
        after = tokenizer(row["messages"][1]["content"], add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before + after])).logits[0]
        logp = logits.double().log_softmax(-1)
        places = range(len(before) - 1, len(before) + len(after) - 1)
        sums.append(-sum(float(logp[p, t]) for p, t in zip(places, after, strict=True)))
        assert tokenizer.decode(after) == row["messages"][1]["content"]
    return sums


def test_the_numbers_are_those_of_a_plain_forward_pass(here: Path) -> None:
    document = evaluate("--runs", "base,tuned=adapter-1,tuned=adapter-2")
    found = find(document, "sequence_nll")
    base = np.mean(slow_nll(here / "base", None))
    tuned = [np.mean(slow_nll(here / "base", here / f"adapter-{n}")) for n in (1, 2)]
    assert found["values"]["base"] == pytest.approx(base, rel=1e-5)
    assert found["by_seed"]["tuned"] == pytest.approx(tuned, rel=1e-5)
    (difference,) = found["differences"]
    assert difference["difference"] == pytest.approx(np.mean(tuned) - base, rel=1e-3)
    assert document["data"]["rows"] == 20 and document["against"] == "base"
    assert document["single_seed"] == []


def test_what_is_written(here: Path) -> None:
    document = evaluate("--runs", "base,tuned=adapter-1", "--by", "kind", "--by", "level")
    groups = list(dict.fromkeys(result["group"] for result in document["results"]))
    assert groups[0] == "all"
    assert [g.partition(" [")[0] for g in groups[1:5]] == [
        f"entropy of base {n}/4" for n in range(1, 5)
    ]
    assert groups[5:7] == ["kind = large", "kind = small"]
    assert [g.partition(" [")[0] for g in groups[7:]] == [f"level {n}/4" for n in range(1, 5)]
    assert find(document, "nll", "kind = small")["rows"] == sum(r["kind"] == "small" for r in ROWS)
    assert document["single_seed"] == ["tuned"]
    markdown = Path("results/evaluation.md").read_text()
    page = Path("results/evaluation.html").read_text()
    for text in (markdown, page):
        assert "NLL a token" in text and "Exact match" in text and "kind = large" in text
        assert "One seed: tuned" in text
    assert "://" not in page and "<svg" in page
    assert sum(b["count"] for b in document["reliability"]["base"]) == document["data"]["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_in_a_browser(here: Path, tmp_path: Path, width: int) -> None:
    evaluate("--runs", "base,tuned=adapter-1", "--by", "kind")
    with chromium(tmp_path / "profile") as browser:
        browser.open(Path("results/evaluation.html").resolve(), width=width, dark=True)
        assert browser.texts(".diagrams figcaption") == ["base", "tuned"]
        assert browser.run("document.documentElement.scrollWidth") <= width
        # The look of a report, which follows the reader's choice of colours.
        paper = "getComputedStyle(document.body).backgroundColor"
        assert browser.run(paper) == "rgb(19, 22, 25)"
        browser.one("[data-set-theme=light]").click()
        browser.until(f"{paper} === 'rgb(247, 247, 245)'")
        assert browser.problems() == []
        assert browser.requests() == []


def test_the_same_weights_differ_by_exactly_zero(here: Path) -> None:
    document = evaluate("--runs", "base,copy,twin=adapter-1,other=adapter-1", "--against", "base")
    for result in document["results"]:
        values = result["values"]
        assert values["copy"] == values["base"] and values["twin"] == values["other"]
        (copy,) = (d for d in result["differences"] if d["arm"] == "copy")
        assert copy["difference"] == 0 and copy["both"] == [0, 0]


def test_a_second_run_reads_and_generates_nothing(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = evaluate("--runs", "base,tuned=adapter-1")

    def load(*_: Any, **__: Any) -> LocalModel:
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LocalModel, "load", load)
    again = evaluate("--runs", "base,tuned=adapter-1")
    assert again["results"] == first["results"]


def test_an_interrupted_run_goes_on(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    measure, generate = LocalModel.measure, Generator.generate

    def measured(*arguments: Any, **options: Any) -> Iterator[Any]:
        done.append("read")
        yield from measure(*arguments, **options)

    def generated(*arguments: Any, **options: Any) -> Any:
        done.append("generate")
        if done.count("generate") == 3 and "killed" not in done:
            done.append("killed")
            raise KeyboardInterrupt
        return generate(*arguments, **options)

    monkeypatch.setattr(LocalModel, "measure", measured)
    monkeypatch.setattr(Generator, "generate", generated)
    batches = {"generation": {"batch_tokens": 300, "max_tokens": 16}}
    write_here(here, evaluate=batches)
    assert run("--runs", "base,tuned=adapter-1").exit_code == 130
    assert not Path("results/evaluation.json").exists()
    interrupted = evaluate("--runs", "base,tuned=adapter-1")
    counts = {what: done.count(what) for what in ("read", "generate")}
    done[:] = ["killed"]
    write_here(here, evaluate={**batches, "cache": "another"})
    whole = evaluate("--runs", "base,tuned=adapter-1")
    # The batch that was killed is the only one that was begun twice.
    assert counts == {"read": done.count("read"), "generate": done.count("generate") + 1}
    assert done.count("generate") > 2
    assert interrupted["results"] == whole["results"]


@pytest.mark.slow
def test_a_process_that_was_killed_generates_nothing_twice(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_here(here, evaluate={"generation": {"batch_tokens": 30, "max_tokens": 40}})
    command = [sys.executable, "-m", "axolotl_ual.preprocess.cli", "evaluate", "recipe.yaml"]
    with Path("first.log").open("w") as log:
        first = subprocess.Popen([*command, "--runs", "base"], stdout=log, stderr=log)
        while kept() < 3:
            assert first.poll() is None, Path("first.log").read_text()
            time.sleep(0.01)
        first.kill()
        first.wait()
    before = kept()
    assert 3 <= before < len(ROWS), "it was killed in the middle"
    generate, asked = Generator.generate, []

    def generated(self: Generator, prompts: Any, *arguments: Any) -> Any:
        asked.extend(prompts)
        return generate(self, prompts, *arguments)

    monkeypatch.setattr(Generator, "generate", generated)
    document = evaluate("--runs", "base")
    assert len(asked) == len(set(asked)) == len(ROWS) - before
    assert find(document, "exact_match")["rows"] == len(ROWS)


def kept() -> int:
    """Responses in the cache."""
    path = Path("cache") / FILE
    if not path.is_file():
        return 0
    with closing(sqlite3.connect(path)) as db:
        try:
            query = (
                "SELECT count(*) FROM answers JOIN askers ON askers.id = answers.asker "
                "WHERE askers.description LIKE '%evaluate-generate%'"
            )
            return int(db.execute(query).fetchone()[0])
        except sqlite3.OperationalError:  # Its tables are not made yet.
            return 0


def write_here(here: Path, **settings: Any) -> None:
    (here / "recipe.yaml").unlink()
    write_recipe(here, here / "held-out.jsonl", **settings)


def test_exact_match(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from axolotl_ual.preprocess.evaluation import measuring
    from axolotl_ual.preprocess.evaluation.generation import Response

    # Right for the first five rows, which is a quarter.
    said = [row["messages"][1]["content"] for row in ROWS]
    monkeypatch.setattr(
        measuring,
        "generate",
        lambda reader, text, rows, *_: [
            Response(said[row] if row < 5 else "#### -1", True) for row in rows
        ],
    )
    document = evaluate("--runs", "base")
    assert find(document, "exact_match")["values"] == {"base": 0.25}
    assert document["data"]["answered"] == 20
    write_here(here, evaluate={"answers": {"column": "level", "pattern": r"(?s)(.+)"}})
    monkeypatch.setattr(
        measuring, "generate", lambda reader, text, rows, *_: [Response("3.", True)] * len(rows)
    )
    assert find(evaluate("--runs", "base"), "exact_match")["values"] == {"base": 0.25}


def test_answers() -> None:
    assert find_answer("so 1\n#### 1,234.", GSM8K) == "1234"
    assert find_answer("#### 1\n#### -2", GSM8K) == "-2"
    assert find_answer("no answer", GSM8K) is None
    assert find_answer(" The  end. ", "(?s)(.+)") == "The end"


def test_rows_that_cannot_be_read_are_counted(here: Path) -> None:
    write_rows(Path("odd.jsonl"), [*ROWS[:3], {**ROWS[3], "messages": ROWS[3]["messages"] * 40}])
    write_here(here, evaluate={"max_length": 64})
    document = evaluate("--runs", "base", "--data", "odd.jsonl")
    assert document["data"]["rows"] == 4 and document["data"]["cut"] == 1
    assert document["data"]["source"] == "--data: odd.jsonl"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--runs", "base,nowhere"], "nowhere: there is no such run"),
        (["--runs", " , "], "no run is named"),
        (["--runs", "base,x=cache"], "holds neither adapter_config.json nor config.json"),
        (["--runs", "base", "--against", "sft"], "sft: is none of the runs"),
        (["--runs", "base", "--by", "king"], "have no column `king`"),
    ],
)
def test_mistakes(here: Path, arguments: list[str], said: str) -> None:
    Path("cache").mkdir(exist_ok=True)
    result = run(*arguments)
    assert result.exit_code == 1 and said in result.output


def test_an_unfinished_training_names_its_checkpoint(here: Path) -> None:
    Path("halfway/checkpoint-20").mkdir(parents=True)
    result = run("--runs", "halfway")
    assert "halfway=halfway/checkpoint-20" in result.output


def test_nothing_is_held_out(here: Path) -> None:
    write_here(here, test_datasets=None)
    result = run("--runs", "base")
    assert result.exit_code == 1 and "names no held-out data" in result.output
