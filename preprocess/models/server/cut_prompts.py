"""Whether a server can have read the whole prompt, by the number of tokens that it counted.

Some servers cut what does not fit their context and say nothing (Ollama issue 17889). No tokenizer
puts much more than five bytes of prose into a token, so a count that is far too small for the text
tells on them. Runs of one character count once, since tokenizers join them; a character beyond
ASCII counts as two.

    cut:  weight of the longest message / tokens > 7
          weight of all messages / tokens > 5, and tokens a multiple of 512, give or take 2

because what a context is cut to is a round number. The first rule looks at one message, since some
servers leave what is in their cache out of the count; a count of a few tokens is no context.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

_RUN: Final = re.compile(r"(.)\1{3,}|\s+", re.DOTALL)
_SMALLEST_CONTEXT: Final = 256
_MOST: Final = 7.0
_MOST_AT_A_ROUND_NUMBER: Final = 5.0
_ROUND: Final = 512
_ABOUT: Final = 2


def is_cut(messages: Sequence[Mapping[str, Any]], prompt_tokens: int) -> bool:
    """Whether so many tokens cannot hold these messages.

    Args:
        messages: of a request.
        prompt_tokens: as the server counted them; 0 where it did not.
    """
    texts = [text for message in messages if isinstance(text := message.get("content"), str)]
    size = sum(len(text) if text.isascii() else 2 * len(text) for text in texts)
    if prompt_tokens < _SMALLEST_CONTEXT or size <= _MOST_AT_A_ROUND_NUMBER * prompt_tokens:
        return False
    weights = [_weight(text) for text in texts]
    is_round = (prompt_tokens + _ABOUT) % _ROUND <= 2 * _ABOUT and prompt_tokens > _ROUND - 3
    return max(weights) > _MOST * prompt_tokens or (
        is_round and sum(weights) > _MOST_AT_A_ROUND_NUMBER * prompt_tokens
    )


def _weight(text: str) -> int:
    """About the bytes of a text that a tokenizer has to tell apart."""
    text = _RUN.sub(" ", text)
    others = 0 if text.isascii() else sum(not character.isascii() for character in text)
    return len(text) + others
