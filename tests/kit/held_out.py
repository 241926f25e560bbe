"""A tiny model, adapters on it, held-out rows, and a recipe that names them all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from tiny import make_model, recipe, write_rows

ROWS = [
    {
        "messages": [
            {"role": "user", "content": f"What is {a} plus {b}?"},
            {"role": "assistant", "content": f"Add {a} and {b}.\n#### {a + b}"},
        ],
        "kind": "small" if a + b < 6 else "large",
        "level": a,
    }
    for a in range(4)
    for b in range(5)
]


def make_adapter(base: Path, folder: Path, seed: int) -> Path:
    """An adapter with random weights, as if it had been trained."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False)
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), config).save_pretrained(folder)
    return folder


def make_world(folder: Path) -> Path:
    """A base model, two adapters, and the recipe that is returned."""
    texts = [message["content"] for row in ROWS for message in row["messages"]]
    base = make_model(folder / "base", texts=texts)
    for seed in (1, 2):
        make_adapter(base, folder / f"adapter-{seed}", seed)
    shutil.copytree(base, folder / "copy")
    data = write_rows(folder / "held-out.jsonl", ROWS)
    write_recipe(folder, data)
    return folder / "recipe.yaml"


def write_recipe(
    folder: Path, data: Path, evaluate: dict[str, Any] | None = None, **keys: Any
) -> None:
    """Write the recipe anew, with other settings."""
    entry = {"path": str(data), "type": "chat_template"}
    section = {"output": "results", "cache": "cache", "device": "cpu", **(evaluate or {})}
    settings = {
        **recipe(folder / "base", folder / "trained", [entry]),
        "chat_template": "tokenizer_default",
        "test_datasets": [{**entry, "split": "train"}],
        "ual": {"evaluate": section},
        **keys,
    }
    kept = {key: value for key, value in settings.items() if value is not None}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
