"""Every recipe of the package, trained for real on a CPU with a tiny model of its own family.

    python benchmarks/recipes.py [NAME ...]      # all recipes, or some
    python benchmarks/recipes.py --sharding      # one recipe under DDP, ZeRO-1, 2, 3 and FSDP2

Data are annotated, or pairs made, by the real commands with judges on this machine; `axolotl
train` runs with the recipe's own DeepSpeed or FSDP file, precision, checkpointing, adapter and
curriculum, on two processes where it is distributed. Attention is PyTorch's own: flash attention
needs a GPU. With `--sharding` full fine-tuning runs in float32 from the same weights on two
processes in each way, and losses are compared with those of DDP. Ends with status 1 where a recipe
does not train, or losses differ by more than 1e-4.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "kit"))

import recipe_runs

from axolotl_ual.preprocess.data.shipped import find, shipped

_FULL = "ual-llama-3.1-8b-full-zero3"
_FSDP2 = "ual-llama-3.1-8b-full-fsdp2"
_WAYS = ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3", "FSDP2")
_TOLERANCE = 1e-4


def _shown(values: list[float]) -> str:
    return " ".join(f"{value:.6f}" for value in values[:3]) + (" ..." if len(values) > 3 else "")


def train_each(names: list[str], folder: Path) -> bool:
    """Train recipes one by one and print a line for each; whether all of them train."""
    print("| recipe | processes | adapter | losses | s |\n|---|---|---|---|---|")
    well = True
    with recipe_runs.servers() as asked:
        for name in names:
            settings = recipe_runs.swapped(find(name), folder / name, asked)
            started = time.perf_counter()
            try:
                recipe_runs.make(settings, folder / name)
                losses = recipe_runs.train(settings, folder / name).values("loss")
                said = _shown(losses) or "none"
            except AssertionError as error:
                losses, said = [], " ".join(str(error).split())[-300:]
            well = well and bool(losses)
            number, adapter = recipe_runs.processes(settings), settings.get("adapter", "none")
            seconds = time.perf_counter() - started
            print(f"| {name} | {number} | {adapter} | {said} | {seconds:.0f} |", flush=True)
    return well


def _in_a_way(way: str, folder: Path) -> dict[str, Any]:
    """What in the full recipe makes it train in a way."""
    if way.startswith("ZeRO"):
        name = f"zero{way[-1]}.json"
        path = folder / name
        path.write_text((recipe_runs.DEEPSPEED / name).read_text())
        return {"deepspeed": str(path)}
    if way == "FSDP2":
        raw = find(_FSDP2).raw
        fsdp = {key: raw[key] for key in ("fsdp_version", "fsdp_config")}
        return {"deepspeed": None, "gradient_checkpointing": None, **fsdp}
    return {"deepspeed": None}


def compare_sharding(folder: Path) -> bool:
    """Train one recipe in each way and print the losses; whether they agree."""
    print("| on two processes | losses | largest difference to DDP |\n|---|---|---|")
    worst, first = 0.0, []
    with recipe_runs.servers() as asked:
        settings = recipe_runs.swapped(find(_FULL), folder, asked)
        recipe_runs.make(settings, folder)
        for way in _WAYS:
            changed = {**settings, "bf16": False, "max_steps": 4, "learning_rate": 0.001}
            changed = {**changed, **_in_a_way(way, folder)}
            given = {key: value for key, value in changed.items() if value is not None}
            losses = recipe_runs.train(given, folder, number=2).values("loss")
            first = first or losses
            far = max(abs(a - b) for a, b in zip(losses, first, strict=True))
            worst = max(worst, far)
            print(f"| {way} | {' '.join(f'{v:.7f}' for v in losses)} | {far:.1e} |", flush=True)
    return worst <= _TOLERANCE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--sharding", action="store_true")
    given = parser.parse_args()
    # Axolotl takes a model whose path holds "mpt" for an MPT, and "tmpt..." does.
    with tempfile.TemporaryDirectory(prefix="recipes-") as folder:
        if given.sharding:
            well = compare_sharding(Path(folder))
        else:
            well = train_each(given.names or [r.name for r in shipped()], Path(folder))
    sys.exit(not well)


if __name__ == "__main__":
    main()
