"""A sample as token ids, with a mark on every token that is to be scored.

Text. A sample whose turns all have a role is rendered by the tokenizer's chat template; without
one, as "Role: text" paragraphs. A sample without roles is the concatenation of its turns, verbatim.

Tokens. The text is tokenised once, as a whole, as in training; the scored tokens are those whose
characters overlap the text of a trained turn. Control tokens of the template are not scored.
A chat template writes its own begin-of-sequence token. Plain text gets the tokenizer's, if it has
one. Where nothing stands before the first scored token, a begin- or end-of-sequence token does.

Length. What follows the last scored token is dropped. The prompt is cut from its left, behind the
begin-of-sequence token. Only a response that is too long by itself is cut: it keeps its head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import BackendError

from ...data.rows import Sample, Turn

NO_RESPONSE = "no response token to score"
NOT_VERBATIM = "the chat template does not render the response as it is"


@dataclass(frozen=True, slots=True)
class Rendered:
    """Text of a sample and the character ranges [start, end) of its trained turns."""

    text: str
    spans: tuple[tuple[int, int], ...]
    from_template: bool = False


@dataclass(frozen=True, slots=True)
class Encoded:
    """Token ids of one sample.

    Attributes:
        ids: int32 of shape (L,), 2 <= L <= max_length.
        scored: bool of shape (L,), at least one True, never at position 0.
        prompt_cut: tokens were dropped before the first scored one.
        response_cut: tokens that were to be scored were dropped.
    """

    ids: npt.NDArray[np.int32]
    scored: npt.NDArray[np.bool_]
    prompt_cut: bool = False
    response_cut: bool = False


def encode(samples: Sequence[Sample], tokenizer: Any, max_length: int) -> list[Encoded | str]:
    """Encode samples; one that cannot be scored gives the reason as a string.

    Args:
        samples: rows, each with at least one trained turn.
        tokenizer: a fast Hugging Face tokenizer.
        max_length: at least 2.

    Raises:
        BackendError: the tokenizer cannot tell which characters a token covers.
    """
    if not tokenizer.is_fast:
        raise BackendError(
            f"the tokenizer {type(tokenizer).__name__} does not map tokens to characters",
            "use a model with a fast tokenizer (tokenizer.json)",
        )
    rendered = [render(sample, tokenizer) for sample in samples]
    texts = [item.text for item in rendered if isinstance(item, Rendered)]
    if not texts:
        return [str(item) for item in rendered]
    tokens = tokenizer(
        texts,
        add_special_tokens=False,
        return_offsets_mapping=True,
        return_attention_mask=False,
        verbose=False,
    )
    pairs = iter(zip(tokens["input_ids"], tokens["offset_mapping"], strict=True))
    return [
        item if isinstance(item, str) else _encode_one(item, *next(pairs), tokenizer, max_length)
        for item in rendered
    ]


def render(sample: Sample, tokenizer: Any) -> Rendered | str:
    """Write a sample as the text that the model reads, or say why that cannot be."""
    if not sample.has_roles:
        return _concatenate(sample.turns)
    if tokenizer.chat_template is None:
        return _concatenate(_labelled(sample.turns))
    return _render_template(sample.turns, tokenizer)


def _concatenate(turns: Sequence[Turn]) -> Rendered:
    spans, start = [], 0
    for turn in turns:
        if turn.trained:
            spans.append((start, start + len(turn.text)))
        start += len(turn.text)
    return Rendered("".join(turn.text for turn in turns), tuple(spans))


def _labelled(turns: Sequence[Turn]) -> list[Turn]:
    """Turns as "Role: text" paragraphs, the labels as turns of their own."""
    pieces = []
    for number, turn in enumerate(turns):
        if not turn.continues:
            gap = "\n\n" if number else ""
            pieces.append(Turn(None, f"{gap}{str(turn.role).capitalize()}: ", trained=False))
        pieces.append(turn)
    return pieces


def _render_template(turns: Sequence[Turn], tokenizer: Any) -> Rendered | str:
    """Render by the chat template and find the trained texts in the result.

    A second rendering has a marker in place of each trained text. What stands between the markers
    is the template's own writing, so that a response that also occurs in it ("user", "a") is not
    taken for it. Templates may strip the text of a turn.
    """
    marks = [f"\ue000{number}\ue001" for number in range(len(turns))]
    texts = [mark if turn.trained else turn.text for mark, turn in zip(marks, turns, strict=True)]
    try:
        text = _apply(turns, [turn.text for turn in turns], tokenizer)
        marked = _apply(turns, texts, tokenizer)
    except Exception as error:  # A template is the model author's program: it may raise anything.
        said = str(error).strip() or type(error).__name__
        return f"the chat template refuses the dialogue: {said.splitlines()[0]}"
    trained = [(mark, turn.text) for mark, turn in zip(marks, turns, strict=True) if turn.trained]
    spans, start = [], 0
    for mark, content in trained:
        before, found, marked = marked.partition(mark)
        start += len(before)
        end = _end_of(text, start, before, content, marked.partition("\ue000")[0])
        if not found or end is None:
            return NOT_VERBATIM
        spans.append((start, end))
        start = end
    return Rendered(text, tuple(spans), from_template=True)


def _apply(turns: Sequence[Turn], texts: Sequence[str], tokenizer: Any) -> str:
    messages: list[dict[str, str | None]] = []
    for turn, text in zip(turns, texts, strict=True):
        if turn.continues and messages:
            messages[-1]["content"] = f"{messages[-1]['content']}{text}"
        else:
            messages.append({"role": turn.role, "content": text})
    return str(tokenizer.apply_chat_template(messages, tokenize=False))


def _end_of(text: str, start: int, before: str, content: str, after: str) -> int | None:
    """End of `content` or its stripped form at `start`, between `before` and `after`."""
    if not text.endswith(before, 0, start):
        return None
    for form in (content, content.strip(), content.lstrip(), content.rstrip()):
        if text.startswith(form + after, start):
            return start + len(form)
    return None


def _encode_one(
    rendered: Rendered,
    ids: Sequence[int],
    offsets: Sequence[tuple[int, int]],
    tokenizer: Any,
    max_length: int,
) -> Encoded | str:
    starts_L, ends_L = np.asarray(offsets, dtype=np.int64).reshape(-1, 2).T
    scored_L = np.zeros(len(ids), dtype=np.bool_)
    for start, end in rendered.spans:
        scored_L |= (starts_L < end) & (ends_L > start) & (ends_L > starts_L)
    ids_L = np.asarray(ids, dtype=np.int32)
    begin = tokenizer.bos_token_id
    if begin is None:
        begin = tokenizer.eos_token_id
    lacks_begin = not rendered.from_template and tokenizer.bos_token_id is not None
    if len(ids_L) and begin is not None and ids_L[0] != begin and (lacks_begin or scored_L[0]):
        ids_L = np.concatenate([np.array([begin], dtype=np.int32), ids_L])
        scored_L = np.concatenate([np.array([False]), scored_L])
    scored_L[:1] = False
    if not scored_L.any():
        return NO_RESPONSE
    return _cut(ids_L, scored_L, max_length, keep_first=bool(ids_L[0] == begin))


def _cut(
    ids_L: npt.NDArray[np.int32],
    scored_L: npt.NDArray[np.bool_],
    max_length: int,
    keep_first: bool,
) -> Encoded:
    """Bring a sequence down to max_length tokens, the prompt first."""
    positions = np.flatnonzero(scored_L)
    first, stop = int(positions[0]), int(positions[-1]) + 1
    excess = stop - max_length
    if excess <= 0:
        return Encoded(ids_L[:stop], scored_L[:stop])
    # At least one token of context stays: without it the first scored token has no probability.
    dropped = min(excess, first - 1)
    kept = np.arange(dropped, stop)
    if keep_first and dropped:
        kept[0] = 0
    kept = kept[:max_length]
    response_cut = bool(scored_L[kept].sum() < len(positions))
    return Encoded(ids_L[kept], scored_L[kept], dropped > 0, response_cut)
