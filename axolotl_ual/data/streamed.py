"""The smoothing of rows that are streamed: nothing is known of a row before it comes by.

What is checked of a whole dataset elsewhere is checked of each row here, when it is tokenised.

Without packing a row keeps its columns. With packing Axolotl tokenises a buffer of rows, packs them
and keeps of what a strategy returns only what can be laid end to end, as the labels are. So label
and smoothing of a token travel through the packing as one integer (`losses.encoding`), and come
out of the stream as labels and a list of smoothings, one for each token. Bare text of
`pretraining_dataset:` comes without labels, which Axolotl takes from the tokens while it packs; it
leaves labels alone that are there already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import torch

from axolotl_ual.columns import SMOOTHING, WEIGHT
from axolotl_ual.data.strategy import CarryingStrategy
from axolotl_ual.errors import DataError
from axolotl_ual.losses.encoding import decode_smoothing, join_smoothing, split_smoothing
from axolotl_ual.settings.curriculum import is_number
from axolotl_ual.settings.loss import WeightConfig, is_weight

_SHOWN: Final = 60


class StreamedStrategy:
    """A tokenisation strategy that checks the smoothing of each row.

    Has the three attributes that Axolotl reads of a strategy.

    Args:
        strategy: which carries the columns.
        path: the entry of the recipe, for messages.
        joined: whether labels get the smoothing of their row into them.
    """

    def __init__(self, strategy: CarryingStrategy, path: str, joined: bool) -> None:
        self.strategy = strategy
        self.path = path
        self.joined = joined

    @property
    def supports_batched(self) -> bool:
        """Whether `tokenize_prompt` takes a dict of lists."""
        return self.strategy.supports_batched

    @property
    def filter_rows(self) -> Callable[..., Any] | None:
        """The strategy's own filter, which runs before tokenisation."""
        return self.strategy.filter_rows

    def tokenize_prompt(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        """Tokenise one row, or a dict of lists.

        Raises:
            DataError: a smoothing is null, not a number, or outside [0, 1].
        """
        batched = self.supports_batched
        for place, value in enumerate(prompt[SMOOTHING] if batched else [prompt[SMOOTHING]]):
            if not is_number(value) or not 0.0 <= value <= 1.0:
                row = {k: v[place] for k, v in prompt.items()} if batched else prompt
                raise DataError(
                    f"{self.path}: `{SMOOTHING}` is {value!r}, and must be a number in "
                    f"[0, 1], in the row {str(dict(row))[:_SHOWN]}",
                    "annotate the data again, or repair the column",
                )
        result = self.strategy.tokenize_prompt(prompt)
        return self._with_joined(result) if self.joined else result

    def _with_joined(self, result: dict[str, Any]) -> dict[str, Any]:
        """What was returned, with the smoothing of a row in its labels and nowhere else."""
        values, given = result[SMOOTHING], result.get("labels", result["input_ids"])
        if self.supports_batched:
            pairs = zip(given, values, strict=True)
            labels = [join_smoothing(row, value) for row, value in pairs]
        else:
            labels = join_smoothing(given, values)
        kept = ("input_ids", "attention_mask", "position_ids", "token_type_ids")
        return {**{key: result[key] for key in kept if key in result}, "labels": labels}


def split_again(dataset: Any) -> Any:
    """A stream of packed rows whose labels carry smoothing, as labels and smoothings."""

    def split(row: Mapping[str, Any]) -> dict[str, Any]:
        labels_T, bits_T = split_smoothing(torch.as_tensor(row["labels"]))
        return {"labels": labels_T, SMOOTHING: decode_smoothing(bits_T)}

    return dataset.map(split)


def streamed_weights(dataset: Any, config: WeightConfig, column: str) -> Any:
    """A stream of rows with a column `ual_weight`.

    Args:
        dataset: of tokenised rows.
        config: the section; weights of messages are there already.
        column: of the tokenised rows, that weights come from.

    Raises, while the stream is read:
        DataError: a weight is no number, negative or not finite, or a row has none.
    """

    def weigh(row: Mapping[str, Any]) -> dict[str, Any]:
        value: Any = row.get(column)
        # A strategy stores what it carries as float32, which is no number of Python's.
        value = value.item() if isinstance(value, np.floating) else value
        mapped = config.from_ is not None
        if not is_weight(value) or (mapped and float(value) > 1.0):
            meant = "a number in [0, 1]" if mapped else "a finite number, 0 or more"
            raise DataError(
                f"`{config.dataset_column}` of a row is {value!r}, and `{config.shown}` needs "
                f"{meant}; the mean of the others is not known of a stream",
                "repair the column, or name another one",
            )
        weight = config.at_0 + (config.at_1 - config.at_0) * value if mapped else value
        return {WEIGHT: np.float32(weight)}

    return dataset.map(weigh)
