"""Any other type, through Axolotl's own tokenisation with the recipe's tokenizer.

Runs of masked tokens (label -100) are the prompt and runs of trained tokens the response, both
decoded to text without special tokens, so that what is judged is what is trained. The sample of a
row is all that is trained from it: a strategy that cuts a row into several gives one sample with
the pieces one after the other, and a row that its strategy drops has no response and is an error.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from axolotl_ual.columns import IGNORE_INDEX
from axolotl_ual.errors import ConfigError, UALError, UnsupportedError, words_of

from .recipe import Entry, Recipe
from .sample import BadRow, Reader, Row, Sample, Turn, make_sample

if TYPE_CHECKING:
    from datasets import Dataset

"""The label of a token that is not trained."""

AXOLOTL_TYPES = (
    "concisechoice",
    "context_qa",
    "context_qa.load_404",
    "context_qa.load_v2",
    "creative_acr.load_answer",
    "creative_acr.load_critique",
    "creative_acr.load_revise",
    "explainchoice",
    "jeopardy",
    "llama2_chat",
    "metharme",
    "orcamini",
    "pygmalion",
    "reflection",
    "summarizetldr",
)
"""Types of Axolotl that are read here; for suggestions, where Axolotl is not installed."""

_NOT_SUPERVISED = ("bradley_terry", "stepwise_supervised", "_synthetic", "messages", "pretrain")
"""Types whose rows are no prompt and response, or that Axolotl tokenises in ways of their own."""

Decode = Callable[[Sequence[int]], str]


def masked_reader(
    table: Dataset, entry: Entry, recipe: Recipe, known: Sequence[str]
) -> Reader[Sample]:
    """A reader of a type that only Axolotl knows.

    Args:
        table: the dataset.
        entry: its entry; the type is a name.
        recipe: names the tokenizer and `sequence_len`.
        known: the types that are read without Axolotl, for suggestions.

    Raises:
        UnsupportedError: the type is not one of supervised fine-tuning.
        ConfigError: Axolotl has no such type, or refuses the recipe.
        UALError: Axolotl is not installed.
    """
    where = f"{recipe.path}: {entry.label}: type: {entry.type}"
    if str(entry.type).split(".")[0].split(":")[0] in _NOT_SUPERVISED:
        raise UnsupportedError(
            f"{where}: rows of this type are no prompt with a response",
            "annotate data of a supervised type; for conversations that is `chat_template`",
        )
    if str(entry.type).startswith("sharegpt"):
        raise ConfigError(
            f"{where}: Axolotl has this type no more",
            "write `type: chat_template`, and where messages have `from` and `value`, "
            "`field_messages: conversations` and "
            "`message_property_mappings: {role: from, content: value}`",
        )
    suggestion = _nearest(str(entry.type), [*known, *AXOLOTL_TYPES])
    with _axolotl(where, suggestion):
        config = axolotl_config(recipe, _only(entry))
        tokenizer = load_tokenizer(config)
        strategy = _strategy(table, entry, config, tokenizer)
    if strategy is None:
        raise ConfigError(f"{where}: Axolotl has no such type", suggestion)
    return Reader(_strategy_read(strategy, decoder(tokenizer), recipe), needed=())


def _nearest(name: str, known: Sequence[str]) -> str:
    named = [other for other in known if not other.endswith(".load")]
    nearest = difflib.get_close_matches(name, named, n=1, cutoff=0.5)
    if nearest:
        return f"did you mean `{nearest[0]}`?"
    return f"known: {', '.join(other for other in named if ':' not in other)}"


def tokenised_reader(recipe: Recipe) -> Reader[Sample]:
    """A reader of data that are tokenised already: input_ids, attention_mask and labels.

    Raises:
        ConfigError: Axolotl refuses the recipe.
        UALError: Axolotl is not installed.
    """
    with _axolotl(f"{recipe.path}: data that are tokenised already", ""):
        decode = decoder(load_tokenizer(axolotl_config(recipe, _only(None))))

    def read(row: Row) -> Sample:
        return make_sample(masked_turns([(row["input_ids"], row["labels"])], decode), "labels")

    return Reader(read, needed=("input_ids", "labels"))


def masked_turns(
    pieces: Sequence[tuple[Sequence[int], Sequence[int]]],
    decode: Decode,
    *,
    everything: bool = False,
) -> Iterator[Turn]:
    """Turns of tokenised text: one for each run of masked or of trained tokens.

    Args:
        pieces: (input_ids, labels) of equal length, in order.
        decode: token ids to text without special tokens.
        everything: call all of it trained, whatever the labels.
    """
    for ids, labels in pieces:
        start, before = 0, ""
        flags = [everything or label != IGNORE_INDEX for label in labels]
        for trained, run in groupby(flags):
            end = start + len(list(run))
            # A run decoded by itself can lose its leading space, so the text up to it is taken off.
            text = decode(ids[:end])
            said = text[len(before) :] if text.startswith(before) else decode(ids[start:end])
            start, before = end, text
            if said:
                yield Turn(None, said, trained)


def _strategy_read(strategy: Any, decode: Decode, recipe: Recipe) -> Callable[[Row], Sample]:
    everything = recipe.raw.get("train_on_inputs") is True

    def read(row: Row) -> Sample:
        pieces = _tokenise(strategy, row)
        turns = list(masked_turns(pieces, decode))
        if everything and not any(turn.trained for turn in turns):
            turns = list(masked_turns(pieces, decode, everything=True))
        if not any(turn.trained for turn in turns):
            raise BadRow(
                "row",
                "has nothing in it that is trained on, so there is no response to judge",
                "mend these rows; where they are longer than `sequence_len`, raise that",
            )
        return make_sample(turns, "row")

    return read


def _tokenise(strategy: Any, row: Row) -> list[tuple[list[int], list[int]]]:
    """All that Axolotl makes of a row: nothing, one sequence, or several."""
    try:
        keep = getattr(strategy, "filter_rows", None)
        if keep and not keep(dict(row)):
            raise BadRow("row", "is dropped by the strategy's `filter_rows`, so none of it trains")
        if not strategy.supports_batched:
            result = strategy.tokenize_prompt(dict(row))
            return [(result["input_ids"], result["labels"])]
        result = strategy.tokenize_prompt({key: [value] for key, value in row.items()})
        return list(zip(result.get("input_ids", []), result.get("labels", []), strict=True))
    except BadRow:
        raise
    except KeyError as error:
        raise BadRow(str(error.args[0]), "is missing") from None
    except Exception as error:  # a strategy may be the user's own, and raise anything
        raise BadRow("row", f"cannot be tokenised: {words_of(error)}") from error


def _strategy(table: Dataset, entry: Entry, config: Any, tokenizer: Any) -> Any:
    """The strategy that Axolotl would wrap the dataset in, or None where it knows none."""
    from axolotl.utils.data import wrappers

    base, _, style = str(entry.type).partition(":")
    wrap = wrappers.wrap_dataset_for_tokenized_prompt
    wrappers.wrap_dataset_for_tokenized_prompt = lambda strategy, _dataset, **_options: strategy
    try:
        strategy, _ = wrappers.get_dataset_wrapper(
            dataset_config=config.datasets[0],
            tokenizer=tokenizer,
            cfg=config,
            dataset_base_type=base,
            dataset=table,
            dataset_prompt_style=style or None,
        )
    except (ValueError, AttributeError) as error:
        if "unhandled prompt tokenization strategy" in str(error) or "has no attribute" in str(
            error
        ):
            return None
        raise
    finally:
        wrappers.wrap_dataset_for_tokenized_prompt = wrap
    return strategy


def _only(entry: Entry | None) -> dict[str, Any]:
    """One dataset, and its prompts masked whatever the recipe trains."""
    datasets = {} if entry is None else {"datasets": [entry.raw]}
    return {"train_on_inputs": False, **datasets}


def axolotl_config(recipe: Recipe, changes: Mapping[str, Any]) -> Any:
    """The recipe as Axolotl would see it, without plugins.

    Args:
        recipe: the recipe.
        changes: keys that take the place of the recipe's.
    """
    from axolotl.utils.config import normalize_cfg_datasets, validate_config
    from axolotl.utils.dict import DictDefault

    raw: dict[str, Any] = {
        key: value for key, value in recipe.raw.items() if key not in ("plugins", "ual")
    }
    config = validate_config(DictDefault({**raw, **changes}))
    config.tokenizer_config = (
        config.tokenizer_config or config.base_model_config or config.base_model
    )
    config.base_model_config = config.base_model_config or config.base_model
    normalize_cfg_datasets(config)
    return config


def load_tokenizer(config: Any) -> Any:
    """The tokenizer that Axolotl would load."""
    from axolotl import loaders

    return loaders.load_tokenizer(config)


def decoder(tokenizer: Any) -> Decode:
    """Token ids to text without special tokens."""

    def decode(ids: Sequence[int]) -> str:
        return str(
            tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    return decode


@contextmanager
def _axolotl(where: str, suggestion: str) -> Iterator[None]:
    """Explain what goes wrong between the recipe and Axolotl's strategy."""
    try:
        importlib.import_module("axolotl")
    except ImportError:
        raise UALError(
            f"{where}: this is read through Axolotl, which is not installed here",
            f"pip install 'axolotl-ual[train]'{'; ' if suggestion else ''}{suggestion}",
        ) from None
    try:
        yield
    except UALError:
        raise
    except Exception as error:  # Axolotl raises what its validators and the tokenizer do
        raise ConfigError(
            f"{where}: Axolotl cannot read this: {words_of(error)}",
            "run `axolotl preprocess` on the recipe without `plugins:` to see what it says",
        ) from error
