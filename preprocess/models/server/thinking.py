"""What a model thought before it answered, and the answer, told apart in one text.

Reasoning models put their thinking before the answer in many ways: `<think> ... </think>`, without
the opening tag where the chat template has written it already (vLLM issue 31045), `[THINK]` of
Mistral, the channels of gpt-oss, several blocks. A block that never closes was cut: there is no
answer after it. A text that neither opens with a block nor closes one is an answer as it stands,
so that an answer may speak of these tags.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_NAMES: Final = r"think|thinking|thought|seed:think"
_OPEN: Final = re.compile(
    rf"<(?:{_NAMES})>|\[THINK\]|◁think▷|<\|(?:START_THINKING|begin_of_thought)\|>"
    r"|<\|channel\|>\s*(?:analysis|commentary)[^<]*<\|message\|>|<unused94>thought\b",
    re.IGNORECASE,
)
_CLOSE: Final = re.compile(
    rf"</(?:{_NAMES})>|\[/THINK\]|◁/think▷|<\|(?:END_THINKING|end_of_thought)\|>"
    r"|<\|end\|>(?=\s*<\|start\|>|\s*<\|channel\|>)|<unused95>",
    re.IGNORECASE,
)
_BEFORE: Final = re.compile(
    r"(?:\s|<s>|<bos>|<\|(?:start|begin_of_text|START_RESPONSE|im_start|begin_of_solution)\|>"
    r"|(?<=\|>)assistant)+",
)
"""What may stand before a block, or between a block and the answer."""
_FINAL: Final = re.compile(
    r"(?:<\|start\|>\s*assistant\s*)?<\|channel\|>\s*final[^<]*<\|message\|>"
)
_AFTER: Final = re.compile(
    r"(?:\s|</s>|<eos>|<end_of_turn>|<\|(?:im_end|end|return|eot_id|end_of_text|endoftext|"
    r"END_RESPONSE|end_of_solution|eom_id|end▁of▁sentence)\|>|<｜end▁of▁sentence｜>)+\Z"
)


_WRAPPED: Final = re.compile(r"<(answer|response)>\s*(.*?)\s*(?:</\1>)?\s*\Z", re.DOTALL)
"""Hunyuan and Ernie name the answer after the thinking."""


class Parts(NamedTuple):
    """A text, split.

    Attributes:
        thinking: what was thought; empty where nothing was.
        answer: without outer white space and the tokens that end a turn.
        start: place of the answer in the text.
        is_open: the thinking never ended, so there is no answer.
    """

    thinking: str
    answer: str
    start: int
    is_open: bool


def split_thinking(text: str) -> Parts:
    """Tell thinking and answer apart."""
    start = _skip(text, 0)
    thoughts: list[str] = []
    while True:
        opening = _OPEN.match(text, start)
        closing = _CLOSE.search(text, opening.end() if opening else start)
        if opening and not closing:
            return Parts("".join([*thoughts, text[opening.end() :]]).strip(), "", len(text), True)
        if closing is None or not (opening or _closes_the_prompts(text, start, closing)):
            break
        thoughts.append(text[opening.end() if opening else start : closing.start()])
        start = _skip(text, closing.end())
    answer, is_open = text[start:], False
    if thoughts:
        answer, is_open = _without_later_blocks(answer, thoughts)
    answer = _AFTER.sub("", answer)
    if thoughts and (wrapped := _WRAPPED.match(answer)):
        answer, start = wrapped.group(2), start + wrapped.start(2)
    return Parts("".join(thoughts).strip(), answer, start, is_open)


def _closes_the_prompts(text: str, start: int, closing: re.Match[str]) -> bool:
    """Whether a block closes here that was opened in the prompt: none is opened before it."""
    opened = _OPEN.search(text, start)
    return opened is None or opened.start() > closing.start()


def _without_later_blocks(answer: str, thoughts: list[str]) -> tuple[str, bool]:
    """Take out the blocks that a model which thinks puts between parts of its answer."""
    kept, place = [], 0
    while opening := _OPEN.search(answer, place):
        kept.append(answer[place : opening.start()])
        closing = _CLOSE.search(answer, opening.end())
        if closing is None:
            thoughts.append(answer[opening.end() :])
            return "".join(kept), True
        thoughts.append(answer[opening.end() : closing.start()])
        place = closing.end()
    return "".join([*kept, answer[place:]]), False


def _skip(text: str, start: int) -> int:
    """The place after white space, tokens that begin a turn, and the name of a final channel."""
    while True:
        final = _FINAL.match(text, start)
        before = final or _BEFORE.match(text, start)
        if before is None or before.end() == start:
            return start
        start = before.end()
