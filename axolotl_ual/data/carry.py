"""The smoothing and the weight of a row through Axolotl's tokenisation.

Axolotl drops every source column when it tokenises, whatever the dataset type. For the time of
`carrying`, each row's values of our columns are read before its strategy sees it and put beside
what the strategy returns: one value per output row, also where a strategy turns one source row
into several.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from axolotl_ual.columns import PREFIX, SMOOTHING, STAGE, UNCERTAINTY, WEIGHT
from axolotl_ual.data.shared import SharedAnnotations
from axolotl_ual.errors import AnnotationError, DataError
from axolotl_ual.settings.ual import UALConfig, parse_ual

CARRIED: tuple[str, ...] = (SMOOTHING, UNCERTAINTY, STAGE)
"""Columns that reach the tokenised training data: the first always, the others where they are."""


class TokenWeights(Protocol):
    """Reads what the tokens of a row count."""

    def of_tokens(self, sample: Mapping[str, Any], ids: list[int]) -> list[np.float32]:
        """The weight of each token.

        Args:
            sample: the row.
            ids: its tokens, as its strategy gives them.
        """
        ...


Weigh = Callable[[Any, Any, Mapping[str, Any]], TokenWeights | None]
"""Of a strategy, its dataset and their entry of `datasets:`; None where rows are weighed whole."""
Stream = Callable[["CarryingStrategy", str, bool], Any]
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
    unsmoothed = ual.smoothing.mean == 0.0
    with carrying(
        renamed=renamed,
        shared=_shared(ual),
        weigh=weigh,
        unsmoothed=unsmoothed,
        untokenised=bool(cfg.skip_prepare_dataset),
        stream=stream,
    ):
        loaded = datasets.load_datasets(cfg=cfg, cli_args=command_line(preprocess))
    if is_streamed(loaded.train_dataset):
        line = "UAL: the training rows are streamed, each with its smoothing"
    else:
        line = _summary(loaded.train_dataset)
    get_logger(__name__).info(line)
    return loaded


def is_streamed(dataset: Any) -> bool:
    """Whether a dataset is read row by row while it is trained on."""
    return not hasattr(dataset, "__len__")


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

    Raises, from within the loading:
        AnnotationError: an entry of `datasets:` has no `ual_smoothing`, or lost it.
        DataError: a smoothing is null, not a number, or outside [0, 1].
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
            kept = (*columns, *(renamed or ()), WEIGHT)
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
        _check_values(dataset, training[-1])
        return inner_wrap(carrier(strategy, dataset, training[-1]), dataset, **kwargs)

    def carrier(strategy: Any, dataset: Any, entry: Any) -> CarryingStrategy:
        tokens = None if weigh is None else weigh(strategy, dataset, entry)
        wanted = {**{name: name for name in columns}, **(renamed or {})}
        present = {
            name: source for name, source in wanted.items() if source in dataset.column_names
        }
        return CarryingStrategy(strategy, present, tokens)

    def streaming(
        strategy: Any, dataset: Any, entry: Any, packed: bool = False, key: str = "datasets"
    ) -> Any:
        _require_smoothing(dataset, entry, key)
        made = carrier(strategy, dataset, entry)
        return made if stream is None else stream(made, _shown(entry, key), packed)

    def pack(dataset: Any, tokenizer: Any, cfg: Any, ds_wrapper_fn: Any) -> Any:
        """Axolotl tokenises a buffer of rows at a time, when they are packed."""
        key = "pretraining_dataset" if cfg.pretraining_dataset else "datasets"
        entry = cfg[key][0]
        _require_smoothing(dataset, entry, key)

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


class CarryingStrategy:
    """A tokenisation strategy that carries columns beside what the wrapped one returns.

    Has the three attributes that Axolotl's `TokenizedPromptDataset` reads.

    Args:
        strategy: Axolotl's.
        columns: the source column of each column to add.
        tokens: reads the weight of each token, which is added; None adds none.
    """

    def __init__(
        self, strategy: Any, columns: Mapping[str, str], tokens: TokenWeights | None = None
    ) -> None:
        self.strategy = strategy
        self.columns = dict(columns)
        self.tokens = tokens

    @property
    def supports_batched(self) -> bool:
        """Whether `tokenize_prompt` takes a dict of lists."""
        return bool(self.strategy.supports_batched)

    @property
    def filter_rows(self) -> Callable[..., Any] | None:
        """The strategy's own filter, which runs before tokenisation."""
        found: Callable[..., Any] | None = getattr(self.strategy, "filter_rows", None)
        return found

    def tokenize_prompt(self, prompt: Mapping[str, Any]) -> dict[str, Any]:
        """Tokenise one row, or a dict of lists, and add our columns."""
        if self.supports_batched:
            return self._tokenize_batch(prompt)
        result = dict(self.strategy.tokenize_prompt(_source(prompt)))
        result.update((name, _stored(prompt[source])) for name, source in self.columns.items())
        if self.tokens is not None:
            result[WEIGHT] = self.tokens.of_tokens(_source(prompt), result["input_ids"])
        return result

    def _tokenize_batch(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Row by row: only so is it known how many output rows a source row became."""
        source = _source(batch)
        carried = {name: list(batch[source]) for name, source in self.columns.items()}
        result: dict[str, list[Any]] = {name: [] for name in self.columns}
        for index in range(len(next(iter(carried.values())))):
            row = {key: values[index : index + 1] for key, values in source.items()}
            tokenized = self.strategy.tokenize_prompt(row)
            for key, values in tokenized.items():
                result.setdefault(key, []).extend(values)
            if self.tokens is not None:
                sample = {key: values[0] for key, values in row.items()}
                given = [self.tokens.of_tokens(sample, ids) for ids in tokenized["input_ids"]]
                result.setdefault(WEIGHT, []).extend(given)
            num_rows = len(tokenized.get("input_ids", ()))
            for name in self.columns:
                result[name].extend([_stored(carried[name][index])] * num_rows)
        return result


def _source(row: Mapping[str, Any]) -> dict[str, Any]:
    """The row as it was before it was annotated: what the strategy would see without us."""
    return {key: value for key, value in row.items() if not key.startswith(PREFIX)}


def _stored(value: Any) -> Any:
    return np.float32(value) if isinstance(value, float) else value


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


def _shown(config: Mapping[str, Any], key: str) -> str:
    """An entry of the recipe, for messages; a stream of files has the format as its path."""
    return f"{key}: `{config.get('data_files') or config.get('path')}`"


def _columns(dataset: Any) -> Sequence[str]:
    """The columns of rows; a stream of JSON tells them by its first row alone."""
    names: Sequence[str] | None = dataset.column_names
    return list(next(iter(dataset), {})) if names is None else names


def _require_smoothing(dataset: Any, config: Mapping[str, Any], key: str = "datasets") -> None:
    if SMOOTHING not in _columns(dataset):
        raise AnnotationError(
            f"{_shown(config, key)} has no column `{SMOOTHING}`, so it would be trained "
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


def smoothing_values(dataset: Any) -> npt.NDArray[np.float64]:
    """The smoothing of a dataset's rows as float64 of shape (N,), NaN for null."""
    table = dataset.select_columns([SMOOTHING]).with_format("arrow")[:]
    values: npt.NDArray[np.float64] = (
        table[SMOOTHING].to_pandas().to_numpy(dtype=np.float64, na_value=np.nan)
    )
    return values
