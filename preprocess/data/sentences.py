"""Splits a response into sentences, for scores that look at one statement at a time.

Rules, not a model: a sentence ends at `.`, `!` or `?` (with closing quotes or brackets) before
white space and something that may open a sentence, at the full stops of Chinese and Japanese, and
at a line break. A fenced code block is one sentence. Abbreviations, initials, decimals and list
numbers do not end one.
"""

from __future__ import annotations

import re

_ABBREVIATED = """
    mr mrs ms dr prof sr jr st vs etc fig figs eq eqs nos vol pp ed eds al approx dept inc ltd corp
    gen col lt sgt capt rev hon jan feb apr jun jul aug sep sept oct nov dec e.g i.e cf a.m p.m u.s
    u.k
"""
_ABBREVIATIONS = frozenset(_ABBREVIATED.split())
_FENCE = re.compile(r"```.*?(?:```|\Z)", re.DOTALL)
_BREAK = re.compile(r"(?P<stop>[.!?]+[\"'”’)\]]*)\s+(?=[\"'“‘(\[]?[^\W_a-z])|[。！？]+[”’」』）]*")
_LAST_WORD = re.compile(r"(\S+)\Z")
_LIST_NUMBER = re.compile(r"\(?(?:\d{1,3}|[A-Za-z]|[ivxIVX]{1,4})\Z")


def split_sentences(text: str) -> list[str]:
    """The sentences of a text, in order, without outer white space; none is empty.

    A text of white space only has no sentences.
    """
    sentences: list[str] = []
    start = 0
    for fence in _FENCE.finditer(text):
        sentences.extend(_split_prose(text[start : fence.start()]))
        sentences.append(fence.group().strip())
        start = fence.end()
    sentences.extend(_split_prose(text[start:]))
    return sentences


def _split_prose(text: str) -> list[str]:
    return [sentence for line in text.splitlines() for sentence in _split_line(line)]


def _split_line(line: str) -> list[str]:
    sentences: list[str] = []
    start = 0
    for match in _BREAK.finditer(line):
        if match.group("stop") == "." and _goes_on(line[start : match.start()]):
            continue
        end = match.end("stop") if match.group("stop") else match.end()
        sentences.append(line[start:end].strip())
        start = match.end()
    sentences.append(line[start:].strip())
    return [sentence for sentence in sentences if sentence]


def _goes_on(before: str) -> bool:
    """Whether a single full stop after `before` belongs to the word and ends no sentence."""
    match = _LAST_WORD.search(before)
    if match is None:
        return True
    word = match.group(1)
    if word.strip("(\"'“‘[").lower() in _ABBREVIATIONS:
        return True
    initial = len(word) == 1 and word.isalpha() and word.isupper() and word != "I"
    numbered = before.strip() == word and _LIST_NUMBER.fullmatch(word) is not None
    return initial or numbered
