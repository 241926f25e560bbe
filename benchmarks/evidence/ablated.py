"""Study 2 by the commands alone: `axolotl-ual ablate` trains its first four arms.

    python benchmarks/evidence/ablated.py resume --data DATA --work WORK

Rows and settings are those of `training.py`; `axolotl train` trains, and `axolotl-ual evaluate`
measures. `evaluation.json` is what the page needs of theirs. What a killed run had finished is kept
in WORK/ablated.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from mixed import Row, make_mixture
from smollm import model_folder
from study import Place, Results, main

from axolotl_ual.errors import DataError

NAME = "ablated"
RESULT = "evaluation"
COMMAND = "from axolotl_ual.preprocess.cli import main; main()"
TRAIN = f"{shlex.quote(sys.executable)} -m axolotl.cli.main train {{recipe}} --launcher python"


def make(results: Results, place: Place) -> None:
    """Make the one result, where it is missing.

    Raises:
        DataError: the command failed; it has said why.
    """
    if results.has(RESULT):
        print("nothing is missing")
        return
    import transformers

    fixed = results.protocol
    model, folder = model_folder(place).resolve(), place.work.resolve() / NAME
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    mixture = make_mixture(place.sources, fixed, tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", mixture.train), ("held-out", mixture.held_out)):
        _write_rows(folder / f"{name}.jsonl", rows)
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe(fixed, model, folder), sort_keys=False))
    words = ["--control", ",".join(fixed["controls"]), "--seeds", str(len(fixed["seeds"]))]
    words += ["--against", "ual", "--output", str(folder / "ablation"), "--launcher", TRAIN]
    done = subprocess.run([sys.executable, "-c", COMMAND, "ablate", str(path), *words], check=False)
    if done.returncode:
        raise DataError(f"ablate ended with status {done.returncode}", "see what it printed")
    document = json.loads((folder / "ablation" / "evaluation" / "evaluation.json").read_bytes())
    results.write(RESULT, kept(document, fixed["measures"]))


def recipe(fixed: Mapping[str, Any], model: Path, folder: Path) -> dict[str, Any]:
    """The recipe that is ablated: what the protocol says, in Axolotl's words."""
    held_out = {"path": str(folder / "held-out.jsonl"), "type": "chat_template"}
    return {
        "base_model": str(model),
        "datasets": [{"path": str(folder / "train.jsonl"), "type": "chat_template"}],
        "chat_template": "tokenizer_default",
        "plugins": ["axolotl_ual.UALPlugin"],
        "ual": {
            "annotate": {
                "output": str(folder / "annotated"),
                "estimator": "perplexity",
                "perplexity": dict(fixed["estimators"]["perplexity"]),
                "cache": str(folder / "cache"),
            },
            "smoothing": dict(fixed["smoothing"]),
            "evaluate": {
                "data": [held_out],
                "by": ["source"],
                "quantiles": 2,
                "generation": dict(fixed["generation"]),
                "clustering": dict(fixed["clustering"]),
                "cache": str(folder / "cache"),
                "device": "cpu",
            },
        },
        "adapter": "lora",
        "lora_r": fixed["lora_r"],
        "lora_alpha": 2 * fixed["lora_r"],
        "lora_dropout": fixed["lora_dropout"],
        "lora_target_linear": True,
        "sequence_len": fixed["sequence_len"],
        "micro_batch_size": fixed["batch"],
        "gradient_accumulation_steps": 1,
        "num_epochs": fixed["epochs"],
        "optimizer": "adamw_torch",
        "learning_rate": fixed["learning_rate"],
        "lr_scheduler": "cosine",
        "warmup_steps": 5,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "seed": fixed["seeds"][0],
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "attn_implementation": "sdpa",
        "lora_mlp_kernel": False,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
        "dataset_num_proc": 1,
        "dataloader_num_workers": 0,
        "logging_steps": 8,
        "save_strategy": "no",
        "output_dir": str(folder / "out"),
    }


def kept(document: Mapping[str, Any], measures: Sequence[str]) -> dict[str, Any]:
    """Of an `evaluation.json`, the measures that the page has; differences are arm less `ual`."""
    return {
        "results": [
            {
                **{key: one[key] for key in ("measure", "group", "prompts", "values", "by_seed")},
                "differences": {
                    each["arm"]: {"value": each["difference"], **_error(each["test"])}
                    for each in one["differences"]
                },
            }
            for one in document["results"]
            if one["measure"] in measures
        ]
    }


def _error(test: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if test is None else {key: test[key] for key in ("error", "freedom")}


def _write_rows(path: Path, rows: Sequence[Row]) -> None:
    lines = [json.dumps({"messages": row.messages, "source": row.source}) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(NAME, str(__doc__), make, None)
