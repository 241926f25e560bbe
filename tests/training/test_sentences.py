"""`axolotl train` where sentences have a smoothing each, against the text, token by token."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import tiny
from axolotl_ual.columns import MANIFEST_FILE
from axolotl_ual.data.fingerprint import file_digest
from output_folders import shared_settings, write_annotated
from reference.sentences import Turn, columns, of_text

pytestmark = pytest.mark.slow

PLUGIN = "axolotl_ual.UALPlugin"
WORDS = ["Yes. ", "Nobody knows!\n\n", "Perhaps it is so, 你好。", "Ask again?  ", "👍 "]


def turn(seed: int, count: int) -> Turn:
    """Sentences of several lengths, each with a smoothing of its own."""
    return [(WORDS[(seed + n) % 5], (seed * 3 + n * 2) % 5 / 10) for n in range(count)]


def said(sentences: Turn) -> str:
    return "".join(text for text, _ in sentences)


def stages(n: int) -> dict[str, Any]:
    return {"ual_stage": "moderate", "ual_uncertainty": n / 10}


INSTRUCTED: list[Turn] = [turn(n, 1 + n % 4) for n in range(6)]
CHATS: list[list[Turn]] = [[turn(n, 2), turn(n + 1, 1 + n % 3)] for n in range(4)]


def instructed() -> list[dict[str, Any]]:
    """The first row was not scored."""
    data = [
        {"instruction": f"Question {n}?", "output": said(own), **columns([own]), **stages(n)}
        for n, own in enumerate(INSTRUCTED)
    ]
    data[0]["ual_sentences"] = None
    return data


def chats() -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": "Question. Sure?"},
                {"role": "assistant", "content": said(first)},
                {"role": "user", "content": "Why."},
                {"role": "assistant", "content": said(second)},
            ],
            **columns([first, second]),
            **stages(n),
        }
        for n, (first, second) in enumerate(CHATS)
    ]


def plain() -> list[dict[str, Any]]:
    """Rows of which nothing but their own smoothing is known."""
    return [
        {"instruction": f"Other {n}?", "output": WORDS[n], "ual_smoothing": n / 10, **stages(n)}
        for n in range(3)
    ]


class Bench:
    """One tiny model, whose predictions differ from token to token."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny.make_model(
            folder / "model", texts=WORDS * 20, vocab_size=420, initializer_range=0.3
        )
        self.count = 0

    def recipe(self, entries: list[dict[str, Any]], **settings: Any) -> tuple[Any, Path]:
        """A recipe of one step over all rows, in the order of the files."""
        self.count += 1
        run = self.folder / f"run{self.count}"
        datasets = []
        for number, entry in enumerate(entries):
            data = entry.pop("data")
            path = tiny.write_rows(run / f"data{number}.jsonl", data)
            datasets.append({"path": str(path), **entry})
        base = {
            "plugins": [PLUGIN],
            "shuffle_merged_datasets": False,
            "curriculum_sampling": True,
            "micro_batch_size": 16,
            "max_steps": 1,
            "save_strategy": "no",
            "max_grad_norm": 0.0,
        }
        return tiny.recipe(self.model, run, datasets, **{**base, **settings}), run

    def train(self, entries: list[dict[str, Any]], **settings: Any) -> tiny.Run:
        check = settings.pop("check", True)
        recipe, run = self.recipe(entries, **settings)
        return tiny.axolotl(recipe, run, check=check)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("sentences"))


def mixed() -> list[dict[str, Any]]:
    chat = {"type": "chat_template", "roles_to_train": ["assistant"]}
    return [
        {"data": plain(), "type": "alpaca"},
        {"data": instructed(), "type": "alpaca"},
        {"data": chats(), **chat},
    ]


def prepared(run: tiny.Run) -> Any:
    from datasets import load_from_disk

    (found,) = (run.output.parent / "prepared").glob("*/*/dataset_info.json")
    return load_from_disk(found.parent)


def smoothing_of_mixed(tokenizer: Any) -> list[tuple[list[int], list[float]]]:
    """For each row of `mixed`, in order, its last tokens and their smoothing, from the text."""
    end = tokenizer.eos_token_id
    found = []
    for row in plain():
        ids = [*tokenizer.encode(row["output"], add_special_tokens=False), end]
        found.append((ids, [row["ual_smoothing"]] * len(ids)))
    for row, own in zip(instructed(), INSTRUCTED, strict=True):
        ids = tokenizer.encode(row["output"], add_special_tokens=False)
        values = of_text(tokenizer, row["output"], [own], own[0][1])
        if row["ual_sentences"] is None:
            values = [row["ual_smoothing"]] * len(ids)
        found.append(([*ids, end], [*values, values[-1]]))
    return found + smoothing_of_chats(tokenizer)


def smoothing_of_chats(tokenizer: Any, size: int = 512) -> list[tuple[list[int], list[float]]]:
    """The same of `chats`: all of their tokens, or as many of the first ones."""
    found = []
    for row, turns in zip(chats(), CHATS, strict=True):
        text = tokenizer.apply_chat_template(row["messages"], tokenize=False)
        values = of_text(tokenizer, text, turns, 0.0, "<|assistant|>\n")
        found.append((tokenizer.encode(text, add_special_tokens=False)[:size], values[:size]))
    return found


def expected(
    bench: Bench,
    run: tiny.Run,
    weights: list[float] | None = None,
    smoothing: Callable[[Any], list[tuple[list[int], list[float]]]] = smoothing_of_mixed,
) -> dict[str, float]:
    """Loss and its parts of a step over all rows of a run, in float64 and from full logits."""
    import torch
    from torch.nn import functional as F
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bench.model)
    model = AutoModelForCausalLM.from_pretrained(bench.model, dtype=torch.float64)
    rows, mass, nll, loss = list(prepared(run)), 0.0, 0.0, 0.0
    wanted = smoothing(tokenizer)
    for place, (row, (ids, values)) in enumerate(zip(rows, wanted, strict=True)):
        assert row["input_ids"][-len(ids) :] == ids
        weight = 1.0 if weights is None else weights[place]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([row["input_ids"]])).logits[0]
        offset = len(row["input_ids"]) - len(ids)
        assert all(label == -100 for label in row["labels"][:offset])
        for position, value in enumerate(values, offset):
            label = row["labels"][position]
            if label == -100 or position == 0:
                continue
            given = (logits[position - 1], torch.tensor(label))
            loss += weight * F.cross_entropy(*given, label_smoothing=value).item()
            nll += weight * F.cross_entropy(*given).item()
            mass += weight
    return {
        "loss": loss / mass,
        "loss/nll": nll / mass,
        "loss/smoothing": (loss - nll) / mass,
    }


def require(run: tiny.Run, wanted: dict[str, float]) -> None:
    for key, value in wanted.items():
        assert run.values(key) == pytest.approx([value], rel=1e-6, abs=1e-7), key
    assert abs(wanted["loss/smoothing"]) > 0.01


def test_the_first_step_is_the_text_smoothed_token_by_token(bench: Bench) -> None:
    """Alpaca with a row that was not scored, chats of several turns, data without sentences."""
    run = bench.train(mixed())
    assert "11 of 13 training rows carry smoothing, mean 0.1594; 9 of them one for" in run.text
    assert [bool(row["ual_token_smoothing"]) for row in prepared(run)] == [False] * 4 + [True] * 9
    require(run, expected(bench, run))


def test_prepared_before_and_packed(bench: Bench) -> None:
    recipe, folder = bench.recipe(
        mixed(), sample_packing=True, micro_batch_size=1, sequence_len=2048, num_epochs=1
    )
    tiny.axolotl(recipe, folder, command="preprocess")
    (info,) = (folder / "prepared").glob("*/*/dataset_info.json")
    before = info.stat().st_mtime_ns
    run = tiny.axolotl(recipe, folder, keep=True)
    assert info.stat().st_mtime_ns == before
    assert "; 9 of them one for each sentence" in run.text
    require(run, expected(bench, run))


def test_in_the_order_of_a_curriculum_and_with_weights(bench: Bench) -> None:
    weights = [float(n % 3) for n in range(13)]
    entries = mixed()
    left = iter(weights)
    for entry in entries:
        entry["data"] = [{**row, "w": next(left)} for row in entry["data"]]
    ual = {
        "curriculum": {"mode": "phased", "order": ["moderate"]},
        "loss": {"weight": "w"},
    }
    settings: dict[str, Any] = {"curriculum_sampling": None, "sample_packing": True}
    run = bench.train(entries, ual=ual, micro_batch_size=1, sequence_len=2048, **settings)
    require(run, expected(bench, run, weights))


def test_sentences_that_agree_change_no_bit(bench: Bench) -> None:
    """Four steps, packed, with rows of several smoothings."""
    data = [
        {"instruction": f"Question {n}?", "output": said(own), "ual_smoothing": n % 5 / 10}
        for n, own in enumerate([turn(n, 1 + n % 4) for n in range(24)])
    ]
    agreed = [
        {
            **row,
            "ual_sentences": columns(
                [[(text, row["ual_smoothing"]) for text, _ in turn(n, 1 + n % 4)]]
            )["ual_sentences"],
        }
        for n, row in enumerate(data)
    ]
    settings: dict[str, Any] = {
        "sample_packing": True,
        "micro_batch_size": 1,
        "max_steps": 4,
        "num_epochs": 4,
        "save_strategy": "epoch",
    }
    whole = bench.train([{"data": data, "type": "alpaca"}], **settings)
    cut = bench.train([{"data": agreed, "type": "alpaca"}], **settings)
    assert "; 24 of them one for each sentence" in cut.text
    assert "one for each sentence" not in whole.text
    keys = ("loss", "loss/nll", "loss/smoothing", "grad_norm")
    assert [cut.values(key) for key in keys] == [whole.values(key) for key in keys]
    assert len(cut.values("loss")) == 4
    adapters = [(run.output / "adapter_model.safetensors").read_bytes() for run in (whole, cut)]
    assert adapters[0] == adapters[1]


def test_sentences_that_others_have_scored(bench: Bench, tmp_path: Path) -> None:
    """Joined to rows of another order, of which one was never annotated."""
    scored = instructed()[1:]
    names = ("instruction", "output")
    folder = write_annotated(
        tmp_path / "shared",
        {"train": pa.Table.from_pylist([{key: row[key] for key in names} for row in scored])},
        {"train": [row["ual_uncertainty"] for row in scored]},
        settings=shared_settings(),
    )
    # The same rows, with the smoothing of their sentences.
    path = tiny.write_rows(folder / "train.parquet", scored)
    manifest = json.loads((folder / MANIFEST_FILE).read_text())
    manifest["sources"][0]["file"]["sha256"] = file_digest(path)
    (folder / MANIFEST_FILE).write_text(json.dumps(manifest))
    data = [{key: row[key] for key in names} for row in reversed(instructed())]
    run = bench.train([{"data": data, "type": "alpaca"}], ual={"annotations": str(folder)})
    assert "5 of 6 rows have annotations" in run.text
    assert "; 5 of them one for each sentence" in run.text
    # The first row of `instructed` gets the mean.
    alike = [{**instructed()[0], "ual_smoothing": 0.1}, *scored]
    direct = bench.train([{"data": alike, "type": "alpaca"}])
    for key in ("loss", "loss/nll", "loss/smoothing"):
        assert run.values(key) == pytest.approx(direct.values(key), rel=1e-6), key


def test_the_prediction_of_a_reference_kept_for_tokens_of_some_smoothing(bench: Bench) -> None:
    """All of its tokens kept are the reference itself; some sentences have a smoothing of 0."""
    runs = [
        bench.train(mixed(), ual={"smoothing": {"prior": "reference", **more}})
        for more in ({}, {"reference_top_k": 420})
    ]
    for key in ("loss", "loss/nll", "loss/smoothing"):
        assert runs[1].values(key) == pytest.approx(runs[0].values(key), rel=1e-5), key
    assert abs(runs[0].values("loss/smoothing")[0]) > 1e-3


def test_long_rows_are_cut_with_their_smoothing(bench: Bench) -> None:
    """Chats that Axolotl cuts after they were tokenised: their first tokens are left."""
    chat = {"type": "chat_template", "roles_to_train": ["assistant"]}
    size = 40
    run = bench.train(
        [{"data": chats(), **chat}], sequence_len=size, excess_length_strategy="truncate"
    )
    assert max(len(row["input_ids"]) for row in prepared(run)) == size
    assert max(len(row["ual_token_smoothing"]) for row in prepared(run)) > size
    require(run, expected(bench, run, smoothing=partial(smoothing_of_chats, size=size)))


@pytest.mark.parametrize(
    ("entry", "settings", "shown"),
    [
        (
            {"data": [{**chats()[0], "ual_sentences": instructed()[1]["ual_sentences"]}]},
            {},
            "on average, a character",
        ),
        (
            {"data": [{**row, "instruction": "?"} for row in instructed()], "type": "alpaca"},
            {"rl": "dpo"},
            "`rl: dpo` does not smooth the tokens of a sample",
        ),
        (
            {"data": instructed(), "type": "alpaca"},
            {
                "curriculum_sampling": None,
                "ual": {
                    "curriculum": {"mode": "phased", "order": ["moderate"]},
                    "reestimate": {"estimator": "perplexity"},
                },
            },
            "`ual.reestimate` would replace them by one of the row",
        ),
    ],
)
def test_what_cannot_be(
    bench: Bench, entry: dict[str, Any], settings: dict[str, Any], shown: str
) -> None:
    run = bench.train([{"type": "chat_template", **entry}], check=False, **settings)
    assert run.returncode != 0
    assert shown in run.text
