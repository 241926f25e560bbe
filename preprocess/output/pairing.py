"""Pairs with their responses and scores: what the columns of `pairs` are made of."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ..data.prompt import message_array
from ..data.responses import Response, ResponseSet
from ..labels.pairs import Selection, rounded
from ..labels.stages import StageCodes

_MESSAGE: Final = pa.struct([("role", pa.string()), ("content", pa.string())])


@dataclass(frozen=True, slots=True)
class Paired:
    """The pairs of a response set, with what training reads.

    Attributes:
        selection: which responses.
        uncertainty: total of each of N responses, NaN where there is none.
        smoothing: float32 of shape (M,).
        stages: codes of shape (M,).
    """

    selection: Selection
    uncertainty: npt.NDArray[np.float64]
    smoothing: npt.NDArray[np.float32]
    stages: StageCodes


class Scored(Protocol):
    """Scores of the N responses to P prompts.

    Attributes:
        dimensions: uncertainty by dimension, of shape (N,).
        columns: further values by name, of shape (N,).
    """

    dimensions: dict[str, npt.NDArray[np.float64]]
    columns: dict[str, npt.NDArray[np.float64]]


class Pairing:
    """A response set, its scores and its pairs.

    Args:
        data: P prompts and N responses.
        scores: of the responses.
        paired: the M pairs.
    """

    def __init__(self, data: ResponseSet, scores: Scored, paired: Paired) -> None:
        self.data = data
        self.scores = scores
        self.paired = paired
        self.responses = data.flat()
        self.prompt_of = data.prompt_of()
        self.uncertainty = rounded(paired.uncertainty)
        self.chosen, self.rejected = paired.selection.chosen, paired.selection.rejected

    def said(self, kind: pa.DataType, value: Callable[[Response], Any]) -> pa.Array:
        """A value of each response."""
        return pa.array([value(response) for response in self.responses], type=kind)

    def answers(self, places: npt.NDArray[np.int64]) -> pa.Array:
        """Some of the responses as {role, content}."""
        content = pa.array([self.responses[place].text for place in places], type=pa.string())
        role = pa.array(np.full(len(places), "assistant", dtype=object), type=pa.string())
        return pa.StructArray.from_arrays([role, content], fields=list(_MESSAGE))

    def pair_messages(self) -> pa.Array:
        """The prompt of each pair."""
        prompt = self.prompt_of[self.chosen]
        used = np.unique(prompt)
        messages = message_array([self.data.prompts[place] for place in used])
        return messages.take(pa.array(np.searchsorted(used, prompt)))

    def messages(self) -> pa.Array:
        """The prompt of each response."""
        return message_array(self.data.prompts).take(pa.array(self.prompt_of))

    def pair_chats(self) -> pa.Array | None:
        """Dialogues that have more than roles and texts, with the answers that call tools."""
        found = []
        for chosen, rejected in zip(self.chosen, self.rejected, strict=True):
            prompt = self.data.prompts[self.prompt_of[chosen]]
            answers = {
                "chosen": self.responses[chosen].chat,
                "rejected": self.responses[rejected].chat,
            }
            called = {name: json.loads(chat) for name, chat in answers.items() if chat}
            dialogue = json.loads(prompt.chat) if prompt.chat else {"messages": prompt.texts()}
            chat = json.dumps({**dialogue, **called}, ensure_ascii=False)
            found.append(chat if prompt.chat or called else None)
        return texts_if_any(found)

    def chats(self) -> pa.Array | None:
        """Of each response the dialogue, where it has more than roles and texts."""
        return texts_if_any([self.data.prompts[place].chat or None for place in self.prompt_of])

    def used_as(self) -> pa.Array:
        """Of each response whether it is chosen or rejected in a pair."""
        role = np.full(len(self.responses), None, dtype=object)
        role[self.chosen] = "chosen"
        role[self.rejected] = "rejected"
        return pa.array(role, type=pa.string())

    def scored(self, name: str) -> pa.Array:
        """A value of each response; null where there is none, or none of that name at all."""
        found = floats(self.scores.columns, name)
        return pa.nulls(len(self.responses), pa.float32()) if found is None else found


def texts_if_any(values: Sequence[str | None]) -> pa.Array | None:
    """A column of texts, or None where all are null."""
    return pa.array(values, type=pa.string()) if any(values) else None


def floats(values: Mapping[str, npt.NDArray[np.float64]], name: str) -> pa.Array | None:
    """A float32 column in which NaN becomes null; None where there are no values of that name."""
    found = values.get(name)
    return None if found is None else pa.array(found.astype(np.float32), from_pandas=True)
