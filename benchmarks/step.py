"""Step time and memory of `axolotl train` with the plugin beside without, in paired runs.

    python benchmarks/step.py                # a Llama of 4 layers on a CPU, LoRA, same kernel
    python benchmarks/step.py --prior reference [--top-k 64]

Runs alternate between the two, so that what else the machine does falls on both. A step's time is
the CPU time of the process between its begin and end; memory is the peak since training began.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "kit"))

SKIPPED = 2
"""First steps of a run, which warm up."""


def timer() -> Any:
    """A callback that notes each step's CPU seconds and the growth of the peak memory."""
    from transformers import TrainerCallback

    class Timer(TrainerCallback):
        def on_train_begin(self, args: Any, *_: Any, **__: Any) -> None:
            Path("/proc/self/clear_refs").write_text("5")
            self.start, self.steps = _peak(), []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.process_time()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            self.steps.append(time.process_time() - self.began)

        def on_train_end(self, args: Any, *_: Any, **__: Any) -> None:
            found = {"steps": self.steps, "peak_mib": _peak(), "growth_mib": _peak() - self.start}
            Path(args.output_dir, "timer.json").write_text(json.dumps(found))

    return Timer()


def _peak() -> float:
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def plugin_class() -> Any:
    """`step.Timer` for a recipe's `plugins:`, made where axolotl is already imported."""
    from axolotl.integrations.base import BasePlugin

    class Timer(BasePlugin):
        def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
            return [timer()]

    return Timer


def __getattr__(name: str) -> Any:
    if name == "Timer":
        return plugin_class()
    raise AttributeError(name)


def run(args: argparse.Namespace, model: Path, folder: Path, plugins: list[str]) -> Any:
    import tiny

    words = ["a", "step", "with", "label", "smoothing", "takes", "as", "long", "as", "without"]
    rows = [
        {
            "instruction": f"Write sentence {n}.",
            "output": " ".join(words[(n + k) % len(words)] for k in range(60)),
            "ual_smoothing": (n % 5) / 10,
        }
        for n in range(args.steps * 2)
    ]
    ual: dict[str, Any] = {"loss": {"kernel": "model"}, "smoothing": {"prior": args.prior}}
    if args.top_k is not None:
        ual["smoothing"]["reference_top_k"] = args.top_k
    data = tiny.write_rows(folder / "data.jsonl", rows)
    settings = tiny.recipe(
        model,
        folder,
        [{"path": str(data), "type": "alpaca"}],
        max_steps=args.steps,
        sequence_len=512,
        save_strategy="no",
        plugins=[*plugins, "step.Timer"],
        **({"ual": ual} if plugins else {}),
    )
    done = tiny.axolotl(settings, folder)
    return json.loads((done.output / "timer.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--prior", choices=["uniform", "reference"], default="uniform")
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--output", type=Path, default=Path("step.json"))
    args = parser.parse_args()
    here = str(Path(__file__).parent)
    os.environ["PYTHONPATH"] = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    import tiny

    ratios, memory, pairs = [], [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = tiny.make_model(
            folder / "model",
            hidden_size=args.hidden,
            intermediate_size=3 * args.hidden,
            num_hidden_layers=args.layers,
        )
        for index in range(args.pairs):
            without = run(args, model, folder / f"{index}a", [])
            with_it = run(args, model, folder / f"{index}b", ["axolotl_ual.UALPlugin"])
            seconds = [statistics.median(part["steps"][SKIPPED:]) for part in (without, with_it)]
            ratios.append(seconds[1] / seconds[0])
            memory.append(with_it["peak_mib"] / without["peak_mib"])
            pairs.append([without, with_it])
            print(
                f"pair {index + 1}: {seconds[0]:.3f} and {seconds[1]:.3f} CPU s a step "
                f"(x{ratios[-1]:.3f}), peak {without['peak_mib']:.0f} and "
                f"{with_it['peak_mib']:.0f} MiB (x{memory[-1]:.3f})",
                flush=True,
            )
    print(f"median: time x{statistics.median(ratios):.3f}, memory x{statistics.median(memory):.3f}")
    args.output.write_text(json.dumps({"time": ratios, "memory": memory, "pairs": pairs}) + "\n")


if __name__ == "__main__":
    main()
