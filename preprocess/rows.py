"""A dataset row as (prompt, response): what a judge reads and what training trains on.

A `Sample` is a dialogue of turns. Trained turns are the response; all others are the prompt.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Turn:
    """One piece of a sample.

    Attributes:
        role: "system", "user", "assistant", "tool", ..., or None where the data are plain text.
        text: verbatim.
        trained: whether the loss of this text is trained on.
    """

    role: str | None
    text: str
    trained: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One row: at least one trained turn with text in it."""

    turns: tuple[Turn, ...]

    @property
    def has_roles(self) -> bool:
        """Whether every turn has a role, so that a chat template can render the sample."""
        return all(turn.role is not None for turn in self.turns)
