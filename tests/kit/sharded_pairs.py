"""One step of the preference trainer, cut over processes, micro-batches and shards. A script.

`python sharded_pairs.py OUTPUT` saves {case: {parameter: gradient}} with torch.save, where a case
is (variant, engine, processes, micro-batches, dtype) and the loss of the step is the entry LOSS.
One global batch has 8 pairs, two for each prompt, as several policies of pairing give them. The
engine STEPS is DDP through several steps of AdamW, whose losses and last weights are saved.
"""

from __future__ import annotations

import functools
import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

import tiny
from engines import ENGINES, ROWS, Gradients, save_over_processes

LOSS = "loss of the step"
STEPS = "ddp, 4 steps"
CUTS = [("ddp", 1, 1), ("ddp", 2, 2), ("ddp", 4, 2), ("fsdp2", 2, 2), ("zero3", 2, 2)]
"""(engine, processes, micro-batches of each)"""

_EACH: dict[str, dict[str, Any]] = {
    "robust": {"preference": {"flips": "robust"}},
    "margin": {"preference": {"margin": {"mean": 0.5, "tau": 0.1}}},
    "wpo": {"preference": {"weighting": "wpo"}},
    "weights": {"loss": {"weight": "w"}},
}
_ALL: dict[str, Any] = {
    key: {name: value for one in _EACH.values() for name, value in one.get(key, {}).items()}
    for key in ("preference", "loss")
}
VARIANTS = {**_EACH, "all": _ALL, "all of ipo": _ALL}
"""The `ual:` block of each; the loss is IPO where the name says so, and DPO elsewhere."""


class Case(NamedTuple):
    """Which step, and how it was cut."""

    variant: str
    engine: str
    processes: int
    micro: int
    dtype: str


def cases() -> Iterator[Case]:
    """Every variant over every engine; all of them together in float64 too.

    ZeRO-3 keeps its gradients in float32 whatever the model is in. Of the rest one process has
    float64 alone: what float32 is held to.
    """
    for variant in VARIANTS:
        if variant in _EACH:
            yield Case(variant, *CUTS[0], "float64")
        for cut in CUTS:
            yield Case(variant, *cut, "float32")
            if variant in _EACH or cut[0] == "zero3":
                continue
            yield Case(variant, *cut, "float64")
            if cut[0] == "ddp":
                yield Case(variant, STEPS, *cut[1:], "float32")
                yield Case(variant, STEPS, *cut[1:], "float64")


def pairs() -> list[dict[str, Any]]:
    """8 pairs of 4 prompts and of different lengths, each with its eps, margin and weight."""
    generator = torch.Generator().manual_seed(1)

    def words(count: int) -> list[int]:
        return torch.randint(10, 256, (count,), generator=generator).tolist()

    prompts = [words(3 + number) for number in range(ROWS // 2)]
    return [
        {
            "prompt_ids": prompts[number // 2],
            "chosen_ids": words(2 + 3 * number % 7),
            "rejected_ids": words(1 + 5 * number % 8),
            "ual_smoothing": number * 0.06,
            "ual_margin": (number - 3.5) / 10,
            # In eighths, whose sum float32 has exactly, however it is cut.
            "ual_weight": number / 8,
        }
        for number in range(ROWS)
    ]


def make_model(folder: Path, seed: int, dtype: str) -> Any:
    """The model that trains, or its reference; every parameter trains."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(folder / f"model-{seed}", dtype=dtype)


def make_trainer(folder: Path) -> Any:
    """The preference trainer, which every case gives its model and its recipe."""
    from axolotl.core.trainers.dpo.args import AxolotlDPOConfig
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.dict import DictDefault
    from datasets import Dataset
    from transformers import AutoTokenizer

    from axolotl_ual.training.dpo import UALDPOTrainer

    PluginManager.get_instance()._cfg = DictDefault({"ual": {}})
    return UALDPOTrainer(
        make_model(folder, 0, "float32"),
        make_model(folder, 1, "float32"),
        args=AxolotlDPOConfig(
            output_dir=str(folder / "out"),
            use_cpu=True,
            bf16=False,
            report_to=[],
            beta=0.5,
            remove_unused_columns=False,
        ),
        train_dataset=Dataset.from_list([{"prompt": "a", "chosen": "b", "rejected": "c"}]),
        processing_class=AutoTokenizer.from_pretrained(folder / "model-0"),
    )


def losses(trainer: Any, micro: int, seen: list[Tensor], model: Any) -> Iterator[Tensor]:
    """The micro-batches' losses as the trainer hands them to backward."""
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    from axolotl_ual.training.pairs import PairCollator

    rank, world, rows = dist.get_rank(), dist.get_world_size(), pairs()
    size = ROWS // world // micro
    collate = PairCollator(DataCollatorForPreference(pad_token_id=0), trainer._columns())
    starts = [(index * world + rank) * size for index in range(micro)]
    mine = [collate(rows[start : start + size]) for start in starts]
    trainer.current_gradient_accumulation_steps = micro
    batches, items = trainer.get_batch_samples(iter(mine), micro, torch.device("cpu"))
    for batch in batches:
        loss = trainer.compute_loss(model, batch, num_items_in_batch=items) / micro
        seen.append(loss.detach().double())
        yield loss


def train(trainer: Any, folder: Path, case: Case) -> Gradients:
    """Losses, and gradients or weights."""
    from axolotl.integrations.base import PluginManager
    from axolotl.utils.dict import DictDefault

    ual = {"preference": {"chunk_tokens": 5}, **VARIANTS[case.variant]}
    PluginManager.get_instance()._cfg = DictDefault({"ual": ual})
    trainer.__dict__.pop("ual", None)
    trainer.loss_types = ["ipo" if "ipo" in case.variant else "sigmoid"]
    trainer.model = make_model(folder, 0, case.dtype).train()
    trainer.ref_model = make_model(folder, 1, case.dtype).eval()
    trainer._install(trainer.model)
    seen: list[Tensor] = []
    cut = functools.partial(losses, trainer, case.micro, seen)
    engine = four_steps if case.engine == STEPS else ENGINES[case.engine]
    found = engine(trainer.model, cut, case.micro)
    loss_N = torch.stack(seen).view(-1, case.micro).sum(dim=1)
    dist.all_reduce(loss_N)
    gradients = {name: gradient.detach().clone() for name, gradient in found.items()}
    return {**gradients, LOSS: loss_N / case.processes}


def four_steps(model: Any, cut: Any, micro: int) -> Gradients:
    """The weights after four steps on the same pairs."""
    wrapped = torch.nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(4):
        for loss in cut(wrapped):
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.named_parameters())


def work(folder: Path, world: int) -> dict[Any, Gradients]:
    trainer = make_trainer(folder)
    return {
        tuple(case): train(trainer, folder, case) for case in cases() if case.processes == world
    }


if __name__ == "__main__":
    # Once for all the processes that are forked.
    importlib.import_module("axolotl_ual.training.dpo")
    with tempfile.TemporaryDirectory() as temporary:
        for which in (0, 1):
            # Predictions that differ from token to token.
            tiny.make_model(Path(temporary) / f"model-{which}", seed=which, initializer_range=0.3)
        save_over_processes((1, 2, 4), functools.partial(work, Path(temporary)), sys.argv[1])
