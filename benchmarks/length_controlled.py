"""Our length-controlled win rate beside alpaca_eval's, on alpaca_eval's own annotations.

    git clone https://github.com/tatsu-lab/alpaca_eval
    pip install alpaca-eval 'setuptools<81'
    python benchmarks/length_controlled.py alpaca_eval claude-2 vicuna-13b-v1.5 wizardlm-13b

Its difficulties of the prompts and its gamed annotations lie elsewhere, so both sides get the same
stand-ins for them: random difficulties, and a model that was made verbose and concise.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from alpaca_eval.metrics import glm_winrate

from axolotl_ual.evaluation.win_rate import Gamed, length_controlled

FORMULAS = ("length_controlled_v1", "length_controlled_noreg", "length_controlled_minimal")
GAMED = ("gpt-3.5-turbo-1106_verbose", "gpt-3.5-turbo-1106_concise")


def read(clone: Path, model: str) -> pd.DataFrame:
    path = clone / "results" / model / "weighted_alpaca_eval_gpt4_turbo" / "annotations.json"
    frame = pd.DataFrame(json.loads(path.read_text())).reset_index()
    return frame[frame["preference"].notna()].reset_index(drop=True)


def preferences(frame: pd.DataFrame) -> Any:
    return (frame["preference"].astype(float).replace({0.0: 1.5}) - 1).to_numpy()


def gamed_frame(clone: Path) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    parts = []
    for model in GAMED:
        frame = read(clone, model)
        delta = frame["output_1"].str.len() - frame["output_2"].str.len()
        parts.append(
            pd.DataFrame(
                {
                    "model": model,
                    "preference": preferences(frame),
                    "index": frame["index"],
                    "std_delta_len": delta / delta.std(),
                    "instruction_difficulty": rng.normal(0.9, 0.9, 805)[frame["index"]],
                    "not_gamed_baseline": False,
                }
            )
        )
    return pd.concat(parts)


def ours(frame: pd.DataFrame, gamed: pd.DataFrame, formula: str) -> float:
    by_prompt = gamed.drop_duplicates("index").set_index("index")["instruction_difficulty"]
    difficulty = None if formula.endswith("minimal") else by_prompt[frame["index"]].to_numpy()
    regular = Gamed(
        gamed["preference"].to_numpy(),
        gamed["std_delta_len"].to_numpy(),
        gamed["instruction_difficulty"].to_numpy(),
    )
    found = length_controlled(
        preferences(frame),
        frame["output_2"].str.len().to_numpy(float),
        frame["output_1"].str.len().to_numpy(float),
        difficulty,
        regular if formula.endswith("v1") else None,
    )
    return float(found.mean() * 100)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("clone", type=Path)
    parser.add_argument("models", nargs="+")
    arguments = parser.parse_args()
    gamed = gamed_frame(arguments.clone)
    with tempfile.NamedTemporaryFile("w", suffix=".csv") as file:
        gamed.to_csv(file.name, index=False)
        glm_winrate.hf_hub_download = lambda **_: file.name
        for model in arguments.models:
            frame = read(arguments.clone, model)
            for formula in FORMULAS:
                theirs = glm_winrate.get_length_controlled_winrate(
                    frame.copy(),
                    glm_name=formula,
                    save_weights_dir=None,
                    is_warn_extreme_changes=False,
                )["length_controlled_winrate"]
                mine = ours(frame, gamed, formula)
                print(f"{model:28} {formula:26} alpaca_eval {theirs:8.4f}  ours {mine:8.4f}")


if __name__ == "__main__":
    main()
