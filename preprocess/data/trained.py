"""What Axolotl will train on: its own tokenisation, filters and split, run before a judge is paid.

Rows leave on the way into training: those beyond `sequence_len`, without a trained token, twice
there, or in the validation set; others become several sequences. And what a chat template does not
write is not trained. All of that is Axolotl's and the template's own doing, so both are asked.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import itertools
import logging
import os
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import IGNORE_INDEX, TOKEN_SMOOTHING
from axolotl_ual.data.strategy import CarryingStrategy
from axolotl_ual.data.token_text import num_letters
from axolotl_ual.data.trained_text import TrainedText
from axolotl_ual.errors import UALError, words_of

from .recipe import Recipe
from .rendered import only_rendered
from .sample import Sample
from .sources import Source
from .tokenised import Decode, axolotl_config, decoder, load_tokenizer

if TYPE_CHECKING:
    from datasets import Dataset

ROW: Final = "ual_row"
"""Column that carries a row's number through the tokenisation."""
KEY: Final = "ual_key"
"""Column that tells sequences apart: all of them, or those that a deduplication tells apart."""
_READ_BEFORE: Final = ("name", "data_files", "revision", "shards", "shards_idx", "ds_type", "split")
"""Keys of an entry that say which rows to read: they are read already."""
_ROWS_A_PROCESS: Final = 2_000
_BATCH: Final = 1_000


@dataclass(slots=True)
class TrainedRows:
    """What becomes of the N rows of one dataset.

    Attributes:
        sequences: int64 of shape (N,): sequences that the tokenisation makes of a row.
        tokens: int64 of shape (N,): of its longest sequence.
        trained: int64 of shape (N,): trained tokens of all its sequences.
        weight: int64 of shape (N,): its sequences in the training set. Of rows with equal tokens
            the first count as those that are left.
        changed: the samples of rows of which the chat template leaves something out, by row.
        whole: rows whose sentences training would not find, where sentences are scored: chat
            template or tokenizer write their text in their own way.
    """

    sequences: npt.NDArray[np.int64]
    tokens: npt.NDArray[np.int64]
    trained: npt.NDArray[np.int64]
    weight: npt.NDArray[np.int64]
    changed: dict[int, Sample] = field(default_factory=dict)
    whole: set[int] = field(default_factory=set)


@dataclass(slots=True)
class Training:
    """What becomes of all rows.

    Attributes:
        rows: for each dataset.
        train: sequences in the training set.
        validation: sequences that `val_set_size` takes out of it.
        sequence_len: of the recipe.
        long: `excess_length_strategy`: drop, truncate, or raise.
    """

    rows: list[TrainedRows]
    train: int
    validation: int
    sequence_len: int
    long: str


class NotKnown(Exception):
    """Why it cannot be told what Axolotl will train on."""


def what_is_trained(recipe: Recipe, sources: Sequence[Source]) -> Training:
    """Have Axolotl prepare the data as for training.

    Args:
        recipe: the recipe.
        sources: its datasets, in their order.

    Raises:
        NotKnown: Axolotl is not installed, or cannot prepare the data; with the reason.
    """
    if importlib.util.find_spec("axolotl") is None:
        raise NotKnown("Axolotl is not installed here")
    if recipe.raw.get("processor_type"):
        raise NotKnown("a processor makes tokens of rows when a batch of them is trained")
    model = str(recipe.base_model)
    if recipe.base_model is None or not (Path(model).is_dir() or "/" in model):
        raise NotKnown(f"there is no tokenizer of `base_model: {recipe.base_model}`")
    with _quietly():
        try:
            return _Preparation(recipe, sources).run()
        except UALError as error:
            raise NotKnown(error.problem) from error
        except Exception as error:  # Axolotl raises what its validators, files and strategies do.
            raise NotKnown(f"Axolotl cannot prepare the data: {words_of(error)}") from error


class _Preparation:
    """One run of Axolotl's preparation over tables that are loaded already."""

    def __init__(self, recipe: Recipe, sources: Sequence[Source]) -> None:
        self._given = sources
        self._tables = {
            f"ual-source-{number}": source.table.add_column(ROW, np.arange(len(source.table)))
            for number, source in enumerate(sources)
        }
        spelled = [
            {**{k: v for k, v in source.entry.raw.items() if k not in _READ_BEFORE}, "path": path}
            for source, path in zip(sources, self._tables, strict=True)
        ]
        self._config = axolotl_config(recipe, {"datasets": spelled, "push_dataset_to_hub": None})
        sizes = [len(source.table) for source in sources]
        if max(sizes) < _ROWS_A_PROCESS:
            self._config.dataset_num_proc = None
        self._tokenizer = load_tokenizer(self._config)
        self._sources: list[int] = []
        self._found = [_empty(size) for size in sizes]
        self._keys: list[list[tuple[int, int]]] = [[] for _ in sizes]
        self._made = 0
        self._merges_equal = bool(self._config.dataset_exact_deduplication)
        annotate = recipe.ual.annotate
        self._by_sentence = annotate is not None and annotate.unit == "sentence"

    def run(self) -> Training:
        from axolotl.utils.data import sft

        with self._own_tables():
            train, validation, _ = sft._load_and_prepare_datasets(
                self._tokenizer, self._config, split="train"
            )
        left = Counter(train[KEY])
        for rows, keys in zip(self._found, self._keys, strict=True):
            for row, key in keys:
                if left[key]:
                    left[key] -= 1
                    rows.weight[row] += 1
        return Training(
            self._found,
            len(train),
            len(validation) if validation is not None else 0,
            int(self._config.sequence_len),
            str(self._config.excess_length_strategy or "drop").lower(),
        )

    @contextlib.contextmanager
    def _own_tables(self) -> Iterator[None]:
        """Give Axolotl our tables, and look at what it makes of them before it merges them."""
        from axolotl.utils.data import sft, wrappers

        merge, wrap = sft.merge_datasets, wrappers.wrap_dataset_for_tokenized_prompt

        def load(config: Any, *_: Any, **__: Any) -> Dataset:
            self._sources.append(list(self._tables).index(config.path))
            return self._tables[config.path]

        def carry(strategy: Any, dataset: Dataset, **options: Any) -> Any:
            counter = _Characters(strategy) if self._counts(strategy) else None
            carrying = CarryingStrategy(strategy, {ROW: ROW}, sentences=counter)
            return wrap(carrying, dataset, **options)

        def look(made: Sequence[Dataset], config: Any) -> Any:
            looked = [self._look(*pair) for pair in zip(self._sources, made, strict=True)]
            return merge(looked, config)

        replaced = {
            (sft, "load_dataset_with_config"): load,
            (sft, "merge_datasets"): look,
            (sft, "load_preprocessed_dataset"): lambda *_, **__: None,
            (sft, "save_preprocessed_dataset"): lambda *_, **__: None,
            (wrappers, "wrap_dataset_for_tokenized_prompt"): carry,
        }
        stock = {place: getattr(*place) for place in replaced}
        for (module, name), value in replaced.items():
            setattr(module, name, value)
        try:
            yield
        finally:
            for (module, name), value in stock.items():
                setattr(module, name, value)

    def _counts(self, strategy: Any) -> bool:
        """Whether sentences will be looked for in what a chat template writes."""
        return self._by_sentence and hasattr(strategy, "roles_to_train")

    def _look(self, number: int, made: Dataset) -> Dataset:
        """Note what was made of the rows of a dataset, and mark each sequence."""
        rows, source = self._found[number], self._given[number]
        writing = str(source.entry.type).startswith("chat_template")
        compare = _Comparison(source, rows, decoder(self._tokenizer)) if writing else None
        keys = []
        ours = [name for name in (ROW, TOKEN_SMOOTHING) if name in made.column_names]
        for batch in made.select_columns([*ours, "input_ids", "labels"]).iter(_BATCH):
            counted = batch.get(TOKEN_SMOOTHING) or [()] * len(batch[ROW])
            columns = (batch[ROW], batch["input_ids"], batch["labels"], counted)
            for row, ids, labels, counts in zip(*columns, strict=True):
                flags = [label != IGNORE_INDEX for label in labels]
                rows.sequences[row] += 1
                rows.tokens[row] = max(rows.tokens[row], len(ids))
                rows.trained[row] += sum(flags)
                if compare is not None and any(flags):
                    compare.add(row, ids, flags, counts)
                self._made += 1
                keys.append(_key(ids, labels) if self._merges_equal else self._made)
                self._keys[number].append((row, keys[-1]))
        return made.remove_columns(ours).add_column(KEY, np.array(keys, dtype=np.int64))


class _Characters:
    """Counts the characters in which training would look for the sentences of a row."""

    def __init__(self, strategy: Any) -> None:
        self._text = TrainedText(strategy)

    def of_row(
        self, row: Mapping[str, Any], source: Mapping[str, Any], tokenized: Mapping[str, Any]
    ) -> list[npt.NDArray[np.float32]]:
        """They take the place of a smoothing, in each sequence of the row."""
        counts = self._text.characters(source, tokenized)
        sequences = len(tokenized["input_ids"]) if self._text.strategy.supports_batched else 1
        return [np.asarray(counts, dtype=np.float32)] * sequences


class _Comparison:
    """The samples of a dataset beside what is trained of their rows."""

    def __init__(self, source: Source, rows: TrainedRows, decode: Decode) -> None:
        self._rows = rows
        self._decode = decode
        self._source = source
        self._numbers = np.flatnonzero(source.judged)
        self._in_order = zip(self._numbers, source.samples, strict=True)
        self._now: tuple[int, Sample | None] = (-1, None)

    def add(
        self, row: int, ids: Sequence[int], flags: Sequence[bool], counts: Sequence[float]
    ) -> None:
        """Compare the sample of a row with its tokens, and with the characters that they write."""
        sample = self._sample(row)
        if sample is None:
            return
        kept = only_rendered(sample, [self._decode(run) for run in _runs(ids, flags)])
        if kept is None:
            self._rows.trained[row] = 0
        elif kept is not sample:
            self._rows.changed[row] = kept
        if kept is not None and counts and _num_letters(kept) not in counts:
            self._rows.whole.add(row)

    def _sample(self, row: int) -> Sample | None:
        """The sample of a row; rows mostly come in their order, and some are not judged."""
        while self._now[0] < row:
            self._now = next(self._in_order, (row, None))
        if self._now[0] == row:
            return self._now[1]
        place = int(np.searchsorted(self._numbers, row))
        found = place < len(self._numbers) and self._numbers[place] == row
        return self._source.samples[place] if found else None


def _num_letters(sample: Sample) -> int:
    return sum(num_letters(turn.text) for turn in sample.turns if turn.trained)


def _empty(rows: int) -> TrainedRows:
    counts = [np.zeros(rows, dtype=np.int64) for _ in range(4)]
    return TrainedRows(counts[0], counts[1], counts[2], counts[3])


def _runs(ids: Sequence[int], flags: Sequence[bool]) -> Iterator[list[int]]:
    """The runs of trained tokens."""
    for trained, run in itertools.groupby(zip(ids, flags, strict=True), key=lambda pair: pair[1]):
        if trained:
            yield [token for token, _ in run]


def _key(ids: Sequence[int], labels: Sequence[int]) -> int:
    digest = hashlib.blake2b(np.array([len(ids), *ids, *labels], dtype=np.int64).tobytes())
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """No logging of Axolotl's, no telemetry, and no tokenised copies in the cache of `datasets`."""
    import datasets

    os.environ.setdefault("AXOLOTL_DO_NOT_TRACK", "1")
    caching = datasets.is_caching_enabled()
    bars = not datasets.are_progress_bars_disabled()
    datasets.disable_caching()
    datasets.disable_progress_bars()
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        if caching:
            datasets.enable_caching()
        if bars:
            datasets.enable_progress_bars()
