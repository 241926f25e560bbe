"""Types that go through Axolotl: what is judged is what its tokens train."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.errors import ConfigError, DataError, UALError, UnsupportedError
from axolotl_ual.preprocess.data.recipe import load_recipe
from axolotl_ual.preprocess.data.rows import Samples, Turn, read_samples
from axolotl_ual.preprocess.data.tokenised import AXOLOTL_TYPES, masked_turns
from tiny import make_model, recipe

Rows = Sequence[Mapping[str, Any]]


pytestmark = pytest.mark.host


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def samples_of(model: Path, tmp_path: Path) -> Any:
    def make(rows: Rows, kind: str | None, **overrides: Any) -> Samples:
        settings = recipe(model, tmp_path, [{"path": "data.jsonl", "type": kind}], **overrides)
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        loaded = load_recipe(path)
        table = datasets.Dataset.from_list([dict(row) for row in rows])
        return read_samples(table, loaded.entries[0], loaded)

    return make


def texts(samples: Samples, *, trained: bool) -> list[str]:
    return ["".join(t.text for t in sample.turns if t.trained == trained) for sample in samples]


def test_a_prompt_and_a_response(samples_of: Any) -> None:
    samples = samples_of([{"prompt": "Say hi. ", "generation": "Hi."}], "metharme")
    samples.check()
    assert samples[0].turns == (Turn(None, "Say hi. ", False), Turn(None, "Hi.", True))
    assert not samples[0].has_roles


def test_several_trained_turns_of_one_row(samples_of: Any) -> None:
    talk = [("human", "One?"), ("bot", "First."), ("human", "Two?"), ("bot", "Second.")]
    rows = [{"conversations": [{"role": role, "value": text} for role, text in talk]}]
    # `<|user|>` is a special token of this tokenizer, `<|model|>` is not.
    samples = samples_of(rows, "pygmalion")
    assert samples[0].turns == (
        Turn(None, " One?<|model|>", False),
        Turn(None, " First.", True),
        Turn(None, " Two?<|model|>", False),
        Turn(None, " Second.", True),
    )


EVERYTHING = {
    "question": "Which?",
    "choices": ["this", "that"],
    "solution": "this one",
    "category": "things",
    "answer": "the answer",
    "article": "A long text.",
    "unanswerable_question": "Who knows?",
    "context": "Some words.",
    "summary": "words",
    "instruction": "Do it.",
    "revision": "done better",
    "scores": {"a": 1},
    "critiques": {"a": "b"},
    "output": "first",
    "reflection": "hm",
    "corrected": "second",
    "prompt": "Go. ",
    "generation": "gone",
    "response": "answered",
    "system_prompt": "Be good.",
}
CONVERSATIONS = {
    "llama2_chat": [{"from": "human", "value": "Hi."}, {"from": "gpt", "value": "a reply"}],
    "pygmalion": [{"role": "human", "value": "Hi."}, {"role": "bot", "value": "a reply"}],
}
TRAINED = {
    "concisechoice": "this one",
    "context_qa": "the answer",
    "context_qa.load_404": "The context provided does not",
    "context_qa.load_v2": "Answer: the answer",
    "creative_acr.load_answer": "done better",
    "creative_acr.load_critique": "a: 1",
    "creative_acr.load_revise": "done better",
    "explainchoice": "this one",
    "jeopardy": "what is the answer",
    "llama2_chat": "a reply",
    "metharme": "gone",
    "orcamini": "answered",
    "pygmalion": "a reply",
    "reflection": "second",
    "summarizetldr": "words",
}


@pytest.mark.parametrize("name", AXOLOTL_TYPES)
def test_every_type_that_is_suggested_is_one_of_axolotl(name: str, samples_of: Any) -> None:
    row = {**EVERYTHING, "conversations": CONVERSATIONS.get(name, CONVERSATIONS["llama2_chat"])}
    (response,) = texts(samples_of([row], name, sequence_len=1024), trained=True)
    assert TRAINED[name] in response


STRATEGY = '''
from axolotl.prompt_tokenizers import PromptTokenizingStrategy


class Pieces(PromptTokenizingStrategy):
    """Two sequences from every row, none from a row without text."""

    filter_rows = staticmethod(lambda row: row["keep"])
    supports_batched = True

    def tokenize_prompt(self, batch):
        out = {"input_ids": [], "labels": [], "attention_mask": []}
        for text in batch["text"]:
            for piece in filter(None, text.split("|")):
                ids = self.tokenizer(piece, add_special_tokens=False)["input_ids"]
                out["input_ids"].append(ids)
                out["labels"].append([-100] + ids[1:])
                out["attention_mask"].append([1] * len(ids))
        return out


def load(tokenizer, cfg):
    return Pieces(None, tokenizer, cfg.train_on_inputs, cfg.sequence_len)
'''


@pytest.fixture
def own_strategy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    package = tmp_path / "ownpackage"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "pieces.py").write_text(STRATEGY)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    yield "ownpackage.pieces"
    for name in [name for name in sys.modules if name.startswith("ownpackage")]:
        del sys.modules[name]


def test_the_sample_of_a_row_is_all_that_is_trained_from_it(
    samples_of: Any, own_strategy: str
) -> None:
    samples = samples_of([{"text": "xab|yzc", "keep": True}], own_strategy)
    # The first token of each piece is masked: a byte, as the tokenizer knows no merge here.
    assert samples[0].turns == (
        Turn(None, "x", False),
        Turn(None, "ab", True),
        Turn(None, "y", False),
        Turn(None, "zc", True),
    )


def test_a_row_that_trains_nothing_is_an_error(samples_of: Any, own_strategy: str) -> None:
    rows = [
        {"text": "xab", "keep": True},
        {"text": "xab", "keep": False},
        {"text": "", "keep": True},
    ]
    with pytest.raises(DataError) as caught:
        samples_of(rows, own_strategy).check()
    message = str(caught.value)
    assert "2 of 3 rows cannot be read" in message
    assert "row 1: `row` is dropped by the strategy's `filter_rows`" in message
    assert "row 2: `row` has nothing in it that is trained on" in message


def test_a_response_beyond_sequence_len_is_not_trained(samples_of: Any) -> None:
    rows = [{"article": "word " * 200, "question": "?", "answer": "!"}]
    assert texts(samples_of(rows, "context_qa", sequence_len=2048), trained=True) == ["!"]
    cut = samples_of([{"prompt": "", "generation": "a" * 300}], "metharme", sequence_len=16)
    assert texts(cut, trained=True) == ["a" * 16]


def test_bad_rows_of_axolotls_types_are_named(samples_of: Any) -> None:
    rows = [{"prompt": "a", "generation": "b"}, {"prompt": "a", "generation": None}]
    with pytest.raises(DataError, match="1 of 2 rows cannot be read") as caught:
        samples_of(rows, "metharme").check()
    assert "row 1: `row` cannot be tokenised" in str(caught.value)
    with pytest.raises(DataError, match="row 0: `generation` is missing"):
        samples_of([{"prompt": "a"}], "metharme").check()


def test_train_on_inputs_leaves_the_response(samples_of: Any) -> None:
    samples = samples_of([{"prompt": "a", "generation": "b"}], "metharme", train_on_inputs=True)
    assert texts(samples, trained=True) == ["b"]


def test_data_that_are_tokenised_already(samples_of: Any, model: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    ids = tokenizer("Who are you? I am.")["input_ids"]
    masked = len(tokenizer("Who are you?")["input_ids"])
    row = {
        "input_ids": [*ids, tokenizer.eos_token_id],
        "attention_mask": [1] * (len(ids) + 1),
        "labels": [*[-100] * masked, *ids[masked:], tokenizer.eos_token_id],
    }
    samples = samples_of([row], None)
    samples.check()
    assert samples[0].turns == (Turn(None, "Who are you?", False), Turn(None, " I am.", True))


@given(st.lists(st.tuples(st.sampled_from("aé "), st.booleans()), min_size=1, max_size=12))
def test_the_text_of_all_turns_is_the_text_of_all_tokens(tokens: list[tuple[str, bool]]) -> None:
    ids = [ord(character) for character, _ in tokens]
    labels = [token if kept else -100 for token, (_, kept) in zip(ids, tokens, strict=True)]
    turns = list(masked_turns([(ids, labels)], lambda ids: "".join(map(chr, ids))))
    assert "".join(turn.text for turn in turns) == "".join(character for character, _ in tokens)
    assert "".join(turn.text for turn in turns if turn.trained) == "".join(
        character for character, kept in tokens if kept
    )
    assert all(a.trained != b.trained for a, b in itertools.pairwise(turns))


def test_a_run_keeps_the_space_that_a_tokenizer_strips_at_the_start() -> None:
    # As sentencepiece does: a leading space is lost when a text is decoded by itself.
    words = [" Who", " are", " you"]
    turns = masked_turns(
        [([0, 1, 2], [-100, -100, 2])], lambda ids: "".join(words[i] for i in ids).lstrip(" ")
    )
    assert [turn.text for turn in turns] == ["Who are", " you"]


@pytest.mark.parametrize(
    ("kind", "suggestion"),
    [
        ("alpacca", "did you mean `alpaca`?"),
        ("chat_templat", "did you mean `chat_template`?"),
        ("chat_template.default", "did you mean `chat_template`?"),
        ("alpaca_chat.load_qna", "did you mean `alpaca_chat.load_qa`?"),
        ("jepardy", "did you mean `jeopardy`?"),
        ("zzz", "known: alpaca, "),
    ],
)
def test_an_unknown_type_names_the_nearest(kind: str, suggestion: str, samples_of: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        samples_of([{"text": "a"}], kind)
    assert f"type: {kind}: Axolotl has no such type" in str(caught.value)
    assert suggestion in caught.value.fix


@pytest.mark.parametrize("kind", ["bradley_terry.chat_template", "stepwise_supervised", "messages"])
def test_types_without_a_response_are_refused(kind: str, samples_of: Any) -> None:
    with pytest.raises(UnsupportedError, match="no prompt with a response"):
        samples_of([{"text": "a"}], kind)


def test_without_axolotl_the_error_says_what_to_install(
    samples_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "axolotl", None)
    with pytest.raises(UALError, match="not installed here") as caught:
        samples_of([{"question": "a"}], "jepardy")
    assert "pip install 'axolotl-ual[train]'" in caught.value.fix
    assert "did you mean `jeopardy`?" in caught.value.fix


def test_a_recipe_that_axolotl_refuses(samples_of: Any) -> None:
    with pytest.raises(ConfigError, match="Axolotl cannot read this"):
        samples_of([{"prompt": "a", "generation": "b"}], "metharme", sequence_len="long")
