"""A model reads held-out responses: its prediction at every token of them.

All runs read the same token ids, made by the base model's tokenizer and the recipe's chat template,
so that a difference between two runs is one of the models. What was read is kept in the durable
cache, window by window; a window is read as a whole, in the same batches whatever was kept before,
so that a run that was interrupted ends in the same bits.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import BackendError, DataError
from axolotl_ual.evaluation.predictions import Predictions
from axolotl_ual.settings.evaluate import EvaluateConfig

from ..calls.cache import Cache, Values
from ..data.sample import Sample
from ..models.local.causal import LocalModel, nll
from ..models.local.encoding import Encoded, encode
from ..models.local.generate import with_adapter
from ..progress import Progress
from ..sampling.local import identity
from .runs import Run

SECTION: Final = "ual.evaluate"
_WINDOW: Final = 256
_COLUMNS: Final = 5
_FORMAT: Final = 1
"""Of what is kept: another one is read again."""


@dataclass(frozen=True, slots=True)
class Text:
    """Held-out rows as token ids.

    Attributes:
        samples: the rows.
        encoded: of each row, or why it cannot be read.
        max_length: tokens that a row may have.
        tokenizer: that of the base model.
    """

    samples: Sequence[Sample]
    encoded: Sequence[Encoded | str]
    max_length: int
    tokenizer: Any

    @property
    def readable(self) -> npt.NDArray[np.bool_]:
        """(R,) rows with at least one token to score."""
        return np.array([isinstance(item, Encoded) for item in self.encoded], dtype=bool)

    @property
    def unreadable(self) -> dict[str, int]:
        """Rows that cannot be read, by reason."""
        return dict(Counter(item for item in self.encoded if isinstance(item, str)))

    @property
    def cut(self) -> int:
        """Rows of which a part is beyond max_length."""
        return sum(
            item.prompt_cut or item.response_cut
            for item in self.encoded
            if isinstance(item, Encoded)
        )


def load_run(run: Run, base: str, template: str | None, settings: EvaluateConfig) -> LocalModel:
    """Load the model of a run, with its adapter.

    Raises:
        UALError: it cannot be loaded, or what it needs is not installed.
    """
    key = "base_model" if run.kind != "model" else f"--runs: {run.arm}"
    local = LocalModel.load(
        run.model(base), key=key, device=settings.device, dtype=settings.dtype, section=SECTION
    )
    if template is not None:
        local.tokenizer.chat_template = template
    if run.adapter is None:
        return local
    return LocalModel(with_adapter(local.model, run.adapter, f"--runs: {run.arm}"), local.tokenizer)


def encode_rows(
    samples: Sequence[Sample], base: str, template: str | None, settings: EvaluateConfig
) -> Text:
    """Write the rows as token ids of the base model.

    Raises:
        DataError: no row at all can be read.
    """
    from transformers import AutoConfig, AutoTokenizer

    from ..models.local.causal import existing_model, libraries

    libraries()
    source = existing_model(base, "base_model")
    tokenizer = AutoTokenizer.from_pretrained(source)
    if template is not None:
        tokenizer.chat_template = template
    config = AutoConfig.from_pretrained(source).get_text_config()
    positions = getattr(config, "max_position_embeddings", None) or settings.max_length
    max_length = min(settings.max_length, int(positions))
    text = Text(samples, encode(samples, tokenizer, max_length), max_length, tokenizer)
    if not text.readable.any():
        reasons = ", ".join(f"{reason}: {number:,}" for reason, number in text.unreadable.items())
        raise DataError(f"none of the {len(samples):,} held-out rows can be read ({reasons})")
    return text


class Reader:
    """Reads rows with one run, through the cache.

    Args:
        run: the model.
        base: the base model.
        template: a chat template that takes the place of the tokenizer's, or None.
        settings: of the evaluation.
        cache: what was read before.
    """

    def __init__(
        self, run: Run, base: str, template: str | None, settings: EvaluateConfig, cache: Cache
    ) -> None:
        self._run = run
        self._base = base
        self._template = template
        self._settings = settings
        self._cache = cache
        self._local: LocalModel | None = None

    @property
    def local(self) -> LocalModel:
        """The model, loaded when it is needed."""
        if self._local is None:
            self._local = load_run(self._run, self._base, self._template, self._settings)
        return self._local

    def release(self) -> None:
        """Let go of the model."""
        self._local = None

    def identity(self, max_length: int) -> dict[str, Any]:
        """What shapes all that this run says, as JSON values."""
        return {
            "run": self._run.digest,
            "base": None if self._run.kind == "model" else identity(self._base),
            "template": self._template,
            "max_length": max_length,
            "dtype": self._settings.dtype,
        }

    def read(self, text: Text, progress: Progress) -> Predictions:
        """Predictions at the scored tokens of all rows.

        Raises:
            BackendError: the model cannot be used, or gives numbers that are not finite.
        """
        shaped = self.identity(text.max_length)
        store = self._cache.values({"kind": "evaluate-read", "format": _FORMAT, **shaped})
        values = [
            found for window in _windows(text) for found in self._window(window, store, progress)
        ]
        rows = np.flatnonzero(text.readable)
        row = np.repeat(rows, [len(item) for item in values])
        table = np.concatenate(values).astype(np.float64)
        if not np.isfinite(table).all():
            bad = int(row[int(np.flatnonzero(~np.isfinite(table).all(axis=1))[0])])
            raise BackendError(
                f"{self._run.label}: its predictions at held-out row {bad} are not finite",
                "did the training diverge? Look at its loss",
            )
        return Predictions(row, len(text.samples), *table.T)

    def _window(
        self, window: list[tuple[Sample, Encoded]], store: Values, progress: Progress
    ) -> list[npt.NDArray[np.float32]]:
        known = store.find([sample for sample, _ in window])
        if any(value is None for value in known):
            sequences = [encoded for _, encoded in window]
            found = dict(self.local.measure(sequences, _predictions, self._settings.batch_tokens))
            arrays = [found[index].astype(np.float32) for index in range(len(window))]
            store.put(
                (sample, base64.b64encode(array.tobytes()).decode())
                for (sample, _), array in zip(window, arrays, strict=True)
            )
        else:
            arrays = [
                np.frombuffer(base64.b64decode(value), dtype=np.float32).reshape(-1, _COLUMNS)
                for value in known
            ]
        progress.advance(len(window))
        return arrays


def _windows(text: Text) -> Iterator[list[tuple[Sample, Encoded]]]:
    pairs = [
        (sample, item)
        for sample, item in zip(text.samples, text.encoded, strict=True)
        if isinstance(item, Encoded)
    ]
    for start in range(0, len(pairs), _WINDOW):
        yield pairs[start : start + _WINDOW]


def _predictions(logits_NV: Any, targets_N: Any) -> Any:
    """NLL, entropy, confidence, correctness and Brier score (N, 5) of each token: a measure."""
    import torch

    logp_NV = logits_NV.log_softmax(dim=1)
    p_NV = logp_NV.exp()
    top_N, predicted_N = p_NV.max(dim=1)
    chosen_N = p_NV.gather(1, targets_N[:, None])[:, 0]
    entropy_N = torch.special.entr(p_NV).sum(dim=1)
    brier_N = (p_NV**2).sum(dim=1) - 2 * chosen_N + 1
    correct_N = (predicted_N == targets_N).to(top_N.dtype)
    return torch.stack([nll(logits_NV, targets_N), entropy_N, top_N, correct_N, brier_N], dim=1)
