"""The exception tree. A message names the file, row or YAML key, the value, and the fix."""

from __future__ import annotations

from typing import Final

_MOST_CHARACTERS: Final = 1200


class UALError(Exception):
    """Base of every error that axolotl-ual raises on purpose.

    Args:
        problem: what is wrong, with the file, row or key and the value.
        fix: what the user can do about it; empty where the problem says it all.
    """

    def __init__(self, problem: str, fix: str = "") -> None:
        self.problem = problem
        self.fix = fix
        super().__init__(f"{problem}\n  fix: {fix}" if fix else problem)


def words_of(error: BaseException) -> str:
    """What an error of a library says, whole and on one line.

    The useful words may stand at the end ("... because column names don't match"), so where there
    are too many, those in the middle are left out. Of a failed validation each key and its problem.
    """
    found = getattr(error, "errors", None)
    if callable(found) and type(error).__name__ == "ValidationError":
        places = [(".".join(map(str, item["loc"])), item["msg"]) for item in found()]
        said = "; ".join(f"{key}: {problem}" if key else problem for key, problem in places)
    else:
        said = " ".join(str(error).split())
    said = said or type(error).__name__
    if len(said) <= _MOST_CHARACTERS:
        return said
    half = _MOST_CHARACTERS // 2
    return f"{said[:half]} ... {said[-half:]}"


class ConfigError(UALError):
    """A YAML key is unknown, missing, out of range, or contradicts another one."""


class DataError(UALError):
    """A dataset, a file or a row cannot be read as what the recipe says it is."""


class AnnotationError(UALError):
    """The annotated copy is missing, incomplete, or was made from something else."""


class BackendError(UALError):
    """A judge server or a local model cannot be reached, refuses, or answers nonsense."""


class LimitError(UALError):
    """A limit that the user set, such as --max-cost, was reached."""


class UnsupportedError(UALError):
    """A setting of the recipe is one that this plugin cannot train with correctly."""
