"""The exception tree. A message names the file, row or YAML key, the value, and the fix."""

from __future__ import annotations


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
