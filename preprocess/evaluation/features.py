"""Last hidden states of held-out responses, and how far they fall into groups.

    by: token   the state that predicts a token, grouped by the token that follows: the classes of
                the cross entropy. Label smoothing draws each class together (Mueller et al. 2019,
                "When does label smoothing help?", arXiv 1906.02629), and the UAL paper looks for
                that clustering of tokens. The most frequent tokens of the responses are the groups.
    otherwise   the state at the last token of a response, or the mean over its tokens, grouped by a
                column of the data.

States are a seeded sample of a stated size, the same for every run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.console import Console

from axolotl_ual.columns import STAGE
from axolotl_ual.errors import ConfigError
from axolotl_ual.evaluation.clustering import pictures, silhouettes
from axolotl_ual.evaluation.predictions import Measure, ratio
from axolotl_ual.settings.evaluate import ClusteringConfig, EvaluateConfig

from ..calls.cache import Cache
from ..models.local.encoding import Encoded
from ..progress import show_progress
from .heldout import HeldOut
from .hidden import Places, read_hidden
from .measuring import Measured
from .reading import Reader, Text
from .runs import Run

SILHOUETTE: Final = ratio("silhouette", "Silhouette of hidden states", "silhouette", "drawn", None)
_TOKEN: Final = "token"
_FEWEST: Final = 4
_SECTION: Final = "ual.evaluate.clustering"

IndexArray = npt.NDArray[np.integer[Any]]


@dataclass(slots=True)
class Clusters:
    """What became of the features.

    Attributes:
        by: what groups them.
        of: what a feature is of: `rows` or `tokens`.
        rows: number of the row of each feature.
        labels: the group of each feature.
        pictures: method to places in the plane, by arm; of the first seed.
    """

    by: str
    of: str
    rows: list[int]
    labels: list[str]
    pictures: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)


def measure_clusters(
    readers: Sequence[tuple[Run, Reader]],
    text: Text,
    heldout: HeldOut,
    measured: Measured,
    settings: EvaluateConfig,
    cache: Cache,
    console: Console,
) -> tuple[list[Measure], Clusters | None]:
    """Add the Silhouettes of every row to the sums of every run.

    Returns:
        The measure, and what else is to be shown; nothing where the settings ask for nothing.

    Raises:
        ConfigError: there is no such column, or it makes no groups.
    """
    wanted = settings.clustering
    if wanted.by is None:
        return [], None
    clusters, places = _draw(text, heldout, wanted, settings.seed)
    with show_progress(console, "features", len(readers) * len(places.rows)) as progress:
        for number, (run, reader) in enumerate(readers):
            progress.status(run.label)
            features = read_hidden(reader, text, places, settings.batch_tokens, cache, progress)
            reader.release()
            values = np.zeros(len(text.samples))
            drawn = np.zeros(len(text.samples))
            np.add.at(values, clusters.rows, silhouettes(features, clusters.labels))
            np.add.at(drawn, clusters.rows, 1.0)
            measured.sums[number].update({"silhouette": values, "drawn": drawn})
            if wanted.pictures and run.arm not in clusters.pictures:
                clusters.pictures[run.arm] = {
                    name: np.round(plane.astype(np.float64), 3).tolist()
                    for name, plane in pictures(features, settings.seed).items()
                }
    return [SILHOUETTE], clusters


def _draw(
    text: Text, heldout: HeldOut, wanted: ClusteringConfig, seed: int
) -> tuple[Clusters, Places]:
    if wanted.by == _TOKEN:
        clusters, places = _draw_tokens(text, wanted, seed)
    else:
        clusters, places = _draw_rows(text, heldout, wanted, seed)
    distinct = len(set(clusters.labels))
    if len(clusters.labels) < _FEWEST or not 2 <= distinct < len(clusters.labels):
        raise ConfigError(
            f"{_SECTION}.by: {wanted.by}: {distinct} distinct values in {len(clusters.labels)} "
            f"{clusters.of} make no groups",
            "name a column with at least two values, and several rows of each",
        )
    return clusters, places


def _draw_rows(
    text: Text, heldout: HeldOut, wanted: ClusteringConfig, seed: int
) -> tuple[Clusters, Places]:
    """Rows that have a value, and the tokens of their responses."""
    by = STAGE if wanted.by == "stage" else str(wanted.by)
    values = heldout.column(by, f"{_SECTION}.by")
    readable = np.flatnonzero(text.readable)
    rows = _sample(np.array([row for row in readable if values[row] is not None]), wanted, seed)
    numbers = [int(row) for row in rows]
    scored = [np.flatnonzero(_encoded(text, row).scored) for row in numbers]
    pooled = wanted.pool == "mean"
    positions = scored if pooled else [places[-1:] for places in scored]
    labels = [str(values[row]) for row in numbers]
    return Clusters(str(wanted.by), "rows", numbers, labels), Places(numbers, positions, pooled)


def _draw_tokens(text: Text, wanted: ClusteringConfig, seed: int) -> tuple[Clusters, Places]:
    """Tokens of responses that are among the most frequent, and the positions before them."""
    rows, positions, ids = _response_tokens(text)
    counts = Counter(ids.tolist())
    classes = sorted(counts, key=lambda token: (-counts[token], token))[: wanted.tokens]
    chosen = _sample(np.flatnonzero(np.isin(ids, classes)), wanted, seed)
    rows, positions, ids = rows[chosen], positions[chosen], ids[chosen]
    names = dict(zip(classes, _names(text, classes), strict=True))
    distinct = np.unique(rows)
    places = Places(
        distinct.tolist(), [positions[rows == row] - 1 for row in distinct], pooled=False
    )
    labels = [names[token] for token in ids.tolist()]
    return Clusters(str(wanted.by), "tokens", rows.tolist(), labels), places


def _response_tokens(text: Text) -> tuple[IndexArray, IndexArray, IndexArray]:
    """Row, position and id of every scored token, in order."""
    rows, positions, ids = [], [], []
    for row in np.flatnonzero(text.readable).tolist():
        encoded = _encoded(text, row)
        scored = np.flatnonzero(encoded.scored)
        rows.append(np.full(len(scored), row))
        positions.append(scored)
        ids.append(encoded.ids[scored])
    return np.concatenate(rows), np.concatenate(positions), np.concatenate(ids)


def _names(text: Text, tokens: Sequence[int]) -> list[str]:
    """Tokens as people read them, or as the vocabulary writes them where two look alike."""
    shown = [repr(text.tokenizer.decode([token])) for token in tokens]
    if len(set(shown)) < len(shown):
        shown = [str(name) for name in text.tokenizer.convert_ids_to_tokens(list(tokens))]
    return shown


def _sample(places: IndexArray, wanted: ClusteringConfig, seed: int) -> IndexArray:
    """At most as many as are wanted, in order."""
    if len(places) <= wanted.rows:
        return places
    return np.sort(np.random.default_rng(seed).choice(places, wanted.rows, replace=False))


def _encoded(text: Text, row: int) -> Encoded:
    encoded = text.encoded[row]
    assert isinstance(encoded, Encoded), "the row is readable"
    return encoded
