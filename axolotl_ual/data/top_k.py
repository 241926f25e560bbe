"""The reference's prediction, computed once and kept with the prepared data.

For each trained token of a smoothed row, the most likely tokens and their log-probabilities. They
lie in a file beside Axolotl's prepared data, named by all that they follow from: tokens, labels and
which rows are smoothed, the reference, its temperature, and how many are kept.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from axolotl.utils.logging import get_logger
from torch import Tensor

from axolotl_ual.columns import REFERENCE_IDS, REFERENCE_LOGPROBS, SMOOTHING
from axolotl_ual.data.collator import predicted_places
from axolotl_ual.errors import BackendError, UnsupportedError
from axolotl_ual.losses.chunked_ce import chunk_tokens
from axolotl_ual.losses.heads import Head
from axolotl_ual.losses.prior import Reference
from axolotl_ual.losses.reference import FrozenModel
from axolotl_ual.settings.ual import SmoothingConfig

LOG = get_logger(__name__)
_BATCH_TOKENS = 4096
"""Tokens of a forward, padding included, unless one row has more."""


def with_top_k(cfg: Any, config: SmoothingConfig, dataset: Any) -> Any:
    """The training set with the reference's most likely tokens, computed where they are not kept.

    The first process of a machine computes; the others wait for the file.

    Args:
        cfg: Axolotl's validated config.
        config: the section, whose `reference_top_k` is set.
        dataset: of tokenised rows.

    Raises:
        UnsupportedError: the data are streamed, or have tokens that the reference does not.
        BackendError: the reference cannot be loaded.
    """
    from datasets import Dataset, concatenate_datasets
    from filelock import FileLock

    if not hasattr(dataset, "__len__"):
        raise UnsupportedError(
            "ual.smoothing.reference_top_k: a streaming dataset is not there before training",
            "set `streaming: false`, or take `reference_top_k` out",
        )
    path = config.reference or cfg.base_model
    folder = Path(cfg.dataset_prepared_path)
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"ual-reference-{_digest(dataset, config, path)}.arrow"
    if _local_rank() == 0:
        with FileLock(f"{file}.lock"):
            if not file.is_file():
                _write(file, _Computed(cfg, config, path, dataset))
    while not file.is_file():
        # Where the first process fails, its launcher ends the others.
        time.sleep(0.2)
    return concatenate_datasets([dataset, Dataset.from_file(str(file))], axis=1)


def _digest(dataset: Any, config: SmoothingConfig, path: str) -> str:
    digest = hashlib.sha256(
        repr((path, config.reference_top_k, config.reference_temperature)).encode()
    )
    for row in _rows(dataset):
        for part in (row["input_ids"], row["labels"], [row[SMOOTHING] > 0]):
            digest.update(np.asarray(part, dtype=np.int64).tobytes() + b"|")
    return digest.hexdigest()[:16]


def _rows(dataset: Any) -> Iterator[dict[str, Any]]:
    return iter(dataset.select_columns(["input_ids", "labels", SMOOTHING]).with_format(None))


def _write(file: Path, computed: _Computed) -> None:
    """Write under another name first: the file is whole, or it is not there."""
    from datasets import Features, Sequence, Value
    from datasets.arrow_writer import ArrowWriter

    features = Features(
        {REFERENCE_IDS: Sequence(Value("int32")), REFERENCE_LOGPROBS: Sequence(Value("float32"))}
    )
    unfinished = file.with_suffix(f".{os.getpid()}")
    with ArrowWriter(features=features, path=str(unfinished)) as writer:
        for ids_NK, logprobs_NK in computed.rows():
            writer.write(
                {REFERENCE_IDS: ids_NK.reshape(-1), REFERENCE_LOGPROBS: logprobs_NK.reshape(-1)}
            )
        writer.finalize()
    unfinished.replace(file)
    LOG.info(computed.summary())


class _Computed:
    """The prediction of a reference at every trained token of the smoothed rows of a dataset."""

    def __init__(self, cfg: Any, config: SmoothingConfig, path: str, dataset: Any) -> None:
        from axolotl.loaders.tokenizer import load_tokenizer

        vocabulary = load_tokenizer(cfg).get_vocab().values()
        self.dataset, self.temperature = dataset, config.reference_temperature
        self.device = _device()
        self.model = _load(path, cfg.torch_dtype or torch.float32).to(self.device)
        self.rows_of_head = min(max(vocabulary) + 1, Head(self.model).vocab_size)
        self.kept = min(config.reference_top_k or 1, self.rows_of_head)
        self.reference = FrozenModel(self.model, Head(self.model), self.rows_of_head)
        self.rest: list[Tensor] = []

    def summary(self) -> str:
        """How far what is kept is from all of it."""
        rest_N = torch.cat(self.rest) if self.rest else torch.zeros(1)
        return (
            f"ual.smoothing.reference_top_k: {self.kept} of {self.rows_of_head:,} tokens keep "
            f"{1 - rest_N.mean():.2%} of the reference's mass on average over "
            f"{len(rest_N) if self.rest else 0:,} smoothed tokens, {1 - rest_N.max():.2%} at the "
            "least; a token's gradient by its logits is off by at most "
            f"{2 * rest_N.mean():.3g} eps on average"
        )

    def rows(self) -> Iterator[tuple[Any, Any]]:
        """int32 and float32 arrays (N, K) for each row of the dataset; empty where eps is 0."""
        pending: list[dict[str, Any]] = []
        with self.reference.installed():
            for row in _rows(self.dataset):
                longest = max((len(one["input_ids"]) for one in [*pending, row]), default=0)
                if pending and longest * (len(pending) + 1) > _BATCH_TOKENS:
                    yield from self._batch(pending)
                    pending = []
                pending.append(row)
            if pending:
                yield from self._batch(pending)

    def _batch(self, rows: list[dict[str, Any]]) -> Iterator[tuple[Any, Any]]:
        smoothed = [row for row in rows if row[SMOOTHING] > 0]
        places = [predicted_places(row["labels"]) for row in smoothed]
        found = iter(self._predict(smoothed, places) if sum(map(len, places)) else [])
        for row in rows:
            nothing = row[SMOOTHING] <= 0 or not len(predicted_places(row["labels"]))
            yield (
                (np.empty((0, 1), np.int32), np.empty((0, 1), np.float32))
                if nothing
                else next(found)
            )

    @torch.no_grad()
    def _predict(self, rows: list[dict[str, Any]], places: list[Any]) -> list[tuple[Any, Any]]:
        longest = max(len(row["input_ids"]) for row in rows)
        ids_BT = torch.zeros((len(rows), longest), dtype=torch.int64)
        mask_BT, wanted_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT, dtype=torch.bool)
        for number, (row, place) in enumerate(zip(rows, places, strict=True)):
            ids_BT[number, : len(row["input_ids"])] = torch.as_tensor(row["input_ids"])
            mask_BT[number, : len(row["input_ids"])] = 1
            wanted_BT[number, place - 1] = True
        self._require_known(ids_BT)
        inputs = {"input_ids": ids_BT, "attention_mask": mask_BT}
        hidden_BTH = self.reference.hidden(
            self.model, (), {name: part.to(self.device) for name, part in inputs.items()}
        )
        top_NK = self._top(hidden_BTH[wanted_BT.to(self.device)])
        sizes = [len(place) for place in places if len(place)]
        ids, logprobs = (part.cpu().split(sizes) for part in top_NK)
        return [
            (one.to(torch.int32).numpy(), other.float().numpy())
            for one, other in zip(ids, logprobs, strict=True)
        ]

    def _top(self, hidden_NH: Tensor) -> tuple[Tensor, Tensor]:
        """The most likely tokens of each place and their log-probabilities, in chunks."""
        found: list[Any] = []

        def job(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            transform, tokens = self.reference.transform, chunk_tokens(weight.shape[0])
            prior = Reference(hidden, weight, bias, transform, self.temperature, self.rows_of_head)
            for start in range(0, len(hidden), tokens):
                part = slice(start, min(start + tokens, len(hidden)))
                target = prior.target(part, lambda rows: weight.new_empty(rows, weight.shape[0]))
                found.append(target.mass_CR.topk(self.kept, dim=1))
            return hidden

        self.reference.tap.run(hidden_NH, job)
        mass_NK = torch.cat([top.values for top in found])
        self.rest.append((1.0 - mass_NK.sum(dim=1)).clamp(min=0.0).cpu())
        return torch.cat([top.indices for top in found]), mass_NK.log()

    def _require_known(self, ids_BT: Tensor) -> None:
        known = self.model.get_input_embeddings().num_embeddings
        if int(ids_BT.max()) >= known:
            raise UnsupportedError(
                f"ual.smoothing.reference_top_k: the data have the token {int(ids_BT.max())}, and "
                f"the reference has {known:,} tokens",
                "take `reference_top_k` out, or name a reference with these tokens",
            )


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", _local_rank())


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _load(path: str, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    try:
        return AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
    except (OSError, ValueError) as error:
        raise BackendError(
            f"ual.smoothing.reference: {path}: cannot be loaded ({error})",
            "name the folder or the Hub name of a causal language model",
        ) from error
