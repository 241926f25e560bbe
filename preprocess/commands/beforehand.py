"""What is known of the rows before anything is paid for: which are judged, which are trained."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.console import Console

from axolotl_ual.settings.ual import AnnotateConfig

from ..data.recipe import Recipe
from ..data.sources import Source, Unreadable, narrowed, selected
from ..data.trained import NotKnown, TrainedRows, Training, what_is_trained

_NAMED: Final = 5
"""Rows of a kind that are named on the screen."""
_DRIFT: Final = 0.01
"""Relative difference from which on a mean is said to have drifted."""
_LEAVING: Final = ("val_set_size", "dataset_exact_deduplication", "sequence_len")
"""Keys of a recipe by which rows leave on the way into training."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of all sources, N in all.

    Attributes:
        sources: with the rows and samples that are judged.
        judged: bool of shape (N,).
        untrained: rows without a trained token.
        weight: int64 of shape (N,): sequences of a row in the training set; None: not known.
        facts: for the manifest.
        whole: bool of shape (N,): rows whose sentences training would not find; None: not known.
    """

    sources: list[Source]
    judged: npt.NDArray[np.bool_]
    untrained: int = 0
    weight: npt.NDArray[np.int64] | None = None
    facts: dict[str, Any] | None = None
    whole: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, sources: list[Source]) -> Rows:
        """Rows of which no more is known than that they can be read."""
        return cls(sources, np.concatenate([source.judged for source in sources]))

    @property
    def not_judged(self) -> dict[str, int]:
        """Rows that are not judged, by reason."""
        unreadable = sum(len(source.unreadable) for source in self.sources)
        rows = sum(source.rows_read for source in self.sources)
        reasons = {
            "unreadable": unreadable,
            "no trained token": self.untrained,
            "not trained": rows - int(self.judged.sum()) - unreadable - self.untrained,
        }
        return {reason: number for reason, number in reasons.items() if number}


def look_at_rows(
    recipe: Recipe, settings: AnnotateConfig, sources: list[Source], console: Console
) -> Rows:
    """Tell which rows cannot be read and which are not trained, and leave these out.

    Args:
        recipe: the recipe.
        settings: its `annotate:` section.
        sources: its datasets.
        console: for what is found.
    """
    fate = "left out" if settings.on_unreadable == "drop" else "smoothed by the mean"
    for source in sources:
        say_unreadable(source.unreadable, console, fate)
    rows = Rows.of(sources)
    if settings.trained == "ignore":
        return rows
    try:
        training = what_is_trained(recipe, sources)
    except NotKnown as reason:
        _say(_not_known(recipe, str(reason)), console)
        return replace(rows, facts={"not_known": str(reason)})
    only = settings.trained == "only"
    _say(_told(training, sources, only), console)
    kept = [
        narrowed(source, _kept(found, only), found.changed)
        for source, found in zip(sources, training.rows, strict=True)
    ]
    untrained = np.concatenate([found.trained == 0 for found in training.rows])
    return Rows(
        kept,
        np.concatenate([source.judged for source in kept]),
        int((untrained & rows.judged).sum()),
        _weights(training),
        _facts(training),
        _whole(training),
    )


def without(recipe: Recipe, rows: Rows, dropped: npt.NDArray[np.bool_]) -> Rows:
    """The same rows, with what is trained of them once some are dropped.

    Args:
        recipe: the recipe.
        rows: N rows.
        dropped: bool of shape (N,).
    """
    if rows.weight is None:
        return rows
    sources, start = [], 0
    for source in rows.sources:
        kept = np.flatnonzero(~dropped[start : start + len(source.table)])
        start += len(source.table)
        sources.append(selected(source, kept))
    try:
        training = what_is_trained(recipe, sources)
    except NotKnown as reason:
        return replace(rows, weight=None, facts={"not_known": str(reason)})
    weight = np.zeros_like(rows.weight)
    weight[~dropped] = _weights(training)
    return replace(rows, weight=weight, facts={**(rows.facts or {}), **_counts(training)})


def _whole(training: Training) -> npt.NDArray[np.bool_]:
    each = [np.zeros(len(rows.trained), dtype=np.bool_) for rows in training.rows]
    for whole, rows in zip(each, training.rows, strict=True):
        whole[list(rows.whole)] = True
    return np.concatenate(each)


def _weights(training: Training) -> npt.NDArray[np.int64]:
    return np.concatenate([rows.weight for rows in training.rows])


def drift(rows: Rows, smoothing: npt.NDArray[np.float32], wanted: float) -> tuple[float, str]:
    """The mean smoothing over what is trained.

    Args:
        rows: with known weights.
        smoothing: float32 of shape (N,).
        wanted: the mean that the recipe asks for.

    Returns:
        The mean, and a sentence where it has drifted from what was asked for, else nothing.
    """
    weight = rows.weight
    if weight is None or not weight.sum():
        return float("nan"), ""
    mean = float((smoothing.astype(np.float64) * weight).sum() / weight.sum())
    if abs(mean - wanted) <= _DRIFT * wanted:
        return mean, ""
    return mean, (
        f"over the {int(weight.sum()):,} sequences that are trained, the mean smoothing is "
        f"{mean:.4f} and not {wanted:g}; `ual.annotate.trained: only` takes the mean over them"
    )


def _kept(rows: TrainedRows, only: bool) -> npt.NDArray[np.bool_]:
    kept = rows.trained > 0
    return kept & (rows.weight > 0) if only else kept


def say_unreadable(
    unreadable: Sequence[Unreadable], console: Console, fate: str = "left out"
) -> None:
    """Tell which rows cannot be read, and what becomes of them."""
    if unreadable:
        _say([f"{len(unreadable):,} rows cannot be read and are {fate}:"], console)
        _say(_first(str(row) for row in unreadable), console)


def _first(names: Iterable[str]) -> Iterator[str]:
    listed = list(names)
    yield from (f"    {name}" for name in listed[:_NAMED])
    if len(listed) > _NAMED:
        yield f"    ... and {len(listed) - _NAMED:,} more"


def _not_known(recipe: Recipe, reason: str) -> Iterator[str]:
    keys = [f"{key}: {recipe.raw[key]}" for key in _LEAVING if recipe.raw.get(key)]
    chats = any(str(entry.type).startswith("chat_template") for entry in recipe.entries)
    unknown = []
    if keys:
        unknown.append(f"which rows leave before training ({', '.join(keys)})")
    if chats:
        unknown.append(
            "whether the chat template writes all that is judged (thinking of earlier turns, "
            "reasoning_content, tool calls)"
        )
    if unknown:
        yield f"not known here: {'; '.join(unknown)}. {reason}"


def _told(training: Training, sources: Sequence[Source], only: bool) -> Iterator[str]:
    tokens = np.concatenate([rows.tokens for rows in training.rows])
    trained = np.concatenate([rows.trained for rows in training.rows])
    weight = np.concatenate([rows.weight for rows in training.rows])
    made = int(sum(rows.sequences.sum() for rows in training.rows))
    long = tokens > training.sequence_len
    untrained = trained == 0
    changed = sum(len(rows.changed) for rows in training.rows)
    if changed:
        yield (
            f"{changed:,} rows: what the chat template does not write of a response (thinking of "
            "earlier turns, reasoning, tool calls) is not trained, and not judged"
        )
    whole = _whole(training)
    if whole.any():
        yield (
            f"{int(whole.sum()):,} rows are smoothed as a whole: the chat template or the "
            "tokenizer writes their text in its own way, so sentences are not found in it:"
        )
        yield from _first(_names(sources, whole))
    if untrained.any():
        yield f"{int(untrained.sum()):,} rows have no trained token, and are not judged:"
        yield from _first(_names(sources, untrained))
    if long.any():
        fate = "cut by" if training.long == "truncate" else "left out of"
        yield (
            f"{int(long.sum()):,} rows are longer than sequence_len: {training.sequence_len:,}, "
            f"and {fate} training:"
        )
        yield from _first(_names(sources, long))
    if training.train < made or (weight == 0).any():
        yield _leaving(training, made, only)


def _leaving(training: Training, made: int, only: bool) -> str:
    validation = f", {training.validation:,} to the validation set" if training.validation else ""
    judged = (
        "the others are not judged, and the mean smoothing is that of what is trained"
        if only
        else "all are judged; `ual.annotate.trained: only` judges, and takes the mean over, what "
        "is trained"
    )
    return f"of {made:,} sequences {training.train:,} go to training{validation}; {judged}"


def _names(sources: Sequence[Source], which: npt.NDArray[np.bool_]) -> Iterator[str]:
    from ..data.places import locate_rows

    start = 0
    for source in sources:
        rows = [int(row) for row in np.flatnonzero(which[start : start + len(source.table)])]
        start += len(source.table)
        if rows and not source.unreadable:
            yield from locate_rows(source.entry, rows).values()
        else:
            yield from (f"{source.entry.label}: row {row}" for row in rows)


def _counts(training: Training) -> dict[str, int]:
    return {"sequences": training.train, "validation": training.validation}


def _facts(training: Training) -> dict[str, Any]:
    tokens = np.concatenate([rows.tokens for rows in training.rows])
    whole = int(_whole(training).sum())
    return {
        **_counts(training),
        **({"rows_smoothed_as_a_whole": whole} if whole else {}),
        "rows_beyond_sequence_len": int((tokens > training.sequence_len).sum()),
        "rows_not_written_whole": sum(len(rows.changed) for rows in training.rows),
    }


def _say(lines: Iterable[str], console: Console) -> None:
    for line in lines:
        console.print(line, highlight=False, markup=False)
