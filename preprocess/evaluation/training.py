"""Training one run of a grid: an ordinary Axolotl recipe in a folder of its own.

    recipe.yaml      what is trained; its output_dir is `model` beside it
    train.log        what the trainer printed
    finished.json    written when the trainer ended with status 0

A run that is finished is never trained again. One that was interrupted goes on from its last
checkpoint, where the recipe saves any. While a trainer runs it holds a lock that it inherits, so
that one which outlived a killed `ablate` is noticed.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from axolotl_ual.errors import DataError, UALError

RECIPE_FILE: Final = "recipe.yaml"
MODEL: Final = "model"
FINISHED: Final = "finished.json"
LOG: Final = "train.log"
_LOCK: Final = ".lock"
_TAIL: Final = 20


@dataclass(frozen=True, slots=True)
class Training:
    """One run to train.

    Attributes:
        folder: its own.
        recipe: all of it, with `output_dir` in the folder.
        data: digest of what it trains on.
    """

    folder: Path
    recipe: Mapping[str, Any]
    data: str

    @property
    def model(self) -> Path:
        """Where the trained model is."""
        return self.folder / MODEL

    @property
    def text(self) -> str:
        """The recipe as YAML."""
        return yaml.safe_dump(dict(self.recipe), sort_keys=False, allow_unicode=True)

    @property
    def is_finished(self) -> bool:
        """Whether this very recipe was trained to its end.

        Raises:
            DataError: another recipe was.
        """
        path = self.folder / FINISHED
        if not path.is_file():
            return False
        done = json.loads(path.read_text(encoding="utf-8"))
        if done["recipe"] != self._digest:
            raise DataError(
                f"{self.folder}: holds a finished run of another recipe than "
                f"{self._changed()} asks for",
                "choose another --output, or remove this folder to train it again",
            )
        return True

    @property
    def _digest(self) -> str:
        return hashlib.sha256(f"{self.data}\n{self.text}".encode()).hexdigest()

    def train(self, launcher: str | None) -> None:
        """Train it, and say so when it is done.

        Args:
            launcher: see `command_line`.

        Raises:
            UALError: the trainer failed, or cannot be started; names its log and shows its end.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / _LOCK).open("w") as lock:
            self._take(lock.fileno())
            self._prepare()
            command = command_line(launcher, self.folder / RECIPE_FILE)
            start = time.monotonic()
            status = self._run(command, lock.fileno())
            if status != 0:
                raise UALError(self._failure(command, status), "mend it and run `ablate` again")
            if not self.model.is_dir():
                raise UALError(
                    f"{self.folder}: the trainer ended with status 0 and left no {self.model}",
                    "does --launcher wait for the training to end?",
                )
            done = {"recipe": self._digest, "seconds": round(time.monotonic() - start, 1)}
            partial = self.folder / f".{FINISHED}.partial"
            partial.write_text(json.dumps(done) + "\n", encoding="utf-8")
            partial.replace(self.folder / FINISHED)

    def _take(self, lock: int) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UALError(
                f"{self.folder}: is being trained by a process that still runs",
                "wait for it, or end it",
            ) from None

    def _prepare(self) -> None:
        """Write the recipe; what an interrupted run of another one left is of no use."""
        path = self.folder / RECIPE_FILE
        if path.is_file() and path.read_text(encoding="utf-8") != self.text:
            shutil.rmtree(self.model, ignore_errors=True)
        path.write_text(self.text, encoding="utf-8")

    def _run(self, command: list[str], lock: int) -> int:
        with (self.folder / LOG).open("a", encoding="utf-8") as log:
            try:
                return subprocess.run(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    pass_fds=[lock],
                    check=False,
                ).returncode
            except OSError as error:
                raise UALError(
                    f"--launcher: {command[0]} cannot be started: {error.strerror}",
                    "name a command that is on the PATH",
                ) from None

    def _changed(self) -> str:
        path = self.folder / RECIPE_FILE
        before = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
        keys = sorted(
            key for key in {*before, *self.recipe} if before.get(key) != self.recipe.get(key)
        )
        return f"this ({', '.join(f'`{key}`' for key in keys) or 'its data'} differ)"

    def _failure(self, command: list[str], status: int) -> str:
        log = self.folder / LOG
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
        tail = "\n".join(f"  | {line}" for line in lines)
        return f"`{shlex.join(command)}` ended with status {status}; the end of {log}:\n{tail}"


def command_line(launcher: str | None, recipe: Path) -> list[str]:
    """How a recipe is trained.

    Args:
        launcher: a command; `{recipe}` in it is the file, which else comes last. It has to return
            when the training has ended. None: `axolotl train`.
        recipe: the file.
    """
    if launcher is None:
        return [sys.executable, "-m", "axolotl.cli.main", "train", str(recipe)]
    words = shlex.split(launcher)
    filled = [word.replace("{recipe}", str(recipe)) for word in words]
    return filled if filled != words else [*words, str(recipe)]
