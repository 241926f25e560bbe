"""A tokenisation strategy of Axolotl's that keeps our columns.

Axolotl drops every source column when it tokenises, whatever the dataset type. Here each row's
values are read before its strategy sees it and put beside what the strategy returns: one value per
output row, also where a strategy turns one source row into several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import PREFIX, TOKEN_SMOOTHING, WEIGHT


class TokenWeights(Protocol):
    """Reads what the tokens of a row count."""

    def of_tokens(self, sample: Mapping[str, Any], ids: list[int]) -> list[np.float32]:
        """The weight of each token.

        Args:
            sample: the row.
            ids: its tokens, as its strategy gives them.
        """
        ...


class TokenSmoothing(Protocol):
    """Reads the smoothing of the tokens of a row."""

    def of_row(
        self, row: Mapping[str, Any], source: Mapping[str, Any], tokenized: Mapping[str, Any]
    ) -> Sequence[npt.NDArray[np.float32]]:
        """The smoothing of each token of each sequence that was made of a row.

        Args:
            row: our columns of it.
            source: the row as its strategy takes it.
            tokenized: what the strategy made of it: one sequence, or a list of them.

        Returns:
            float32 of the length of each sequence; or of none, where the row's counts.
        """
        ...


class CarryingStrategy:
    """A tokenisation strategy that carries columns beside what the wrapped one returns.

    Has the three attributes that Axolotl's `TokenizedPromptDataset` reads.

    Args:
        strategy: Axolotl's.
        columns: the source column of each column to add.
        tokens: reads the weight of each token, which is added; None adds none.
        sentences: reads the smoothing of each token, likewise.
    """

    def __init__(
        self,
        strategy: Any,
        columns: Mapping[str, str],
        tokens: TokenWeights | None = None,
        sentences: TokenSmoothing | None = None,
    ) -> None:
        self.strategy = strategy
        self.columns = dict(columns)
        self.tokens = tokens
        self.sentences = sentences

    @property
    def supports_batched(self) -> bool:
        """Whether `tokenize_prompt` takes a dict of lists."""
        return bool(self.strategy.supports_batched)

    @property
    def filter_rows(self) -> Callable[..., Any] | None:
        """The strategy's own filter, which runs before tokenisation."""
        found: Callable[..., Any] | None = getattr(self.strategy, "filter_rows", None)
        return found

    def tokenize_prompt(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        """Tokenise one row, or a dict of lists, and add our columns."""
        if self.supports_batched:
            return self._tokenize_batch(prompt)
        sample = _source(prompt)
        result = dict(self.strategy.tokenize_prompt(sample))
        if self.sentences is not None:
            (result[TOKEN_SMOOTHING],) = self.sentences.of_row(prompt, sample, result)
        result.update((name, _stored(prompt[source])) for name, source in self.columns.items())
        if self.tokens is not None:
            result[WEIGHT] = self.tokens.of_tokens(sample, result["input_ids"])
        return result

    def _tokenize_batch(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Row by row: only so is it known how many output rows a source row became."""
        source = _source(batch)
        carried = {name: list(batch[source]) for name, source in self.columns.items()}
        result: dict[str, list[Any]] = {name: [] for name in self.columns}
        for index in range(len(next(iter(carried.values())))):
            row = {key: values[index : index + 1] for key, values in source.items()}
            tokenized = self.strategy.tokenize_prompt(row)
            for key, values in tokenized.items():
                result.setdefault(key, []).extend(values)
            if self.sentences is not None:
                ours = {key: values[index] for key, values in batch.items()}
                found = self.sentences.of_row(ours, row, tokenized)
                result.setdefault(TOKEN_SMOOTHING, []).extend(found)
            if self.tokens is not None:
                sample = {key: values[0] for key, values in row.items()}
                given = [self.tokens.of_tokens(sample, ids) for ids in tokenized["input_ids"]]
                result.setdefault(WEIGHT, []).extend(given)
            num_rows = len(tokenized.get("input_ids", ()))
            for name in self.columns:
                result[name].extend([_stored(carried[name][index])] * num_rows)
        return result


def _source(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as it was before it was annotated: what the strategy would see without us."""
    return {key: value for key, value in row.items() if not key.startswith(PREFIX)}


def _stored(value: Any) -> Any:
    return np.float32(value) if isinstance(value, float) else value
