"""Errors of workers, as they cross processes, and what is said of their deaths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from axolotl_ual.errors import BackendError, UALError, words_of


@dataclass(frozen=True, slots=True)
class Problem:
    """An error of a worker, as it crosses processes.

    Attributes:
        kind: of the error.
        problem: what is wrong.
        fix: what the user can do.
    """

    kind: type[UALError]
    problem: str
    fix: str

    @classmethod
    def of(cls, error: UALError) -> Problem:
        """An error that was caught."""
        return cls(type(error), error.problem, error.fix)

    def throw(self) -> NoReturn:
        """Raise the error where it can be told."""
        raise self.kind(self.problem, self.fix)


def coordinator_is_gone() -> BackendError:
    """The error of a run without its coordinator, and so without its budget."""
    return BackendError(
        "the process that keeps cache and budget for all workers is gone",
        "run the same command again: what was answered is in the cache",
    )


def words_of_death(error: Exception) -> str:
    """What Ray knows of a death; of an error in the worker what it says, and not where."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, Exception):
        return f"{type(cause).__name__}: {words_of(cause)}"
    return words_of(error).partition(" Some common causes")[0]
