"""An error of a worker, as it crosses processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NoReturn

from axolotl_ual.errors import BackendError, UALError


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
