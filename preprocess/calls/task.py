"""A task: what is asked about an item, and how the answer is read. Who asks, and how, is not here.

Both directions are pure, so that the same task is asked live, by batches, or only counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

from ..data.sample import Sample
from ..models.server.dialect import Chat
from ..models.server.replies import Completion

Item = TypeVar("Item", contravariant=True)


class Unparsable(Exception):
    """An answer that is not what was asked for; the message says how."""


class NoLogprobs(Exception):
    """The server did not give the log-probabilities that it was asked for."""


class Reading(NamedTuple):
    """What an answer is worth.

    Attributes:
        score: in [0, 1]; None where the worth of the answer is its text.
        mass: probability that the score covers, where it comes from log-probabilities.
        text: kept in place of the completion's own.
    """

    score: float | None = None
    mass: float | None = None
    text: str | None = None


class Task(Protocol[Item]):
    """One kind of question."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Everything but the item that shapes an answer, as JSON values: the base of cache keys.

        The limit of the completion is left out where it cannot change an answer, only cut it.
        """
        ...

    @property
    def max_tokens(self) -> int:
        """Completion tokens that one answer may take."""
        ...

    @property
    def needs_logprobs(self) -> bool:
        """Whether an answer is worth nothing without log-probabilities."""
        ...

    @property
    def reminder(self) -> str:
        """What is added where an answer could not be read, for one more try; empty for none."""
        ...

    def sample(self, item: Item) -> Sample:
        """What the cache key of a question digests."""
        ...

    def chat(self, item: Item, repeat: int) -> Chat:
        """The request.

        Args:
            item: what is asked about.
            repeat: number among intended repeats.
        """
        ...

    def read(self, completion: Completion) -> Reading:
        """What an answer is worth.

        Raises:
            Unparsable: it is not what was asked for.
            NoLogprobs: log-probabilities are needed and are not there.
        """
        ...

    def read_stated(self, completion: Completion) -> Reading:
        """What an answer is worth without log-probabilities, on the same scale.

        Raises:
            Unparsable: it is not what was asked for.
        """
        ...

    def likely_tokens(self, item: Item) -> float:
        """Tokens that one completion is likely to have."""
        ...


@dataclass(slots=True)
class Question:
    """A task and an item, asked once for all places that wait for the answer.

    Attributes:
        task: what is asked.
        item: what it is asked about.
        repeat: number among intended repeats.
        rows: places that wait for the answer.
        key: in the cache; set when the cache is looked into.
        is_retry: whether an answer that is kept is to be replaced; likewise.
    """

    task: Task[Any]
    item: Any
    repeat: int
    rows: list[int]
    key: bytes = b""
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions that can be gone through several times, made as they are read.

    Attributes:
        tasks: of all of them.
        make: makes them, each time anew.
    """

    tasks: Sequence[Task[Any]]
    make: Callable[[], Iterator[Question]]

    def __iter__(self) -> Iterator[Question]:
        return self.make()
