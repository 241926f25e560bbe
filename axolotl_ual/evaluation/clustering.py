"""How far features of rows fall into known groups.

    s_i = (b_i - a_i) / max(a_i, b_i)      in [-1, 1]            Rousseeuw 1987

    a_i  mean distance of row i to the others of its group
    b_i  the least mean distance of row i to the rows of another group

1: the groups are apart; 0: they overlap; below 0: rows are nearer to another group than to their
own. A row that is alone in its group has 0. The Silhouette coefficient is the mean over rows, so it
can be compared between models row by row.

Pictures (t-SNE, van der Maaten and Hinton 2008; UMAP, McInnes et al. 2018) show neighbourhoods.
Neither distances between groups nor their sizes mean anything in them: judge by the coefficient.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]

_PERPLEXITY = 30.0
_NEIGHBOURS = 15


def silhouettes(features: FloatArray, labels: Sequence[str]) -> FloatArray:
    """Silhouette of each row, by Euclidean distance.

    Args:
        features: (N, H).
        labels: (N,) with at least two distinct values, and fewer than N.

    Raises:
        ValueError: there are too few groups, or too many.
    """
    from sklearn.metrics import silhouette_samples

    distinct = len(set(labels))
    if not 2 <= distinct < len(labels):
        raise ValueError(
            f"{distinct} groups of {len(labels)} rows: from 2 to one less than the rows are needed"
        )
    values: FloatArray = silhouette_samples(features.astype(np.float64), np.array(labels))
    return values


def pictures(features: FloatArray, seed: int) -> dict[str, FloatArray]:
    """Rows in the plane, (N, 2) by the name of the method; UMAP where umap-learn is installed.

    Args:
        features: (N, H), N at least 4.
        seed: of both methods; equal seeds give equal pictures on one machine.
    """
    from sklearn.manifold import TSNE

    perplexity = min(_PERPLEXITY, (len(features) - 1) / 3)
    drawn = {"t-SNE": TSNE(perplexity=perplexity, init="pca", random_state=seed)}
    if importlib.util.find_spec("umap") is not None:
        from umap import UMAP

        neighbours = min(_NEIGHBOURS, len(features) - 1)
        drawn["UMAP"] = UMAP(n_neighbors=neighbours, init="random", random_state=seed, n_jobs=1)
    return {name: method.fit_transform(features) for name, method in drawn.items()}
