"""The smoothing of tokens by their sentences, from the text and the offsets of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Turn = Sequence[tuple[str, float]]
"""Sentences of a trained turn, which tile it, with the smoothing of each."""


def columns(turns: Sequence[Turn]) -> dict[str, Any]:
    """Our columns of a row with these trained turns."""
    sentences, end, mass = [], 0, 0.0
    for text, smoothing in (sentence for turn in turns for sentence in turn):
        size = sum(not character.isspace() for character in text)
        end, mass = end + size, mass + size * smoothing
        sentences.append({"end": end, "uncertainty": smoothing, "smoothing": smoothing})
    return {"ual_smoothing": mass / end, "ual_sentences": sentences}


def of_text(
    tokenizer: Any, text: str, turns: Sequence[Turn], default: float, header: str = ""
) -> list[float]:
    """The smoothing of each token of a text that holds turns, by the offsets of the tokenizer.

    Args:
        text: holds what each turn says behind its header, white space around it aside.
        default: of tokens before the first turn.
        header: before each turn.
    """
    owner: dict[int, float] = {}
    begin = 0
    for turn in turns:
        said = "".join(sentence for sentence, _ in turn)
        begin = text.index(header, begin) + len(header)
        begin = text.index(said.strip(), begin) - (len(said) - len(said.lstrip()))
        for sentence, smoothing in turn:
            for place, character in enumerate(sentence):
                if not character.isspace():
                    owner[begin + place] = smoothing
            begin += len(sentence)
    offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    found, last = [], default
    for start, end in offsets["offset_mapping"]:
        own = [owner[place] for place in range(start, end) if place in owner]
        found.append(own[0] if own else last)
        last = own[-1] if own else last
    return found
