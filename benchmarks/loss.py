"""Time and peak memory of per-token label smoothing beside other losses.

    python benchmarks/loss.py                                  # CPU, a few minutes
    python benchmarks/loss.py --masked 0 0.75                  # a prompt before each response
    python benchmarks/loss.py --rounds 5                       # medians, on a shared machine
    python benchmarks/loss.py --device cuda --dtype bfloat16 --hidden 4096 --tokens 8192

Each measurement is forward and backward of the head and its loss, hidden states to gradient of the
hidden states, in a process of its own. With --layers the head sits on a Llama of that many layers
whose weights are trained: a whole step without its optimizer. Prints a table, writes JSON.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import itertools
import json
import operator
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

EPS = 0.1


def plain(logits: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Cross entropy without smoothing."""
    return F.cross_entropy(logits.float(), labels)


def torch_scalar(logits: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """PyTorch's smoothing: one number for all tokens."""
    return F.cross_entropy(logits.float(), labels, label_smoothing=EPS)


def hugging_face(logits: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """What `label_smoothing_factor` of transformers' Trainer computes."""
    from transformers.trainer_pt_utils import LabelSmoother

    outputs = {"logits": logits.float().unsqueeze(0)}
    return LabelSmoother(EPS)(outputs, labels.unsqueeze(0))


def full_logits(logits: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Per-token eps written down directly."""
    scores = F.log_softmax(logits.float(), dim=-1)
    trained = labels != -100
    label = scores.gather(1, labels.clamp(min=0)[:, None])[:, 0]
    return -((1 - eps) * label + eps * scores.mean(dim=-1))[trained].mean()


def eaft(logits: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Axolotl's entropy-weighted loss."""
    from axolotl.monkeypatch.loss.eaft import eaft_loss

    # It shifts by itself: the last position predicts nothing.
    shifted = F.pad(labels, (1, 0), value=-100)[:-1]
    outputs = argparse.Namespace(logits=logits.unsqueeze(0))
    return eaft_loss(outputs, shifted.unsqueeze(0))


def dft(logits: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Axolotl's probability-weighted loss, from 0.20 on."""
    from axolotl.monkeypatch.loss.dft import dft_loss

    shifted = F.pad(labels, (1, 0), value=-100)[:-1]
    outputs = argparse.Namespace(logits=logits.unsqueeze(0))
    return dft_loss(outputs, shifted.unsqueeze(0))


def on_logits(loss: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    def compute(hidden: Tensor, weight: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
        return loss(hidden @ weight.T, labels, eps)

    compute.__doc__ = loss.__doc__
    return compute


def num_trained(labels: Tensor) -> Tensor:
    return (labels != -100).sum()


@functools.cache
def mean_of_frozen(weight: Tensor) -> Any:
    from axolotl_ual.losses.smoothed_ce import mean_row

    return mean_row(weight, None)


def mean_of(weight: Tensor) -> Any:
    """The mean row, which training keeps while the head is frozen."""
    return mean_of_frozen.__wrapped__(weight) if weight.requires_grad else mean_of_frozen(weight)


def margin_on_top(hidden: Tensor, weight: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Ours, `kernel: model`: the margin on top of plain cross entropy."""
    from axolotl_ual.losses.smoothed_ce import margin_sum

    margin = margin_sum(hidden, weight, labels, eps, mean=mean_of(weight))
    return F.cross_entropy((hidden @ weight.T).float(), labels) + margin / num_trained(labels)


def chunked(hidden: Tensor, weight: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Ours, `kernel: chunked`."""
    from axolotl_ual.losses.chunked_ce import chunked_smoothed_ce

    sums = chunked_smoothed_ce(hidden, weight, labels, eps, mean=mean_of(weight))
    return sums.total / num_trained(labels)


def with_reference(hidden: Tensor, weight: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """Ours, `kernel: chunked`, with the prediction of a reference as the prior."""
    from axolotl_ual.losses.chunked_ce import chunked_smoothed_ce
    from axolotl_ual.losses.prior import Reference

    prior = Reference(hidden.detach().flip(0), weight.detach())
    sums = chunked_smoothed_ce(hidden, weight, labels, eps, mean=mean_of(weight), prior=prior)
    return sums.total / num_trained(labels)


def weighted(token: str, anchor: float = 0.0) -> Callable[..., Tensor]:
    """Ours, with a weight of each token's own beside the smoothing, and perhaps an anchor."""

    def compute(hidden: Tensor, weight: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
        from axolotl_ual.losses.chunked_ce import chunked_smoothed_ce
        from axolotl_ual.losses.prior import Reference
        from axolotl_ual.losses.token_weights import Weighting

        reference = Reference(hidden.detach().flip(0), weight.detach()) if anchor else None
        weighting = Weighting(None, token, anchor, reference)
        mean = mean_of(weight)
        sums = chunked_smoothed_ce(hidden, weight, labels, eps, mean=mean, weighting=weighting)
        return sums.total / num_trained(labels)

    return compute


def torch_chunked(hidden: Tensor, weight: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
    """torch.nn.functional.linear_cross_entropy in chunks, and our margin."""
    from axolotl_ual.losses.chunked_ce import chunk_tokens
    from axolotl_ual.losses.smoothed_ce import margin_sum

    options = torch.nn.LinearCrossEntropyOptions(batch_chunk_size=chunk_tokens(weight.shape[0]))
    loss = F.linear_cross_entropy(hidden, weight, labels, reduction="sum", options=options)
    margin = margin_sum(hidden, weight, labels, eps, mean=mean_of(weight))
    return (loss + margin) / num_trained(labels)


def liger(smoothing: float, margin: bool) -> Callable[..., Tensor]:
    def compute(hidden: Tensor, weight: Tensor, labels: Tensor, eps: Tensor) -> Tensor:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

        from axolotl_ual.losses.smoothed_ce import margin_sum

        loss = liger_fused_linear_cross_entropy(hidden, weight, labels, label_smoothing=smoothing)
        if not margin:
            return loss
        added = margin_sum(hidden, weight, labels, eps, mean=mean_of(weight))
        return loss + added / num_trained(labels)

    return compute


VARIANTS: dict[str, Callable[..., Tensor]] = {
    "cross entropy": on_logits(plain),
    "torch, scalar smoothing": on_logits(torch_scalar),
    "HF label_smoothing_factor": on_logits(hugging_face),
    "per-token eps, full logits": on_logits(full_logits),
    "Axolotl DFT": on_logits(dft),
    "Axolotl EAFT": on_logits(eaft),
    "torch chunked + margin": torch_chunked,
    "ours, on cross entropy": margin_on_top,
    "ours, chunked": chunked,
    "ours, reference prior": with_reference,
    "ours, probability": weighted("probability"),
    "ours, entropy": weighted("entropy"),
    "ours, probability + anchor": weighted("probability", anchor=0.1),
    "Liger": liger(0.0, margin=False),
    "Liger, scalar smoothing": liger(EPS, margin=False),
    "ours, on Liger": liger(0.0, margin=True),
}


def peak_memory(device: str) -> float:
    """MiB since the last `reset_peak`."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def reset_peak(device: str) -> None:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def inputs(args: argparse.Namespace) -> tuple[Tensor, ...]:
    torch.manual_seed(0)
    kind = {"device": args.device, "dtype": getattr(torch, args.dtype)}
    weight = torch.randn(args.vocab[0], args.hidden, **kind) * 0.02
    weight.requires_grad_(args.trained)
    hidden = torch.randn(args.tokens[0], args.hidden, **kind)
    labels = torch.randint(0, args.vocab[0], (args.tokens[0],), device=args.device)
    labels[: round(args.masked[0] * args.tokens[0])] = -100
    return hidden, weight, labels, torch.rand(args.tokens[0], device=args.device) * 0.4


def body(args: argparse.Namespace) -> Callable[[Tensor], Tensor]:
    """What lies below the head: nothing, or decoder layers."""
    if not args.layers:
        return lambda hidden: hidden.detach().requires_grad_()
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=8,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 3,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 64,
        attn_implementation="sdpa",
    )
    model = LlamaModel(config).to(args.device, getattr(torch, args.dtype))
    return lambda hidden: model(inputs_embeds=hidden.unsqueeze(0)).last_hidden_state[0]


def measure(args: argparse.Namespace) -> dict[str, float]:
    """One variant in this process: the fastest and the largest of the repeats.

    One before them is not counted: in it libraries set up threads and buffers that they keep.
    """
    torch.set_num_threads(args.threads)
    hidden, weight, labels, eps = inputs(args)
    compute, below = VARIANTS[args.only], body(args)
    seconds, cpu, peaks = [], [], []
    for _ in range(args.repeats + 1):
        weight.grad = None
        reset_peak(args.device)
        before = peak_memory(args.device)
        if args.device == "cuda":
            torch.cuda.synchronize()
        started, started_cpu = time.perf_counter(), time.process_time()
        loss = compute(below(hidden), weight, labels, eps)
        loss.backward()
        if args.device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        cpu.append(time.process_time() - started_cpu)
        peaks.append(peak_memory(args.device) - before)
        value = loss.item()
        del loss
    kept = slice(1, None) if args.repeats else slice(None)
    return {
        "seconds": min(seconds[kept]),
        "cpu_seconds": min(cpu[kept]),
        "peak_mib": max(peaks[kept]),
        "loss": value,
    }


def run_all(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows as they are measured: round by round, so that what disturbs a machine disturbs all."""
    rows: list[dict[str, Any]] = []
    sizes = itertools.product(args.vocab, args.tokens, args.masked)
    for (vocab, tokens, masked), turn in itertools.product(sizes, range(args.rounds)):
        for name in args.variants or VARIANTS:
            if ("Liger" in name and args.device == "cpu") or not has_host(name):
                continue
            command = [sys.executable, __file__, "--only", name, "--vocab", str(vocab)]
            command += ["--tokens", str(tokens), "--hidden", str(args.hidden)]
            command += ["--masked", str(masked)]
            command += ["--device", args.device, "--dtype", args.dtype]
            command += ["--threads", str(args.threads), "--layers", str(args.layers)]
            command += ["--repeats", str(args.repeats)]
            command += ["--trained"] if args.trained else []
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            found = json.loads(done.stdout.splitlines()[-1])
            size = {"vocab": vocab, "tokens": tokens, "masked": masked, "round": turn}
            rows.append({**size, "variant": name, **found})
            print_row(rows[-1], rows)
    return rows


def has_host(name: str) -> bool:
    """Whether the installed Axolotl has what a variant measures."""
    found = {"Axolotl DFT": "axolotl.monkeypatch.loss.dft"}
    return name not in found or importlib.util.find_spec(found[name]) is not None


def print_medians(rows: list[dict[str, Any]]) -> None:
    """Over the rounds: each variant's ratios to the plain loss of its own round."""
    key = operator.itemgetter("vocab", "tokens", "masked")
    print("medians of the ratios of each round, and the smallest and largest")
    first = rows[0]["variant"]
    for size, name in dict.fromkeys((key(row), row["variant"]) for row in rows):
        mine = [row for row in rows if (key(row), row["variant"]) == (size, name)]
        base = [row for row in rows if (key(row), row["variant"]) == (size, first)]
        shown = []
        for what in ("seconds", "cpu_seconds", "peak_mib"):
            ratios = sorted(a[what] / b[what] for a, b in zip(mine, base, strict=True))
            low, middle, high = ratios[0], statistics.median(ratios), ratios[-1]
            shown.append(f"{what} x{middle:.3f} ({low:.3f} to {high:.3f})")
        print(f"{size[0]:>7} {size[1]:>6} {size[2]:>4.0%}  {name:<27} {', '.join(shown)}")


def print_row(row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """A line as it is measured, with ratios to the plain loss of the same size."""
    size = operator.itemgetter("vocab", "tokens", "masked", "round")
    base = next(part for part in rows if size(part) == size(row))
    print(
        f"{row['vocab']:>7} {row['tokens']:>6} {row['masked']:>4.0%}  {row['variant']:<27} "
        f"{row['seconds']:8.3f} s {row['cpu_seconds']:8.3f} CPU s {row['peak_mib']:9.0f} MiB   "
        f"x{row['seconds'] / base['seconds']:.3f} x{row['cpu_seconds'] / base['cpu_seconds']:.3f} "
        f"x{row['peak_mib'] / base['peak_mib']:.3f}",
        flush=True,
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocab", type=int, nargs="+", default=[32_768, 128_256])
    parser.add_argument("--tokens", type=int, nargs="+", default=[512, 2048])
    parser.add_argument("--masked", type=float, nargs="+", default=[0.0], help="Share of tokens.")
    parser.add_argument("--layers", type=int, default=0)
    parser.add_argument("--trained", action="store_true", help="Train the head as well.")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1, help="Of all variants in turn.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--variants", nargs="+", choices=list(VARIANTS))
    parser.add_argument("--output", type=Path, default=Path("loss.json"))
    parser.add_argument("--only", choices=list(VARIANTS), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    args = parse()
    if args.only:
        print(json.dumps(measure(args)))
        return
    machine = torch.cuda.get_device_name() if args.device == "cuda" else platform.processor()
    settings = {key: value for key, value in vars(args).items() if key not in ("only", "output")}
    print(f"torch {torch.__version__}, {machine or platform.machine()}, {settings}")
    print("seconds, CPU seconds, peak memory; ratios to the first variant of the same size")
    rows = run_all(args)
    print_medians(rows)
    record = {"torch": torch.__version__, "machine": machine, "settings": settings, "rows": rows}
    args.output.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
