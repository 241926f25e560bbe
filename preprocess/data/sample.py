"""A dataset row as (prompt, response): what a judge reads and what training trains on.

A `Sample` is a dialogue of turns. Trained turns are the response; all others are the prompt.
`train_on_inputs: true` makes Axolotl train on the prompt as well and changes no sample: what is
judged stays the response. Only where a row has no response of its own (no segment of an
`input_output` row is labelled, say) is all of it the response.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from .image import Image

Row = Mapping[str, Any]
"""One row of a dataset: column names to values; None where the row has no such key."""

T_co = TypeVar("T_co", covariant=True)

_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class Turn:
    """One piece of a sample.

    Attributes:
        role: "system", "user", "assistant", "tool", ..., or None where the data are plain text.
        text: verbatim.
        trained: whether the loss of this text is trained on.
        continues: whether this goes on with the message of the turn before: a message of which
            only a part is trained is several turns, and so is one with images.
        image: that is shown in the place of a text, which is empty then.
    """

    role: str | None
    text: str
    trained: bool
    continues: bool = False
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class Sample:
    """One row: at least one trained turn with text in it.

    Attributes:
        turns: in their order.
        has_images: whether the row has images, shown in turns or left out.
        images_beyond: images of a column behind the first, which Axolotl does not train.
    """

    turns: tuple[Turn, ...]
    has_images: bool = False
    images_beyond: int = 0

    @property
    def images(self) -> list[Image]:
        """The images that are shown in turns, in their order."""
        return [turn.image for turn in self.turns if turn.image is not None]

    @property
    def has_roles(self) -> bool:
        """Whether every turn has a role, so that a chat template can render the sample."""
        return all(turn.role is not None for turn in self.turns)


class BadRow(Exception):
    """A row that cannot be read.

    Args:
        key: where in the row, `messages[1].content` for example.
        problem: what is wrong there, with the value.
        fix: what the user can do about it.
    """

    def __init__(self, key: str, problem: str, fix: str = "") -> None:
        self.key = key
        self.problem = problem
        self.fix = fix
        super().__init__(f"`{key}` {problem}")


@dataclass(frozen=True, slots=True)
class Reader(Generic[T_co]):
    """How rows of one type become samples, or prompts.

    Attributes:
        read: one row to one of them; raises BadRow.
        needed: columns that must be there.
        optional: columns that are read where they are there.
        hint: what to do where a needed column is missing.
    """

    read: Callable[[Row], T_co]
    needed: tuple[str, ...]
    optional: tuple[str, ...] = ()
    hint: str = ""


def make_sample(
    turns: Iterable[Turn], key: str, has_images: bool = False, images_beyond: int = 0
) -> Sample:
    """A sample of these turns.

    Args:
        turns: in their order.
        key: where the response lies in the row.
        has_images: whether the row has images.
        images_beyond: images of a column that are neither trained nor shown.

    Raises:
        BadRow: nothing is trained, or there is only white space in what is.
    """
    kept = tuple(turns)
    response = [turn.text for turn in kept if turn.trained]
    if not response:
        raise BadRow(key, "has nothing in it that is trained on, so there is no response to judge")
    if not any(text and not text.isspace() for text in response):
        raise BadRow(key, f"is an empty response: {shorten(''.join(response))}")
    return Sample(kept, has_images, images_beyond)


def text_of(value: Any, key: str) -> str:
    """The value where it is a text.

    Raises:
        BadRow: naming the key and what is there in its place.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise BadRow(key, "is missing or null")
    raise BadRow(key, f"is {kind_of(value)} and not a text: {shorten(value)}")


def kind_of(value: Any) -> str:
    """What JSON calls a value, with its article."""
    if value is None:
        return "null"
    for kinds, name in (
        (str, "a string"),
        (bool, "a boolean"),
        ((int, float), "a number"),
        (Mapping, "an object"),
        ((list, tuple), "a list"),
    ):
        if isinstance(value, kinds):
            return name
    return f"a {type(value).__name__}"


def shorten(value: Any) -> str:
    """The value as Python writes it, cut to one short line."""
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[: _SHOWN - 4]} ..."
