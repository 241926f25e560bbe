"""A sample without what the chat template does not write, so that what is judged is trained.

Templates leave out the thinking of earlier turns, or reasoning and tool calls altogether. What they
do write they may trim, and spell in their own way. So a response counts as written where its
letters are in what Axolotl trains, white space aside. Else its words are compared: a paragraph that
is not among the trained words, or more than two words in a row, is left out.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Final

from .sample import Sample, Turn

_WORD: Final = re.compile(r"\w+")
_EDGE: Final = re.compile(r"\s*\n\s*\n\s*")
_MOST_WORDS: Final = 20_000
"""Words of a response and of what is trained, beyond which they are not compared."""
_ALIKE: Final = 0.5
"""Share of words from which on a run of trained tokens is taken for that of a message."""
_ODD_WORDS: Final = 2
"""So many words in a row may be spelled in another way."""


def only_rendered(sample: Sample, runs: Sequence[str]) -> Sample | None:
    """The sample with what is trained of its response.

    A message of which only a part is to be trained stays as it is: its parts end between the
    characters of tokens.

    Args:
        sample: from the row.
        runs: the texts of the row's runs of trained tokens, in order; most often one a message.

    Returns:
        The sample itself where all of its response is trained; None where nothing of it is.
    """
    places = [
        place
        for place, turn in enumerate(sample.turns)
        if turn.trained and not turn.continues and not _goes_on(sample.turns, place)
    ]
    trained = dict(zip(places, _aligned([sample.turns[p].text for p in places], runs), strict=True))
    turns: list[Turn] = []
    for place, turn in enumerate(sample.turns):
        written = _letters(trained.get(place, turn.text))
        if _letters(turn.text) in written:
            turns.append(turn)
        elif kept := "".join(_passages(turn.text, trained[place], written)).strip():
            turns.append(replace(turn, text=kept))
    if turns == list(sample.turns):
        return sample
    has_response = any(turn.trained and turn.text.strip() for turn in turns)
    return replace(sample, turns=tuple(turns)) if has_response else None


def _aligned(texts: Sequence[str], runs: Sequence[str]) -> list[str]:
    """For each text the run that writes it, or nothing.

    Where runs are left over they cannot be told apart, and each text is given all of them.
    """
    everything = "\n\n".join(runs)
    found, left = [], [run for run in runs if run.strip()]
    for text in texts:
        if left and _share(text, left[0]) >= _ALIKE:
            found.append(left.pop(0))
        else:
            found.append(everything if _letters(text) in _letters(everything) else "")
    return [everything] * len(texts) if left else found


def _share(text: str, run: str) -> float:
    """How much of the shorter of two texts, in words, is in the other."""
    if _letters(text) in _letters(run):
        return 1.0
    said, written = Counter(_WORD.findall(text)), Counter(_WORD.findall(run))
    shorter = min(said.total(), written.total())
    return (said & written).total() / shorter if shorter else 0.0


def _goes_on(turns: Sequence[Turn], place: int) -> bool:
    return place + 1 < len(turns) and turns[place + 1].continues


def _letters(text: str) -> str:
    return "".join(text.split())


def _passages(text: str, trained: str, written: str) -> Iterator[str]:
    """The passages of a text that are trained, as they stand in it."""
    words, others = list(_WORD.finditer(text)), _WORD.findall(trained)
    if len(words) + len(others) > _MOST_WORDS:
        yield text
        return
    said = [word.group() for word in words]
    matcher = difflib.SequenceMatcher(None, said, others, autojunk=False)
    start = begin = 0
    for block in matcher.get_matching_blocks():
        # The words from `begin` to the block are not among the trained ones.
        first = words[begin].start() if begin < len(words) else len(text)
        after = words[block.a].start() if block.a < len(words) else len(text)
        if _is_left_out(text, block.a - begin, words, begin, block.a):
            yield _before(text[start:first], written)
            start = _back(text, after, begin and words[block.a - 1].end(), written)
        begin = block.a + block.size
    yield text[start:]


def _is_left_out(
    text: str, number: int, words: Sequence[re.Match[str]], begin: int, end: int
) -> bool:
    """Whether words [begin, end) are a passage of their own and no odd spelling."""
    if number == 0:
        return False
    before = text[words[begin - 1].end() : words[begin].start()] if begin else "\n\n"
    after = text[words[end - 1].end() : words[end].start()] if end < len(words) else "\n\n"
    is_paragraph = all(_EDGE.search(gap) for gap in (before, after))
    return number > _ODD_WORDS or is_paragraph


def _back(text: str, start: int, stop: int, written: str) -> int:
    """Where a passage begins whose first word begins at `start`: at the marks that open it."""
    word = _WORD.match(text, start)
    while word and start > stop and _letters(text[start - 1 : word.end()]) in written:
        start -= 1
    return start


def _before(passage: str, written: str) -> str:
    """A passage before one that is left out, without the marks that open the latter."""
    while passage and _letters(passage) not in written:
        passage = passage[:-1].rstrip()
    return passage
