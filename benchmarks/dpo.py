"""Peak memory and time of preference training beside TRL's: log-probabilities, and whole steps.

    python benchmarks/dpo.py [--output dpo.json] [--vocabulary 128256] [--chunk 256]

- log-probabilities: N tokens of hidden size H, forward and backward, head frozen. TRL's way is the
  full logits and `selective_log_softmax`; ours is `token_logprobs`.
- step: loss and gradients of one batch of pairs with a LoRA adapter and the reference on the fly,
  by Axolotl's DPO trainer (TRL's loss) and by ours, on a small Llama with the same vocabulary. The
  two losses are printed too: they must agree.

Each side runs in a process of its own. Memory is the peak of the resident set during the work less
what was resident before it (Linux); time is CPU time of the second of two passes.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "kit"))

Work = Callable[[], float]


def logprobs_work(side: str, options: dict[str, Any]) -> Work:
    import torch
    from trl.trainer.utils import selective_log_softmax

    from axolotl_ual.losses.logprobs import token_logprobs

    torch.manual_seed(0)
    head = torch.nn.Linear(options["hidden"], options["vocabulary"], bias=False)
    head.requires_grad_(False)
    hidden = torch.randn(options["tokens"], options["hidden"], requires_grad=True)
    labels = torch.randint(0, options["vocabulary"], (options["tokens"],))

    def work() -> float:
        hidden.grad = None
        if side == "trl":
            logps = selective_log_softmax(head(hidden), labels)
        else:
            logps = token_logprobs(hidden, labels, head, [], chunk=options["chunk"])
        logps.sum().backward()
        return float(logps.sum())

    return work


def step_work(side: str, options: dict[str, Any]) -> Work:
    import torch
    from axolotl.core.trainers.dpo.args import AxolotlDPOConfig
    from axolotl.core.trainers.dpo.trainer import AxolotlDPOTrainer
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.dict import DictDefault
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    import tiny
    from axolotl_ual.training.dpo import UALDPOTrainer

    ual = {"preference": {"smoothing": False, "chunk_tokens": options["chunk"]}}
    PluginManager.get_instance().cfg = DictDefault({"ual": ual})
    folder = Path(tempfile.mkdtemp())
    tokenizer = tiny.make_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=options["vocabulary"],
        hidden_size=options["hidden"],
        intermediate_size=2 * options["hidden"],
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,
        pad_token_id=0,
    )
    row = {"prompt": "p" * 120, "chosen": "c" * 120, "rejected": "r" * 120}
    trainer = (AxolotlDPOTrainer if side == "trl" else UALDPOTrainer)(
        LlamaForCausalLM(config),
        None,
        args=AxolotlDPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=options["pairs"],
            max_length=512,
            use_cpu=True,
            bf16=False,
            report_to=[],
        ),
        train_dataset=Dataset.from_list([row] * options["pairs"]),
        processing_class=tokenizer,
        peft_config=LoraConfig(r=8, target_modules="all-linear"),
    )
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()

    def work() -> float:
        trainer.model.zero_grad()
        loss = trainer.compute_loss(trainer.model, dict(batch))
        loss.backward()
        return float(loss)

    return work


def peak_mib(reset: bool = False) -> float:
    """Largest resident memory so far; from here on, where it is reset."""
    if reset:
        gc.collect()
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _measured(kind: str, side: str, options: dict[str, Any], result: Any) -> None:
    work = (logprobs_work if kind == "logprobs" else step_work)(side, options)
    before = peak_mib(reset=True)
    value = work()
    memory = peak_mib() - before
    start = time.process_time()
    work()
    result.put((memory, time.process_time() - start, value))


def compare(kind: str, options: dict[str, Any]) -> dict[str, Any]:
    context = multiprocessing.get_context("spawn")
    found = {}
    for side in ("trl", "ual"):
        queue = context.Queue()
        process = context.Process(target=_measured, args=(kind, side, options, queue))
        process.start()
        found[side] = queue.get()
        process.join()
    (their_mib, their_s, their_value), (our_mib, our_s, our_value) = found["trl"], found["ual"]
    return {
        "kind": kind,
        **options,
        "trl_mib": their_mib,
        "ual_mib": our_mib,
        "memory_ratio": our_mib / their_mib,
        "trl_cpu_s": their_s,
        "ual_cpu_s": our_s,
        "time_ratio": our_s / their_s,
        "trl_value": their_value,
        "ual_value": our_value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("dpo.json"))
    parser.add_argument("--vocabulary", type=int, default=128_256)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=1024)
    options = parser.parse_args()
    common = {"vocabulary": options.vocabulary, "chunk": options.chunk, "hidden": 256}
    rows = [
        compare("logprobs", {**common, "tokens": options.tokens}),
        compare("step", {**common, "pairs": 2}),
    ]
    for row in rows:
        cells = [f"{k} {v:.4f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()]
        print(", ".join(cells))
    machine = f"{platform.machine()}, {platform.python_implementation()} {sys.version.split()[0]}"
    report = json.dumps({"machine": machine, "dpo": rows}, indent=2)
    options.output.write_text(report + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
