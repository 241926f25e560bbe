"""The smoothing and the weight of a row through Axolotl's tokenisation.

Axolotl drops every source column when it tokenises, whatever the dataset type. For the time of
`carrying`, each row's values of our columns are read before its strategy sees it and put beside
what the strategy returns (`strategy`); where its sentences have a smoothing each, one for each of
its tokens as well (`sentences`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from axolotl_ual.columns import (
    PREFIX,
    SENTENCES,
    SMOOTHING,
    STAGE,
    TOKEN_SMOOTHING,
    UNCERTAINTY,
    WEIGHT,
)
from axolotl_ual.data.sentence_column import (
    Refuse,
    num_by_sentence,
    numbered,
    refusal,
    refuse_sentences,
    refuse_tokenised,
)
from axolotl_ual.data.sentences import SentenceSmoothing
from axolotl_ual.data.shared import SharedAnnotations
from axolotl_ual.data.strategy import CarryingStrategy, TokenWeights
from axolotl_ual.data.tables import column_names, is_streamed, shown, smoothing_values
from axolotl_ual.errors import AnnotationError, DataError
from axolotl_ual.settings.ual import UALConfig, parse_ual

CARRIED: tuple[str, ...] = (SMOOTHING, UNCERTAINTY, STAGE)
"""Columns that reach the tokenised training data: the first always, the others where they are."""

Weigh = Callable[[Any, Any, Mapping[str, Any]], TokenWeights | None]
"""Of a strategy, its dataset and their entry of `datasets:`; None where rows are weighed whole."""
Stream = Callable[[CarryingStrategy, str, bool], Any]
"""Of a strategy that carries columns, the name of its data, and whether rows are packed as they are
tokenised: the strategy for rows that are streamed."""


def load_datasets(
    cfg: Any,
    preprocess: bool,
    renamed: Mapping[str, str] | None = None,
    weigh: Weigh | None = None,
    stream: Stream | None = None,
) -> Any:
    """What Axolotl's own loading returns, with the smoothing in the training data.

    Args:
        cfg: the validated recipe.
        preprocess: whether this is `axolotl preprocess`.
        renamed: columns of the user's own to carry as well, by the name they get.
        weigh: checks the weights of rows, or gives what reads those of tokens.
        stream: see `carrying`.
    """
    from axolotl.common import datasets
    from axolotl.utils.logging import get_logger

    ual = parse_ual(cfg.ual)
    unsmoothed, refuse = ual.smoothing.mean == 0.0, refusal(cfg, ual)
    with carrying(
        renamed=renamed,
        shared=_shared(ual),
        weigh=weigh,
        unsmoothed=unsmoothed,
        untokenised=bool(cfg.skip_prepare_dataset),
        stream=stream,
        refuse=refuse,
    ):
        loaded = datasets.load_datasets(cfg=cfg, cli_args=command_line(preprocess))
    refuse_sentences(
        loaded.train_dataset, TOKEN_SMOOTHING, "the prepared dataset", refusal(cfg, ual)
    )
    if is_streamed(loaded.train_dataset):
        line = "UAL: the training rows are streamed, each with its smoothing"
    else:
        line = _summary(loaded.train_dataset)
    get_logger(__name__).info(line)
    return loaded


def _shared(ual: UALConfig) -> SharedAnnotations | None:
    if ual.annotations is None:
        return None
    return SharedAnnotations(ual.annotations, ual.smoothing.mean)


def command_line(preprocess: bool) -> Any:
    """Axolotl's options, which the hook is not given and which may ask for debug output."""
    from axolotl.cli.args import PreprocessCliArgs, TrainerCliArgs
    from transformers import HfArgumentParser

    parser = HfArgumentParser(PreprocessCliArgs if preprocess else TrainerCliArgs)
    options, _ = parser.parse_args_into_dataclasses(return_remaining_strings=True)
    return options


def _summary(dataset: Any) -> str:
    values = smoothing_values(dataset)
    smoothed = int((values > 0).sum())
    mean = float(values.mean()) if values.size else 0.0
    line = f"UAL: {smoothed} of {values.size} training rows carry smoothing, mean {mean:.4f}"
    by_sentence = num_by_sentence(dataset, TOKEN_SMOOTHING)
    if by_sentence:
        line += f"; {by_sentence} of them one for each sentence"
    return line if smoothed else f"{line}; this run is plain supervised fine-tuning"


@contextmanager
def carrying(
    columns: Sequence[str] = CARRIED,
    renamed: Mapping[str, str] | None = None,
    shared: SharedAnnotations | None = None,
    weigh: Weigh | None = None,
    unsmoothed: bool = False,
    stream: Stream | None = None,
    untokenised: bool = False,
    refuse: Refuse = lambda _: None,
) -> Iterator[None]:
    """Make Axolotl's data loading keep our columns while the block runs.

    Args:
        columns: those to keep where a dataset has them.
        renamed: source columns to keep as well, by the name they get.
        shared: annotations of others, to be joined to the rows before they are tokenised.
        weigh: see `load_datasets`.
        unsmoothed: whether data without a smoothing have one of 0.
        stream: makes the strategy for rows that are streamed, which are checked one by one.
        untokenised: whether rows are not tokenised before the collator, whatever their type.
        refuse: tells why the sentences of data cannot be used; by default they can.

    Raises, from within the loading:
        AnnotationError: an entry of `datasets:` has no `ual_smoothing`, or lost it.
        DataError: a smoothing is null, not a number, or outside [0, 1]; or sentences are not those
            of the row.
        UnsupportedError: data have sentences that cannot be used.
    """
    from axolotl.utils.data import sft, wrappers

    inner_load = sft._load_and_process_single_dataset
    inner_pack = sft.wrap_streaming_dataset
    inner_wrap = wrappers.wrap_dataset_for_tokenized_prompt
    training: list[Any] = []

    def load(dataset_config: Any, *args: Any, **kwargs: Any) -> Any:
        if kwargs.get("split") != "train":
            return inner_load(dataset_config, *args, **kwargs)
        training.append(dataset_config)
        try:
            dataset, prompter = inner_load(dataset_config, *args, **kwargs)
            if is_streamed(dataset):
                return dataset, prompter
            if shared is not None and (untokenised or not dataset_config.get("type")):
                # Rows that come tokenised are wrapped in nothing, nor are those that never are.
                dataset = _joined(shared, dataset, dataset_config)
            dataset = _with_zeros(dataset) if unsmoothed else dataset
            if untokenised:
                _check_values(dataset, dataset_config)
                if weigh is not None:
                    weigh(None, dataset, dataset_config)
                dataset = with_own_columns(dataset, renamed or {})
            refuse_tokenised(dataset, dataset_config, refuse)
            kept = (*columns, *(renamed or ()), WEIGHT, TOKEN_SMOOTHING)
            return _checked(dataset, dataset_config, kept), prompter
        finally:
            training.pop()

    def wrap(strategy: Any, dataset: Any, **kwargs: Any) -> Any:
        if not training:
            return inner_wrap(strategy, dataset, **kwargs)
        if is_streamed(dataset):
            return inner_wrap(streaming(strategy, dataset, training[-1]), dataset, **kwargs)
        if shared is not None:
            dataset = _joined(shared, dataset, training[-1])
        dataset = _with_zeros(dataset) if unsmoothed else dataset
        entry, sentences = training[-1], None
        _check_values(dataset, entry)
        refuse_sentences(dataset, SENTENCES, shown(entry), refuse)
        with_numbers = numbered(dataset, entry)
        if with_numbers is not None:
            dataset, sentences = with_numbers, SentenceSmoothing(strategy, entry)
        return inner_wrap(carrier(strategy, dataset, entry, sentences), dataset, **kwargs)

    def carrier(
        strategy: Any, dataset: Any, entry: Any, sentences: SentenceSmoothing | None = None
    ) -> CarryingStrategy:
        tokens = None if weigh is None else weigh(strategy, dataset, entry)
        wanted = {**{name: name for name in columns}, **(renamed or {})}
        present = {
            name: source for name, source in wanted.items() if source in dataset.column_names
        }
        return CarryingStrategy(strategy, present, tokens, sentences)

    def streaming(
        strategy: Any, dataset: Any, entry: Any, packed: bool = False, key: str = "datasets"
    ) -> Any:
        _require_smoothing(dataset, entry, key)
        refuse_sentences(dataset, SENTENCES, shown(entry, key), refuse)
        made = carrier(strategy, dataset, entry)
        return made if stream is None else stream(made, shown(entry, key), packed)

    def pack(dataset: Any, tokenizer: Any, cfg: Any, ds_wrapper_fn: Any) -> Any:
        """Axolotl tokenises a buffer of rows at a time, when they are packed."""
        key = "pretraining_dataset" if cfg.pretraining_dataset else "datasets"
        entry = cfg[key][0]
        _require_smoothing(dataset, entry, key)
        refuse_sentences(dataset, SENTENCES, shown(entry, key), refuse)

        def join(strategy: Any, rows: Any, **kwargs: Any) -> Any:
            made = streaming(strategy, rows, entry, packed=True, key=key)
            return inner_wrap(made, rows, **kwargs)

        def tokenized(**kwargs: Any) -> Any:
            with _replaced(wrappers, "wrap_dataset_for_tokenized_prompt", join):
                return ds_wrapper_fn(**kwargs)

        return inner_pack(dataset, tokenizer, cfg, tokenized)

    with ExitStack() as stack:
        stack.enter_context(_replaced(sft, "wrap_streaming_dataset", pack))
        stack.enter_context(_replaced(sft, "_load_and_process_single_dataset", load))
        stack.enter_context(_replaced(wrappers, "wrap_dataset_for_tokenized_prompt", wrap))
        yield


def _with_zeros(dataset: Any) -> Any:
    if SMOOTHING in dataset.column_names:
        return dataset
    return dataset.add_column(SMOOTHING, np.zeros(len(dataset), dtype=np.float32))


def _joined(shared: SharedAnnotations, dataset: Any, config: Mapping[str, Any]) -> Any:
    from axolotl.utils.logging import get_logger

    joined = shared.join(dataset, str(config.get("path")))
    log, without = get_logger(__name__), joined.rows - joined.matched
    line = (
        f"UAL: `{config.get('path')}`: {joined.matched} of {joined.rows} rows have annotations in "
        f"{shared.settings.name}"
    )
    if without:
        fate = "left out" if shared.settings.on_missing == "drop" else "smoothed by the mean"
        log.warning(f"{line}; {without} without a match, {fate}")
    else:
        log.info(line)
    return joined.dataset


def with_own_columns(dataset: Any, renamed: Mapping[str, str]) -> Any:
    """Rows with columns of the user's own under the names that they have in training as well.

    Args:
        dataset: of N rows.
        renamed: the source column by the name it gets; one that the rows lack is left out, and
            missed by what would read it.
    """
    from datasets import concatenate_datasets

    own = [
        dataset.select_columns([source]).rename_column(source, name)
        for name, source in renamed.items()
        if source in dataset.column_names
    ]
    return concatenate_datasets([dataset, *own], axis=1) if own else dataset


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, original)


def _checked(dataset: Any, config: Mapping[str, Any], columns: Sequence[str]) -> Any:
    """A tokenised training set with its smoothing, and with no other column of ours."""
    names = dataset.column_names
    if SMOOTHING not in names:
        raise AnnotationError(
            f"datasets: type `{config.get('type')}` of `{config.get('path')}` lost the column "
            f"`{SMOOTHING}` on the way through Axolotl's tokenisation",
            "use another dataset type, for example chat_template, alpaca or input_output",
        )
    _check_values(dataset, config)
    return dataset.remove_columns(
        [name for name in names if name.startswith(PREFIX) and name not in columns]
    )


def _require_smoothing(dataset: Any, config: Mapping[str, Any], key: str = "datasets") -> None:
    if SMOOTHING not in column_names(dataset):
        raise AnnotationError(
            f"{shown(config, key)} has no column `{SMOOTHING}`, so it would be trained "
            "without uncertainty",
            "add `ual.annotate:` to the recipe and run `axolotl-ual annotate`, or name a dataset "
            "that has the column; pairs of a reward model may go without it with "
            "`ual.preference.smoothing: false`",
        )


def _check_values(dataset: Any, config: Mapping[str, Any]) -> None:
    _require_smoothing(dataset, config)
    where = f"datasets: `{config.get('path')}`"
    values = smoothing_values(dataset)
    wrong = np.flatnonzero(~((values >= 0.0) & (values <= 1.0)))
    if wrong.size:
        row = int(wrong[0])
        raise DataError(
            f"{where}, row {row}: `{SMOOTHING}` is {dataset[row][SMOOTHING]}, and must be a number "
            f"in [0, 1] ({wrong.size} such rows)",
            "annotate the data again, or repair the column",
        )
