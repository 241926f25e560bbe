"""The weight of each token of a chat, from a key of its messages.

Axolotl's chat template strategy finds the span of a turn to write its labels. A token has the
weight of the turn that it is in or behind: the end-of-turn tokens of a turn are behind its span,
and nothing is trained of the header that comes before the next one's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from axolotl.prompt_strategies.chat_template import ChatTemplateStrategy
from axolotl.utils.dict import remove_none_values

from axolotl_ual.errors import DataError, UnsupportedError
from axolotl_ual.settings.loss import is_weight


class MessageWeights:
    """Reads the weights of a chat's messages as Axolotl reads its turns.

    Args:
        strategy: Axolotl's, of one entry of `datasets:`.
        key: of a message.
        entry: of `datasets:`.

    Raises:
        UnsupportedError: the strategy does not tell which token is of which message.
    """

    def __init__(self, strategy: Any, key: str, entry: Mapping[str, Any]) -> None:
        if not isinstance(strategy, ChatTemplateStrategy):
            raise UnsupportedError(
                f"ual.loss.weight.message: {key}: type `{entry.get('type')}` of "
                f"`{entry.get('path')}` does not tell which token is of which message",
                "use `type: chat_template`, or a weight of each row",
            )
        self.strategy, self.key, self.entry = strategy, key, entry

    def check(self, dataset: Any) -> None:
        """Stop at a message whose weight cannot be.

        Raises:
            DataError: naming file, row and message.
        """
        for row, sample in enumerate(dataset):
            self._require(self.strategy._get_messages(sample), f"row {row}")

    def _require(self, messages: Any, where: str) -> None:
        for number, message in enumerate(messages):
            value = message.get(self.key)
            if value is not None and not is_weight(value):
                raise DataError(
                    f"datasets: `{self.entry.get('path')}`, {where}, message {number}: "
                    f"`{self.key}` is {value!r}, and a weight is a finite number, 0 or more",
                    "repair the message, or leave the key out of it, which is a weight of 1",
                )

    def of_tokens(self, sample: Mapping[str, Any], ids: list[int]) -> list[np.float32]:
        """The weight of each token of a row.

        Args:
            sample: the row.
            ids: its tokens, as the strategy gives them.
        """
        strategy, prompt = self.strategy, remove_none_values(sample)
        messages = strategy._get_messages(prompt)
        # Of a stream nothing was checked before.
        self._require(messages, "a row")
        given = [message.get(self.key, 1.0) for message in messages]
        turns, tools = strategy.get_conversation_thread(prompt), strategy._get_tools(prompt)
        # A system message may have been put before the others, or dropped.
        shared = min(len(turns), len(given))
        own = [1.0] * (len(turns) - shared) + given[len(given) - shared :]
        weights = np.full(len(ids), own[0], dtype=np.float32)
        locator = strategy._build_turn_locator(turns, tools, ids)
        for index, weight in enumerate(own):
            start, _ = strategy.find_turn(turns=turns, turn_idx=index, tools=tools, locator=locator)
            if start != -1:
                weights[start:] = weight
        return list(weights)
