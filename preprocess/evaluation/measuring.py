"""Every run on every held-out row: predictions, responses, and the arms they make."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.console import Console

from axolotl_ual.errors import ConfigError
from axolotl_ual.evaluation.comparison import Arm
from axolotl_ual.evaluation.groups import ALL, by_quantile, by_value
from axolotl_ual.evaluation.predictions import sum_by_row
from axolotl_ual.evaluation.resampling import FloatArray
from axolotl_ual.settings.evaluate import EvaluateConfig

from ..calls.cache import Cache
from ..progress import show_progress
from .generation import Response, generate
from .heldout import HeldOut, find_answer, stage_and_uncertainty
from .reading import Reader, Text
from .runs import BASE, Run, make_arms

BoolArray = npt.NDArray[np.bool_]


@dataclass(slots=True)
class Measured:
    """What was measured.

    Attributes:
        runs: in order.
        sums: by row, of each run.
        answered: rows with a right answer that responses were generated for.
        responses: of each run, for `generated` rows.
        generated: numbers of the rows that responses were generated for.
    """

    runs: Sequence[Run]
    sums: list[dict[str, FloatArray]] = field(default_factory=list)
    answered: int = 0
    responses: list[list[Response]] = field(default_factory=list)
    generated: list[int] = field(default_factory=list)

    @property
    def arms(self) -> list[Arm]:
        """Runs of one name together, in the order of the names."""
        return make_arms(self.runs, self.sums)


def measure_runs(
    readers: Sequence[tuple[Run, Reader]],
    text: Text,
    heldout: HeldOut,
    settings: EvaluateConfig,
    cache: Cache,
    console: Console,
) -> Measured:
    """Read the held-out rows with every run, and answer those that have a right answer."""
    answers = heldout.answers(settings.answers)
    rows = [int(row) for row in np.flatnonzero(text.readable)[: settings.generation.rows]]
    answered = [row for row in rows if answers[row] is not None]
    asked = rows if settings.judge is not None or settings.sentiment else answered
    measured = Measured([run for run, _ in readers], answered=len(answered), generated=asked)
    total = len(readers) * (int(text.readable.sum()) + len(asked))
    with show_progress(console, "measuring", total) as progress:
        for run, reader in readers:
            progress.status(run.label)
            sums = sum_by_row(reader.read(text, progress))
            if asked:
                said = generate(reader, text, asked, settings.generation, cache, progress)
                sums.update(_exact(said, asked, answers, len(text.samples), settings))
                measured.responses.append(said)
            measured.sums.append(sums)
            reader.release()
    return measured


def _exact(
    responses: Sequence[Response],
    rows: Sequence[int],
    answers: Sequence[str | None],
    num_rows: int,
    settings: EvaluateConfig,
) -> dict[str, FloatArray]:
    answered, exact = np.zeros(num_rows), np.zeros(num_rows)
    for row, response in zip(rows, responses, strict=True):
        if answers[row] is None:
            continue
        answered[row] = 1.0
        exact[row] = find_answer(response.text, settings.answers.pattern) == answers[row]
    return {"answered": answered, "exact": exact}


def group_rows(
    heldout: HeldOut, measured: Measured, text: Text, settings: EvaluateConfig
) -> dict[str, BoolArray]:
    """Groups of readable rows: all, by stage, by uncertainty, and by the columns of `by`.

    Raises:
        ConfigError: there is no such column, or it makes too many groups.
    """
    place = next((i for i, run in enumerate(measured.runs) if run.kind == BASE), 0)
    sums = measured.sums[place]
    tokens = np.asarray(sums["tokens"])
    entropy = np.where(tokens > 0, sums["entropy"] / np.maximum(tokens, 1.0), np.nan)
    stages, uncertainty, called = stage_and_uncertainty(heldout, entropy, measured.runs[place].arm)
    groups: dict[str, BoolArray] = {ALL: np.ones(len(text.samples), dtype=bool)}
    if stages is not None:
        groups.update(by_value("stage", stages))
    groups.update(by_quantile(called, uncertainty, settings.quantiles))
    for name in settings.by:
        groups.update(_by_column(name, heldout.column(name, "ual.evaluate.by"), settings))
    readable = text.readable
    return {name: members & readable for name, members in groups.items()}


def _by_column(name: str, values: list[Any], settings: EvaluateConfig) -> dict[str, BoolArray]:
    numbers = [value for value in values if value is not None]
    if numbers and all(isinstance(v, int | float) and not isinstance(v, bool) for v in numbers):
        known = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        return by_quantile(name, known, settings.quantiles)
    try:
        return by_value(name, values)
    except ValueError as error:
        raise ConfigError(
            f"ual.evaluate.by: {name}: {error}", "name a column with fewer values, or a number"
        ) from None
