"""Last hidden states of held-out rows, and how far they fall into groups.

The feature of a row is the hidden state that enters the output head, at the last token of the
response, or the mean over its tokens. Rows are a seeded sample of a stated size, the same for every
run; features are kept in the durable cache.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence
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
from ..data.sample import Sample
from ..models.local.causal import LocalModel, plan_batches
from ..models.local.encoding import Encoded
from ..progress import Progress, show_progress
from .heldout import HeldOut
from .measuring import Measured
from .reading import Reader, Text
from .runs import Run

SILHOUETTE: Final = ratio("silhouette", "Silhouette of hidden states", "silhouette", "drawn", None)
_FORMAT: Final = 1
_WINDOW: Final = 128
_FEWEST: Final = 4
_SECTION: Final = "ual.evaluate.clustering"

Floats = npt.NDArray[np.float32]


@dataclass(slots=True)
class Clusters:
    """What became of the features.

    Attributes:
        by: the column that groups rows.
        rows: numbers of the rows that were drawn.
        labels: of those rows.
        pictures: method to places in the plane, by arm; of the first seed.
    """

    by: str
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
    """Add the Silhouette of every row to the sums of every run.

    Returns:
        The measure, and what else is to be shown; nothing where the settings ask for nothing.

    Raises:
        ConfigError: there is no such column, or it makes no groups.
    """
    wanted = settings.clustering
    if wanted.by is None:
        return [], None
    clusters = _draw(text, heldout, wanted, settings.seed)
    with show_progress(console, "features", len(readers) * len(clusters.rows)) as progress:
        for number, (run, reader) in enumerate(readers):
            progress.status(run.label)
            features = read_features(
                reader, text, clusters.rows, wanted, settings.batch_tokens, cache, progress
            )
            reader.release()
            values = np.zeros(len(text.samples))
            drawn = np.zeros(len(text.samples))
            values[clusters.rows] = silhouettes(features, clusters.labels)
            drawn[clusters.rows] = 1.0
            measured.sums[number].update({"silhouette": values, "drawn": drawn})
            if wanted.pictures and run.arm not in clusters.pictures:
                clusters.pictures[run.arm] = {
                    name: np.round(places.astype(np.float64), 3).tolist()
                    for name, places in pictures(features, settings.seed).items()
                }
    return [SILHOUETTE], clusters


def _draw(text: Text, heldout: HeldOut, wanted: ClusteringConfig, seed: int) -> Clusters:
    by = STAGE if wanted.by == "stage" else str(wanted.by)
    values = heldout.column(by, f"{_SECTION}.by")
    rows = np.array([row for row in np.flatnonzero(text.readable) if values[row] is not None])
    if len(rows) > wanted.rows:
        rows = np.sort(np.random.default_rng(seed).choice(rows, wanted.rows, replace=False))
    labels = [str(values[row]) for row in rows]
    if len(rows) < _FEWEST or not 2 <= len(set(labels)) < len(labels):
        raise ConfigError(
            f"{_SECTION}.by: {wanted.by}: {len(set(labels))} distinct values in {len(labels)} rows "
            "make no groups",
            "name a column with at least two values, and several rows of each",
        )
    return Clusters(str(wanted.by), [int(row) for row in rows], labels)


def read_features(
    reader: Reader,
    text: Text,
    rows: Sequence[int],
    wanted: ClusteringConfig,
    batch_tokens: int,
    cache: Cache,
    progress: Progress,
) -> Floats:
    """Features (N, H) of N rows, through the cache."""
    store = cache.values(
        {
            "kind": "evaluate-features",
            "format": _FORMAT,
            "pool": wanted.pool,
            **reader.identity(text.max_length),
        }
    )
    pairs = [
        (text.samples[row], item) for row in rows if isinstance(item := text.encoded[row], Encoded)
    ]
    found: list[Floats] = []
    for start in range(0, len(pairs), _WINDOW):
        window = pairs[start : start + _WINDOW]
        found += _window(reader, window, wanted.pool, batch_tokens, store)
        progress.advance(len(window))
    return np.stack(found)


def _window(
    reader: Reader, window: list[tuple[Sample, Encoded]], pool: str, batch_tokens: int, store: Any
) -> list[Floats]:
    known = store.find([sample for sample, _ in window])
    if all(value is not None for value in known):
        return [np.frombuffer(base64.b64decode(value), dtype=np.float32) for value in known]
    found = dict(_hidden(reader.local, [item for _, item in window], pool, batch_tokens))
    features = [found[index] for index in range(len(window))]
    store.put(
        (sample, base64.b64encode(feature.tobytes()).decode())
        for (sample, _), feature in zip(window, features, strict=True)
    )
    return features


def _hidden(
    local: LocalModel, sequences: Sequence[Encoded], pool: str, batch_tokens: int
) -> Iterator[tuple[int, Floats]]:
    """The pooled last hidden state of each sequence, in an order that suits the batches."""
    import torch

    lengths = [len(item.ids) for item in sequences]
    device = local.model.device
    for batch in plan_batches(lengths, lengths, batch_tokens, 1 << 62):
        width = max(lengths[index] for index in batch)
        ids_BL = torch.zeros(len(batch), width, dtype=torch.long)
        mask_BL = torch.zeros(len(batch), width, dtype=torch.long)
        for place, index in enumerate(batch):
            ids_BL[place, : lengths[index]] = torch.from_numpy(sequences[index].ids).long()
            mask_BL[place, : lengths[index]] = 1
        with torch.inference_mode():
            hidden_BLH = local.model(
                input_ids=ids_BL.to(device),
                attention_mask=mask_BL.to(device),
                use_cache=False,
                output_hidden_states=True,
            ).hidden_states[-1]
        for place, index in enumerate(batch):
            scored = torch.from_numpy(np.flatnonzero(sequences[index].scored))
            chosen_TH = hidden_BLH[place, scored.to(device)].float()
            pooled_H = chosen_TH[-1] if pool == "last" else chosen_TH.mean(dim=0)
            yield index, pooled_H.cpu().numpy()
