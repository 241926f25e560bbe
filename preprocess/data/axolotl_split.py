"""Asks Axolotl which rows it sets apart for validation, in a process of its own.

    python -m axolotl_ual.preprocess.data.axolotl_split RECIPE.json ROWS.json

Every dataset of the recipe has a column `row_number`. It is carried through Axolotl's own loading,
tokenisation, shuffling and splitting; the numbers in the validation set are written to ROWS.json.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

NUMBER: Final = "row_number"


class _Numbered:
    """A tokenisation strategy that keeps the number of the row.

    Has the attributes that Axolotl's `TokenizedPromptDataset` reads. It takes rows one by one, also
    where the strategy would take several, so that each output row is known to be of its source.
    """

    supports_batched = True

    def __init__(self, strategy: Any) -> None:
        self._strategy = strategy
        self.filter_rows = getattr(strategy, "filter_rows", None)

    def tokenize_prompt(self, batch: Mapping[str, Any]) -> dict[str, list[Any]]:
        result: dict[str, list[Any]] = {NUMBER: []}
        for index, number in enumerate(batch[NUMBER]):
            row = {key: values[index] for key, values in batch.items() if key != NUMBER}
            if self._strategy.supports_batched:
                found = self._strategy.tokenize_prompt({key: [v] for key, v in row.items()})
            else:
                one = self._strategy.tokenize_prompt(row)
                found = {key: [value] for key, value in one.items()}
            for key, values in found.items():
                result.setdefault(key, []).extend(values)
            result[NUMBER].extend([number] * len(found.get("input_ids", ())))
        return result


def validation_rows(recipe: Mapping[str, Any]) -> list[int]:
    """The numbers of the rows that Axolotl would evaluate on."""
    from axolotl.common import datasets
    from axolotl.utils.config import normalize_cfg_datasets, normalize_config, validate_config
    from axolotl.utils.data import wrappers
    from axolotl.utils.dict import DictDefault

    config = validate_config(DictDefault(recipe))
    normalize_config(config)
    normalize_cfg_datasets(config)
    wrap = wrappers.wrap_dataset_for_tokenized_prompt
    wrappers.wrap_dataset_for_tokenized_prompt = lambda strategy, dataset, **options: wrap(
        _Numbered(strategy), dataset, **options
    )
    loaded = datasets.load_datasets(cfg=config)
    held_out = loaded.eval_dataset
    return [] if held_out is None else [int(number) for number in held_out[NUMBER]]


def main() -> None:
    """Read the recipe and write the numbers."""
    recipe = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows = validation_rows(recipe)
    Path(sys.argv[2]).write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
