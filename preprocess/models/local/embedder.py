"""Sentence embeddings by a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import BackendError, UALError, words_of

from .causal import existing_model, find_device, libraries, quiet_loading


@dataclass(frozen=True)
class Embedder:
    """A sentence-embedding model.

    Attributes:
        model: a SentenceTransformer.
        batch_size: texts of a batch; they are batched by length.
    """

    model: Any
    batch_size: int = 64

    @classmethod
    def load(cls, name: str, *, key: str, device: str = "auto", batch_size: int = 64) -> Embedder:
        """Load a model from a folder, the local cache or the Hub.

        Args:
            name: folder or Hub name.
            key: the YAML section that holds `model` and `device`, for error messages.
            device: "auto" or a torch device.
            batch_size: texts of a batch.

        Raises:
            UALError: sentence-transformers is not installed.
            ConfigError: there is no such device here.
            BackendError: the model is not there or cannot be loaded.
        """
        torch, transformers = libraries()
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise UALError(
                f"{key}: embeddings need sentence-transformers: {error}",
                "pip install 'axolotl-ual[local]'",
            ) from error
        place = find_device(torch, device, f"{key}.device")
        source = existing_model(name, f"{key}.model")
        try:
            with quiet_loading(transformers):
                model = SentenceTransformer(source, device=str(place))
        except Exception as error:  # Every format and every library below has errors of its own.
            raise BackendError(
                f"{key}.model: {name!r} cannot be loaded by sentence-transformers: "
                f"{words_of(error)}",
                f"name a folder or a Hub model for sentence embeddings in `{key}.model`",
            ) from error
        return cls(model, batch_size)

    def embed(self, texts: Sequence[str]) -> npt.NDArray[np.float64]:
        """Embed texts.

        Returns:
            float64 of shape (N, H), each row of length 1, so that dot products are cosines.
        """
        if not texts:
            return np.empty((0, 0))
        vectors = self.model.encode(
            list(texts), batch_size=self.batch_size, show_progress_bar=False, convert_to_numpy=True
        ).astype(np.float64)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: npt.NDArray[np.float64] = vectors / np.maximum(lengths, np.finfo(np.float64).tiny)
        return unit
