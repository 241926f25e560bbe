"""The smoothing of each token through Axolotl's strategies, against the text and its offsets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tiny
from axolotl_ual.data.sentences import SentenceSmoothing
from axolotl_ual.data.strategy import CarryingStrategy
from axolotl_ual.data.trained_text import TrainedText
from axolotl_ual.errors import DataError, UnsupportedError
from reference.sentences import Turn, columns, of_text

ENTRY = {"path": "data.jsonl", "type": "some"}
HEADER = "<|assistant|>\n"
TRIMS = tiny.CHAT_TEMPLATE.replace("message['content']", "message['content'] | trim")
SENTENCE = st.tuples(
    st.text("ab. é你👍\n", min_size=1, max_size=8).filter(lambda text: not text.isspace()),
    st.sampled_from([0.0, 0.125, 0.25, 0.5, 0.75]),
)
TURN = st.lists(SENTENCE, min_size=1, max_size=4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    texts = ["Ab. ab! a\n. a"] * 20
    made = tiny.make_tokenizer(Path(tmp_path_factory.mktemp("tokenizer")), texts)
    made.name_or_path = "tiny"
    return made


def strategy_of(
    tokenizer: Any, kind: Any, *, template: str = tiny.CHAT_TEMPLATE, **settings: Any
) -> Any:
    """Axolotl's own strategy of a dataset type."""
    from axolotl.utils.data import wrappers
    from axolotl.utils.dict import DictDefault

    keys = {key: settings.pop(key) for key in ("roles_to_train", "train_on_eos") if key in settings}
    entry = DictDefault({"path": "data.jsonl", "type": kind, **keys})
    entry.update({"chat_template": "jinja", "chat_template_jinja": template})
    cfg = DictDefault({"sequence_len": 512, "train_on_inputs": False, **settings})
    taken: list[Any] = []
    inner = wrappers.wrap_dataset_for_tokenized_prompt
    wrappers.wrap_dataset_for_tokenized_prompt = lambda strategy, *_, **__: taken.append(strategy)
    base, _, style = str(kind).partition(":")
    try:
        wrappers.get_dataset_wrapper(entry, tokenizer, cfg, base, None, style or None)
    finally:
        wrappers.wrap_dataset_for_tokenized_prompt = inner
    return taken[0]


def tokenise(strategy: Any, row: dict[str, Any]) -> list[tuple[list[int], list[int], list[float]]]:
    """Tokens, labels and smoothing of each sequence of one row, the fourth of its data."""
    given = {"ual_number": 3, **row}
    carrier = CarryingStrategy(
        strategy, {"ual_smoothing": "ual_smoothing"}, None, SentenceSmoothing(strategy, ENTRY)
    )
    if not strategy.supports_batched:
        made = carrier.tokenize_prompt(given)
        made = {key: [value] for key, value in made.items()}
    else:
        made = carrier.tokenize_prompt({key: [value] for key, value in given.items()})
    names = ("input_ids", "labels", "ual_token_smoothing")
    return [
        (ids, labels, np.asarray(own, dtype=np.float32).tolist())
        for ids, labels, own in zip(*(made[name] for name in names), strict=True)
    ]


def said(turn: Turn) -> str:
    return "".join(text for text, _ in turn)


def trained(labels: list[int], values: list[float]) -> list[float]:
    return [value for label, value in zip(labels, values, strict=True) if label != -100]


@given(turn=TURN)
def test_an_answer(tokenizer: Any, turn: Turn) -> None:
    strategy = strategy_of(tokenizer, "alpaca")
    row = {"instruction": "Why?", "output": said(turn), **columns([turn])}
    ((ids, labels, smoothing),) = tokenise(strategy, row)
    own = of_text(tokenizer, said(turn), [turn], default=turn[0][1])
    # The end of the text is of the last sentence.
    assert smoothing[-len(own) - 1 :] == [*own, own[-1]]
    prompt = len(ids) - len(own) - 1
    assert labels[:prompt] == [-100] * prompt
    assert smoothing[:prompt] == [np.float32(row["ual_smoothing"])] * prompt


def chat(turns: list[Turn]) -> list[dict[str, str]]:
    return [
        message
        for turn in turns
        for message in (
            {"role": "user", "content": "Why. a?"},
            {"role": "assistant", "content": said(turn)},
        )
    ]


@given(turns=st.lists(TURN, min_size=1, max_size=3), trims=st.booleans())
def test_a_chat(tokenizer: Any, turns: list[Turn], trims: bool) -> None:
    template = TRIMS if trims else tiny.CHAT_TEMPLATE
    strategy = strategy_of(tokenizer, "chat_template", template=template)
    messages = chat(turns)
    ((ids, labels, smoothing),) = tokenise(strategy, {"messages": messages, **columns(turns)})
    text = tokenizer.apply_chat_template(messages, tokenize=False, chat_template=template)
    own = of_text(tokenizer, text, turns, turns[0][0][1], HEADER)
    assert len(own) == len(ids)
    assert trained(labels, smoothing) == trained(labels, own)
    assert len(trained(labels, own)) > len(turns)


def test_by_eye(tokenizer: Any) -> None:
    # Of the bytes x y . z and the merged "é" and "\n"; the end of a turn is of the one before.
    turns = [[("x. ", 0.5), ("y\n", 0.25)], [("z", 0.75)]]
    strategy = strategy_of(tokenizer, "chat_template")
    row = {"messages": chat(turns), **columns(turns)}
    # x . y z are four characters, and x . half of them: (2 * 0.5 + 0.25 + 0.75) / 4.
    assert row["ual_smoothing"] == 0.5
    assert [sentence["end"] for sentence in row["ual_sentences"]] == [2, 3, 4]
    ((ids, labels, smoothing),) = tokenise(strategy, row)
    shown = [
        (tokenizer.decode([token]), value)
        for token, label, value in zip(ids, labels, smoothing, strict=True)
        if label != -100
    ]
    assert "".join(text for text, _ in shown) == "x. y\n</s>z</s>"
    assert [value for text, value in shown if text.strip()] == [
        *[0.5] * 2,
        *[0.25] * 2,
        *[0.75] * 2,
    ]
    assert {value for label, value in zip(labels, smoothing, strict=True) if label == -100} == {0.5}


@pytest.mark.parametrize(
    ("roles", "eos"), [(["user"], "turn"), (["assistant"], "all"), (["assistant"], "last")]
)
def test_which_turns_and_ends_of_turns_are_trained(tokenizer: Any, roles: Any, eos: str) -> None:
    turns: list[Turn] = [[("a. ", 0.5), ("b", 0.25)], [("ab", 0.75)]]
    strategy = strategy_of(tokenizer, "chat_template", roles_to_train=roles, train_on_eos=eos)
    messages = chat(turns)
    if roles == ["user"]:
        messages = [
            {"role": role, "content": message["content"]}
            for message, role in zip(messages, ["assistant", "user"] * 2, strict=True)
        ]
    ((_, labels, smoothing),) = tokenise(strategy, {"messages": messages, **columns(turns)})
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    own = of_text(tokenizer, text, turns, 0.5, f"<|{roles[0]}|>\n")
    assert trained(labels, smoothing) == trained(labels, own)


def test_an_end_of_turn_that_the_tokenizer_takes_for_text(tmp_path: Path) -> None:
    """`tokens:` of a recipe are added as text; the template ends its turns with one."""
    made = tiny.make_tokenizer(tmp_path)
    made.add_tokens(["<|im_end|>"])
    made.name_or_path = "tiny"
    template = tiny.CHAT_TEMPLATE.replace("</s>", "<|im_end|>")
    strategy = strategy_of(made, "chat_template", template=template, eot_tokens=["<|im_end|>"])
    turns: list[Turn] = [[("a. ", 0.5), ("b", 0.25)], [("ab", 0.75)]]
    ((ids, labels, smoothing),) = tokenise(strategy, {"messages": chat(turns), **columns(turns)})
    end = made.convert_tokens_to_ids("<|im_end|>")
    ends = [
        value
        for token, label, value in zip(ids, labels, smoothing, strict=True)
        if token == end and label != -100
    ]
    assert ends == [0.25, 0.75]


def thinking(tokenizer: Any) -> str:
    """A template that sets reasoning between tokens that are no special ones."""
    tokenizer.add_tokens(["<think>", "</think>"])
    return tiny.CHAT_TEMPLATE.replace(
        "{{ message['content'] }}",
        "{% if message['reasoning_content'] %}<think>\n{{ message['reasoning_content'] }}\n"
        "</think>\n\n{% endif %}{{ message['content'] }}",
    )


@pytest.mark.parametrize("spelled", [False, True])
def test_tokens_that_a_template_sets_among_the_text_or_a_text_spells(
    tmp_path: Path, spelled: bool
) -> None:
    made = tiny.make_tokenizer(tmp_path)
    made.name_or_path = "tiny"
    template = thinking(made)
    turn: Turn = [("x. ", 0.5), ("y", 0.25), ("z", 0.75)]
    message = {"role": "assistant", "reasoning_content": "x. y", "content": "z"}
    if spelled:
        turn = [("<think>x. ", 0.5), ("y</think>", 0.25), ("z", 0.75)]
        message = {"role": "assistant", "content": said(turn)}
    messages = [{"role": "user", "content": "Why?"}, message]
    strategy = strategy_of(made, "chat_template", template=template)
    ((ids, labels, smoothing),) = tokenise(strategy, {"messages": messages, **columns([turn])})
    shown = [
        (made.decode([token]), value)
        for token, label, value in zip(ids, labels, smoothing, strict=True)
        if label != -100 and made.decode([token]).strip()
    ]
    assert shown == [
        *[(text, 0.5) for text in ("<think>", "x", ".")],
        *[(text, 0.25) for text in ("y", "</think>")],
        *[(text, 0.75) for text in ("z", "</s>")],
    ]


def test_a_row_is_read_in_several_ways(tmp_path: Path) -> None:
    """As 19 characters where `<think>` and `</think>` are text, as 4 where they are none."""
    made = tiny.make_tokenizer(tmp_path)
    made.name_or_path = "tiny"
    strategy = strategy_of(made, "chat_template", template=thinking(made))
    message = {"role": "assistant", "reasoning_content": "x. y", "content": "z"}
    row = {"messages": [{"role": "user", "content": "Why?"}, message]}
    assert strategy.supports_batched
    batch = {key: [value] for key, value in row.items()}
    text = TrainedText(strategy)
    assert text.characters(batch, strategy.tokenize_prompt(batch)) == [19, 4, 19]
    assert text.characters(batch, {"input_ids": [], "labels": []}) == []


def test_a_special_token_that_a_text_spells(tokenizer: Any) -> None:
    turn: Turn = [("x. ", 0.5), ("<|user|> y. ", 0.25), ("z", 0.75)]
    row = {"instruction": "i", "output": said(turn), **columns([turn])}
    ((ids, labels, smoothing),) = tokenise(strategy_of(tokenizer, "alpaca"), row)
    prompt = labels.count(-100)
    tokens = tokenizer.convert_ids_to_tokens(ids[prompt:])
    values = dict(zip(tokens, smoothing[prompt:], strict=True))
    assert values["<|user|>"] == values["y"] == 0.25
    assert values["x"] == 0.5 and values["z"] == values["</s>"] == 0.75


@given(segments=st.lists(st.tuples(TURN, st.booleans()), min_size=1, max_size=4))
def test_segments(tokenizer: Any, segments: list[tuple[Turn, bool]]) -> None:
    turns = [turn for turn, label in segments if label]
    if not turns:
        return
    row = {"segments": [{"label": label, "text": said(turn)} for turn, label in segments]}
    strategy = strategy_of(tokenizer, "input_output")
    ((_, labels, smoothing),) = tokenise(strategy, {**row, **columns(turns)})
    own, last = [], turns[0][0][1]
    for turn in turns:
        own += of_text(tokenizer, said(turn), [turn], default=last)
        last = own[-1]
    assert trained(labels, smoothing) == own


@given(turn=st.lists(SENTENCE, min_size=1, max_size=8), size=st.integers(3, 9))
def test_a_text_in_pieces(tokenizer: Any, turn: Turn, size: int) -> None:
    """Pieces of a row go on with its sentences, also where one ends within a character."""
    strategy = strategy_of(tokenizer, "completion", sequence_len=size)
    pieces = tokenise(strategy, {"text": said(turn), **columns([turn])})
    assert all(len(ids) == len(own) <= size for ids, _, own in pieces)
    own = of_text(tokenizer, said(turn), [turn], default=turn[0][1])
    whole = [value for _, _, values in pieces for value in values]
    assert whole == [*own, own[-1]]


@pytest.mark.parametrize("kind", ["alpaca", "chat_template", "input_output"])
def test_prompts_that_are_trained_too_have_the_smoothing_of_the_row(
    tokenizer: Any, kind: str
) -> None:
    turn: Turn = [("a. ", 0.5), ("b", 0.25)]
    row: dict[str, Any] = {
        "alpaca": {"instruction": "i. i", "output": said(turn)},
        "chat_template": {"messages": chat([turn])},
        "input_output": {
            "segments": [{"label": False, "text": "i. i"}, {"label": True, "text": said(turn)}]
        },
    }[kind]
    row.update(columns([turn]))
    ((_, masked, alone),) = tokenise(strategy_of(tokenizer, kind), dict(row))
    strategy = strategy_of(tokenizer, kind, train_on_inputs=True)
    ((_, labels, smoothing),) = tokenise(strategy, dict(row))
    assert smoothing == alone
    beside = [value for value, label in zip(smoothing, masked, strict=True) if label == -100]
    assert set(beside) == {np.float32(row["ual_smoothing"])}
    assert len(trained(labels, smoothing)) > len(trained(masked, alone))


def test_a_row_without_sentences_has_none(tokenizer: Any) -> None:
    strategy = strategy_of(tokenizer, "alpaca")
    row = {"instruction": "i", "output": "a", "ual_smoothing": 0.5, "ual_sentences": None}
    ((_, _, smoothing),) = tokenise(strategy, row)
    assert smoothing == []


def test_a_cut_within_white_space(tokenizer: Any) -> None:
    # The three bytes of an ideographic space are a token each; two of them are left.
    row = {"instruction": "i", "output": "x" * 20 + "\u3000", **columns([[("x" * 20, 0.5)]])}
    ((ids, labels, smoothing),) = tokenise(strategy_of(tokenizer, "alpaca", sequence_len=22), row)
    assert trained(labels, smoothing) == [0.5] * 22
    assert tokenizer.decode(ids).endswith("x\N{REPLACEMENT CHARACTER}")


def test_a_row_that_is_cut_has_the_sentences_of_its_beginning(tokenizer: Any) -> None:
    turn: Turn = [("x. ", 0.5), ("y" * 300, 0.25)]
    row = {"instruction": "i", "output": said(turn), **columns([turn])}
    strategy = strategy_of(tokenizer, "alpaca", sequence_len=50)
    ((_, labels, smoothing),) = tokenise(strategy, row)
    assert trained(labels, smoothing)[:2] == [0.5, 0.5]
    assert set(trained(labels, smoothing)[3:]) == {0.25}
    assert 40 < len(trained(labels, smoothing)) <= 50


@pytest.mark.parametrize(
    ("kind", "row", "shown"),
    [
        ("alpaca", {"instruction": "i", "output": "a. bc"}, "write 4 characters .* have 3"),
        ("alpaca", {"instruction": "i", "output": "a."}, "write 2 characters .* have 3"),
        (
            "chat_template",
            {"messages": [{"role": "assistant", "content": "a." + "b" * 600}]},
            "write 602 characters .* have 3.*'a.bbb",
        ),
    ],
)
def test_a_text_that_was_not_scored(tokenizer: Any, kind: str, row: Any, shown: str) -> None:
    given = {**row, **columns([[("a. ", 0.5), ("b", 0.25)]])}
    with pytest.raises(DataError, match=rf"datasets: `data\.jsonl`, row 3: .*{shown}"):
        tokenise(strategy_of(tokenizer, kind), given)


def test_a_strategy_without_a_tokenizer() -> None:
    with pytest.raises(UnsupportedError, match=r"`data\.jsonl`: type `some` has no tokenizer"):
        SentenceSmoothing(object(), ENTRY)
