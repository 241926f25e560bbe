"""Sentences about what deserves a look, each from a number and a threshold stated here."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np

from axolotl_ual.columns import GAP, SMOOTHING, UNCERTAINTY, Manifest

from .agreement import compare
from .annotated import estimators_agreement, repeats_agreement, repeats_of
from .bins import Values as Array
from .bins import summarise
from .figure import number, share
from .folder import Folder
from .names import LENGTH, name_of
from .paired import difference_of_lengths
from .rows import Texts
from .values import Values

COMMON: Final = 0.5
"""Share of rows with one and the same value from which on a column tells little."""
FEW: Final = 6
"""Different values at or below which a column is called coarse."""
LENGTH_BOUND: Final = 0.5
"""Absolute rank correlation with length that is worth a sentence."""
RELIABLE: Final = 0.7
"""Agreement of the scores that training reads below which repeats are advised."""
CAPPED: Final = 0.1
"""Share of rows at the cap of the smoothing that is worth a sentence."""
MISSING: Final = 0.05
"""Share of rows without an uncertainty that is worth a sentence."""
LOPSIDED: Final = 0.65
"""Share of pairs in which the same side is longer that is worth a sentence."""
_ENOUGH: Final = 20
"""Rows below which shares and correlations are noise."""


def find(folder: Folder, values: Values, texts: Texts) -> list[str]:
    """What deserves a look, as sentences."""
    return list(
        _pairs(folder, values, texts) if folder.kind == "pairs" else _rows(folder, values, texts)
    )


def _rows(folder: Folder, values: Values, texts: Texts) -> Iterator[str]:
    manifest = folder.manifest
    uncertainty = values.get(UNCERTAINTY)
    yield from _trial(manifest)
    yield from _remarks(manifest)
    yield from _missing(uncertainty, manifest)
    yield from _constant(UNCERTAINTY, uncertainty)
    yield from _follows_length(UNCERTAINTY, uncertainty, texts.length_N)
    yield from _capped(values.get(SMOOTHING), manifest)
    yield from _drifted(values.get(SMOOTHING), manifest)
    found = repeats_agreement(values, repeats_of(manifest))
    if found is not None and found.mean < RELIABLE:
        yield (
            f"The mean of {found.repeats} answers has an agreement (ICC) of "
            f"{number(found.mean, 2)}: much of what training reads is chance. More repeats or "
            "another judge would help."
        )
    for pair in estimators_agreement(values, manifest):
        if pair.rows >= _ENOUGH and pair.correlation < 0:
            yield (
                f"{name_of(pair.one)} and {name_of(pair.other)} order the rows against each other "
                f"(rank correlation {number(pair.correlation, 2)})."
            )


def _pairs(folder: Folder, values: Values, texts: Texts) -> Iterator[str]:
    manifest = folder.manifest
    yield from _trial(manifest)
    yield from _constant(GAP, values.get(GAP))
    yield from _capped(values.get(SMOOTHING), manifest)
    difference = difference_of_lengths(texts)
    known = difference[np.isfinite(difference)]
    if known.size < _ENOUGH:
        return
    for side, sign in (("longer", 1), ("shorter", -1)):
        number_of = int(np.count_nonzero(known * sign > 0))
        if number_of / known.size >= LOPSIDED:
            yield (
                f"The chosen response is the {side} one in {share(number_of, known.size)} of the "
                "pairs: training on them teaches length as well."
            )


def _trial(manifest: Manifest | None) -> Iterator[str]:
    if manifest is None:
        yield (
            "There is no manifest.json: how these rows were made, and what it cost, is not known."
        )
    elif manifest.limit is not None:
        yield f"A trial: made with --limit {manifest.limit}, not from the whole data."


def _remarks(manifest: Manifest | None) -> Iterator[str]:
    """What was said at the end of `annotate`."""
    for remark in (manifest.estimator.get("remarks") or ()) if manifest else ():
        sentence = str(remark).removeprefix("warning: ")
        yield f"{sentence[:1].upper()}{sentence[1:]}."


def _missing(uncertainty: Array, manifest: Manifest | None) -> Iterator[str]:
    rows = manifest.counts.get("rows", uncertainty.size) if manifest else uncertainty.size
    missing = int(np.count_nonzero(~np.isfinite(uncertainty)))
    if manifest is not None:
        missing = manifest.counts.get("missing", missing)
    if rows and missing / rows >= MISSING:
        yield f"{missing:,} rows ({share(missing, rows)}) have no uncertainty."


def _constant(column: str, array: Array) -> Iterator[str]:
    known = array[np.isfinite(array)]
    if known.size < _ENOUGH:
        return
    found, counts = np.unique(known, return_counts=True)
    most = int(counts.max())
    if most / known.size >= COMMON:
        value = number(float(found[counts.argmax()]), 2)
        yield (
            f"{share(most, known.size)} of the rows have the same {name_of(column)}, {value}: it "
            "tells few of them apart."
        )
    elif found.size <= FEW:
        yield f"There are only {found.size} different values of {name_of(column)}."


def _follows_length(column: str, array: Array, length: Array) -> Iterator[str]:
    found = compare(column, LENGTH, array, length)
    if found.rows >= _ENOUGH and abs(found.correlation) >= LENGTH_BOUND:
        way = "rises" if found.correlation > 0 else "falls"
        yield (
            f"{name_of(column).capitalize()} {way} with response length (rank correlation "
            f"{number(found.correlation, 2)}): compare with a model trained by length alone."
        )


def _capped(smoothing: Array, manifest: Manifest | None) -> Iterator[str]:
    settings = manifest.settings.get("smoothing") if manifest else None
    cap = settings.get("max") if isinstance(settings, dict) else None
    known = smoothing[np.isfinite(smoothing)]
    if cap is None or not known.size:
        return
    capped = at_cap(known, float(cap))
    if capped / known.size >= CAPPED:
        yield (
            f"{share(capped, known.size)} of the rows are smoothed by the most that is allowed, "
            f"{cap:g}: a greater `smoothing.max` would tell them apart."
        )


def at_cap(smoothing: Array, cap: float) -> int:
    """Rows whose smoothing is the largest allowed one."""
    return int(np.count_nonzero(smoothing >= np.float32(cap) - np.float32(1e-6)))


def _drifted(smoothing: Array, manifest: Manifest | None) -> Iterator[str]:
    settings = manifest.settings.get("smoothing") if manifest else None
    wanted = settings.get("mean") if isinstance(settings, dict) else None
    if manifest is None or wanted is None:
        return
    trained = manifest.trained.get("mean_smoothing")
    mean = summarise(smoothing).mean if trained is None else float(trained)
    if abs(mean - wanted) > 0.005:
        over = "the rows here" if trained is None else "what is trained"
        yield f"The mean smoothing of {over} is {number(mean, 4)}, and {wanted:g} was asked for."
