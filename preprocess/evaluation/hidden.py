"""Last hidden states of a model, the ones that enter its output head, through the durable cache."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ..calls.cache import Cache, Values
from ..data.sample import Sample
from ..models.local.causal import LocalModel, plan_batches
from ..models.local.encoding import Encoded
from ..progress import Progress
from .reading import Reader, Text

_FORMAT: Final = 2
_WINDOW: Final = 128

Floats = npt.NDArray[np.float32]
IndexArray = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, slots=True)
class Places:
    """Where hidden states are taken.

    Attributes:
        rows: numbers of N distinct, readable rows.
        positions: of each row, the tokens whose states are taken.
        pooled: one state a row, the mean over its tokens; else one state a token.
    """

    rows: Sequence[int]
    positions: Sequence[IndexArray]
    pooled: bool

    @property
    def digest(self) -> str:
        """Of all of it."""
        digest = hashlib.sha256(str(self.pooled).encode())
        for row, positions in zip(self.rows, self.positions, strict=True):
            digest.update(f"{row}:{positions.tolist()};".encode())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class _Item:
    sample: Sample
    encoded: Encoded
    positions: IndexArray


def read_hidden(
    reader: Reader,
    text: Text,
    places: Places,
    batch_tokens: int,
    cache: Cache,
    progress: Progress,
) -> Floats:
    """Hidden states (P, H), row by row and token by token.

    Args:
        reader: has the model.
        text: the held-out rows.
        places: P of them, or N rows whose tokens are pooled.
        batch_tokens: padded tokens in a batch.
        cache: what was read before.
        progress: counts rows.

    Raises:
        BackendError: the model cannot be used.
    """
    store = cache.values(
        {
            "kind": "evaluate-features",
            "format": _FORMAT,
            "places": places.digest,
            **reader.identity(text.max_length),
        }
    )
    items = [
        _Item(text.samples[row], encoded, positions)
        for row, positions in zip(places.rows, places.positions, strict=True)
        if isinstance(encoded := text.encoded[row], Encoded)
    ]
    found: list[Floats] = []
    for start in range(0, len(items), _WINDOW):
        window = items[start : start + _WINDOW]
        found += _window(reader, window, places.pooled, batch_tokens, store)
        progress.advance(len(window))
    return np.concatenate(found)


def _window(
    reader: Reader, window: Sequence[_Item], pooled: bool, batch_tokens: int, store: Values
) -> list[Floats]:
    samples = [item.sample for item in window]
    counts = [1 if pooled else len(item.positions) for item in window]
    known = store.find(samples)
    if all(value is not None for value in known):
        return [
            np.frombuffer(base64.b64decode(value), dtype=np.float32).reshape(count, -1)
            for value, count in zip(known, counts, strict=True)
        ]
    found = dict(_hidden(reader.local, window, pooled, batch_tokens))
    states = [found[index] for index in range(len(window))]
    store.put(
        (sample, base64.b64encode(state.tobytes()).decode())
        for sample, state in zip(samples, states, strict=True)
    )
    return states


def _hidden(
    local: LocalModel, items: Sequence[_Item], pooled: bool, batch_tokens: int
) -> Iterator[tuple[int, Floats]]:
    """The states of each item, in an order that suits the batches."""
    import torch

    lengths = [len(item.encoded.ids) for item in items]
    device = local.model.device
    for batch in plan_batches(lengths, lengths, batch_tokens, 1 << 62):
        width = max(lengths[index] for index in batch)
        ids_BL = torch.zeros(len(batch), width, dtype=torch.long)
        mask_BL = torch.zeros(len(batch), width, dtype=torch.long)
        for place, index in enumerate(batch):
            ids_BL[place, : lengths[index]] = torch.from_numpy(items[index].encoded.ids).long()
            mask_BL[place, : lengths[index]] = 1
        with torch.inference_mode():
            hidden_BLH = local.model(
                input_ids=ids_BL.to(device),
                attention_mask=mask_BL.to(device),
                use_cache=False,
                output_hidden_states=True,
            ).hidden_states[-1]
        for place, index in enumerate(batch):
            positions_P = torch.from_numpy(items[index].positions).long().to(device)
            chosen_PH = hidden_BLH[place, positions_P].float()
            states_PH = chosen_PH.mean(dim=0, keepdim=True) if pooled else chosen_PH
            yield index, states_PH.cpu().numpy()
