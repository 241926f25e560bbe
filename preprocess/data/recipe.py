"""An Axolotl recipe as a typed request: which datasets, read how, annotated with what settings.

Only what annotation needs is read, and only that is checked; every other key of the recipe is
Axolotl's business and passes untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from axolotl_ual.data.fingerprint import DEFAULT_SEED
from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.ual import UALConfig, parse_ual


@dataclass(frozen=True, slots=True)
class Entry:
    """One dataset of the recipe.

    An entry with a list of names is several datasets, as in Axolotl. `preprocess_shards` makes no
    difference here: it is how Axolotl tokenises one whole dataset piece by piece, and it does so
    with the annotated copy as well.

    Attributes:
        index: position among all entries, after the expansion of lists of names.
        raw: the entry as the recipe spells it, with a single `name`.
        path: file, folder, Hub name or URL.
        type: name of a prompt strategy, the fields of a custom one, or None where the data are
            tokenised already.
        label: short name for messages and files.
        token: the recipe's `hf_use_auth_token`.
    """

    index: int
    raw: dict[str, Any]
    path: str
    type: str | dict[str, Any] | None
    label: str
    token: bool | str | None = None


@dataclass(frozen=True, slots=True)
class Recipe:
    """An Axolotl recipe with a `ual:` block.

    Attributes:
        path: the YAML file.
        raw: all of it.
        base_model: None where the recipe names none.
        seed: Axolotl's, which decides what lies in a shard.
        ual: the `ual:` block, validated.
        entries: the datasets, at least one.
    """

    path: Path
    raw: dict[str, Any]
    base_model: str | None
    seed: int
    ual: UALConfig
    entries: list[Entry]


PREFERENCE_TRAINING = ("dpo", "ipo", "simpo")
"""Values of `rl:` that train on pairs."""


def load_recipe(path: str | Path, for_pairs: bool = False) -> Recipe:
    """Read a recipe.

    Args:
        path: the YAML file.
        for_pairs: the datasets are prompts to make preference pairs from; there may be none, where
            the responses were sampled elsewhere.

    Raises:
        ConfigError: the file cannot be read, or a key that annotation needs is wrong.
    """
    path = Path(path)
    raw = read_yaml(path)
    _refuse_other_training(raw, path, for_pairs)
    no_data = for_pairs and raw.get("datasets") is None
    return Recipe(
        path=path,
        raw=raw,
        base_model=_typed(raw, "base_model", str, f"{path}: base_model"),
        seed=_seed(raw, path),
        ual=parse_ual(raw.get("ual"), where=f"{path}: ual"),
        entries=[] if no_data else read_entries(raw, path),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises:
        ConfigError: it cannot be read, or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file", "name the recipe's YAML file") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder", "name the recipe's YAML file in it") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not a YAML text: {error}", "save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {_yaml_problem(error)}", "mend the YAML") from None
    if not isinstance(raw, dict):
        kind = "is empty" if raw is None else f"holds a {type(raw).__name__}"
        raise ConfigError(f"{path}: {kind}, and a recipe is a mapping of keys to values")
    return raw


def _yaml_problem(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem or 'bad YAML'}"
    return " ".join(str(error).split())


def _refuse_other_training(raw: Mapping[str, Any], path: Path, for_pairs: bool) -> None:
    """Stop at recipes whose data are no finite set of (prompt, response) rows, or of prompts."""
    if for_pairs and raw.get("rl") not in (None, *PREFERENCE_TRAINING):
        raise ConfigError(
            f"{path}: rl: {raw['rl']}: does not train on preference pairs",
            f"set it to one of {', '.join(PREFERENCE_TRAINING)}",
        )
    if raw.get("rl") and not for_pairs:
        raise ConfigError(
            f"{path}: rl: {raw['rl']}: such a recipe trains on preference pairs or rewards, and "
            "`annotate` judges the samples of supervised fine-tuning",
            "take `rl:` out, or annotate the supervised dataset in a recipe of its own",
        )
    for key in ("reward_model", "process_reward_model"):
        if raw.get(key):
            raise ConfigError(
                f"{path}: {key}: true: reward models learn from labels, and `annotate` judges the "
                "samples of supervised fine-tuning",
                f"take `{key}:` out",
            )
    for key in ("pretraining_dataset", "streaming"):
        if raw.get(key):
            raise ConfigError(
                f"{path}: {key}: the data are streamed, and the mean smoothing is taken over a "
                "dataset of known size",
                "name the data under `datasets:`, without `streaming:`; training may stream the "
                "annotated copy",
            )


def read_entries(raw: Mapping[str, Any], path: Path, key: str = "datasets") -> list[Entry]:
    """The datasets of a recipe.

    Args:
        raw: the recipe.
        path: its file, for messages.
        key: `datasets`, or another key that is spelled like it.

    Raises:
        ConfigError: naming the entry and its key.
    """
    datasets = raw.get(key)
    if datasets is None:
        raise ConfigError(
            f"{path}: {key}: this key is needed",
            f"add for example\n    {key}:\n      - path: data.jsonl\n        type: alpaca",
        )
    if not isinstance(datasets, list) or not datasets:
        raise ConfigError(
            f"{path}: {key}: must be a list of at least one dataset, not {datasets!r}",
            "begin each dataset with a dash: `- path: ...`",
        )
    expanded = [
        (where, entry)
        for number, spelled in enumerate(datasets)
        for where in [f"{path}: {key}[{number}]"]
        for entry in _expand(spelled, where)
    ]
    token = raw.get("hf_use_auth_token")
    return [
        _entry(index, entry, where, cast("bool | str | None", token))
        for index, (where, entry) in enumerate(expanded)
    ]


def _expand(spelled: Any, where: str) -> Iterator[dict[str, Any]]:
    if not isinstance(spelled, dict):
        raise ConfigError(
            f"{where}: must be a mapping with `path` and `type`, not {spelled!r}",
            "write for example `- path: data.jsonl` and below it `type: alpaca`",
        )
    names = spelled.get("name")
    if isinstance(names, list) and names:
        for name in names:
            yield {**deepcopy(spelled), "name": name}
    else:
        yield deepcopy(spelled)


def _entry(index: int, raw: dict[str, Any], where: str, token: bool | str | None) -> Entry:
    path = _typed(raw, "path", str, f"{where}.path")
    if not path:
        raise ConfigError(
            f"{where}.path: this key is needed", "name a file, a folder or a dataset on the Hub"
        )
    kind = raw.get("type")
    if kind is not None and not isinstance(kind, (str, dict)):
        raise ConfigError(f"{where}.type: must be a name or a mapping, not {kind!r}")
    for key in ("split", "name", "revision", "ds_type"):
        _typed(raw, key, str, f"{where}.{key}")
    _check_files(raw.get("data_files"), where)
    _check_shards(raw, where)
    return Entry(index, raw, path, kind or None, _label(path, raw), token)


def _check_files(files: Any, where: str) -> None:
    """Axolotl takes a name or a list; `datasets` alone would take one for each split."""
    if files is None or isinstance(files, str):
        return
    if isinstance(files, Mapping):
        raise ConfigError(
            f"{where}.data_files: must be a name or a list of names, not a mapping of splits",
            "name the files of the split that is meant, as `data_files: [a.jsonl]`; another split "
            "is another entry of the list. These files are then the split `train`",
        )
    if not isinstance(files, list) or not all(isinstance(name, str) for name in files):
        raise ConfigError(f"{where}.data_files: must be a name or a list of names, not {files!r}")


def _check_shards(raw: Mapping[str, Any], where: str) -> None:
    shards = _typed(raw, "shards", int, f"{where}.shards")
    index = _typed(raw, "shards_idx", int, f"{where}.shards_idx") or 0
    if shards is not None and shards < 0:
        raise ConfigError(f"{where}.shards: {shards} is not a number of shards")
    if shards and not 0 <= index < shards:
        raise ConfigError(
            f"{where}.shards_idx: {index} is outside 0 to {shards - 1} (`shards: {shards}`)"
        )


def _label(path: str, raw: Mapping[str, Any]) -> str:
    """The last part of a local path or URL, the whole of a Hub name."""
    trimmed = path.rstrip("/")
    on_the_hub = trimmed.count("/") == 1 and not Path(path).exists() and not trimmed.startswith(".")
    label = trimmed if on_the_hub else trimmed.rsplit("/", 1)[-1]
    name = raw.get("name")
    return f"{label or path}:{name}" if name else label or path


def _seed(raw: Mapping[str, Any], path: Path) -> int:
    seed = _typed(raw, "seed", int, f"{path}: seed")
    return DEFAULT_SEED if seed is None else seed


def _typed(raw: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = raw.get(key)
    if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
        names = {str: "a text", int: "a whole number"}
        raise ConfigError(f"{where}: must be {names[kind]}, not {value!r}")
    return value
