"""`axolotl train` with sequences cut over processes, against one process with whole ones.

Axolotl 0.21 cuts and exchanges by itself; of what 0.19 needs, `tiny_context` says what it stands in
for.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import cut_runs
import pytest
import torch
from cut_runs import PLUGIN, assert_equal

import tiny
from axolotl_ual.columns import SMOOTHING, WEIGHT
from axolotl_ual.losses.encoding import decode_smoothing, encode_smoothing
from axolotl_ual.losses.forward import Batch
from axolotl_ual.training.context import aligned

WITH_ULYSSES = importlib.util.find_spec("axolotl.integrations.context_parallel") is not None
FSDP2: dict[str, Any] = {
    "fsdp_version": 2,
    "fsdp_config": {
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "transformer_layer_cls_to_wrap": "LlamaDecoderLayer",
        "reshard_after_forward": True,
        "state_dict_type": "FULL_STATE_DICT",
    },
}


def test_what_belongs_to_a_token_is_moved_before_the_cut() -> None:
    """Three tokens over two parts: padded to four, twice the number of parts.

    Token 1 (label 5) is predicted at position 0, token 2 (label 6) at 1, in the first part; of the
    second part nothing is trained. The second sample of a packed row begins at position 0 again.
    """
    smoothing, weight = torch.tensor([[0.1, 0.2, 0.3]]), torch.tensor([[1.0, 2.0, 4.0]])
    batch = {
        "input_ids": torch.tensor([[4, 5, 6]]),
        "labels": torch.tensor([[-100, 5, 6]]),
        "position_ids": torch.tensor([[0, 0, 1]]),
        SMOOTHING: encode_smoothing(smoothing),
        WEIGHT: encode_smoothing(weight),
        "kept": torch.tensor([7]),
    }
    found = aligned(batch, 2)
    assert found["input_ids"].tolist() == [[4, 5, 6, 0]]
    assert found["labels"].tolist() == [[-100, 5, 6, -100]]
    assert found["shift_labels"].tolist() == [[5, 6, -100, -100]]
    assert found["position_ids"].tolist() == [[0, 0, 1, 2]]
    assert decode_smoothing(found[SMOOTHING])[:, :2].tolist() == [smoothing[0, 1:].tolist()]
    assert decode_smoothing(found[WEIGHT])[:, :2].tolist() == [[2.0, 4.0]]
    assert found["kept"].tolist() == [7]
    assert batch["input_ids"].shape == (1, 3), "the given batch is left as it is"
    first = {name: found[name][:, :2] for name in (SMOOTHING, WEIGHT, "labels", "shift_labels")}
    part = Batch.take(first.pop(SMOOTHING), first, num_rows=9)
    assert part.labels_N.tolist() == [5, 6]
    torch.testing.assert_close(part.smoothing_N, smoothing[0, 1:])
    assert part.weight_N is not None and part.weight_N.tolist() == [2.0, 4.0]
    assert first == {}, "all of it is taken out of the forward's arguments"


def test_rows_that_divide_are_not_padded() -> None:
    batch = {"input_ids": torch.ones(2, 8, dtype=torch.long), "labels": torch.ones(2, 8).long()}
    assert aligned(batch, 4)["labels"].shape == (2, 8)


class Bench(cut_runs.Bench):
    """Runs whose rows are cut; Ulysses gives each of four processes a head."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, num_key_value_heads=4)

    def train(self, size: int, groups: int = 1, **settings: Any) -> tiny.Run:
        """Train with rows cut into `size` parts, each of so many groups having rows of its own."""
        plugins = [PLUGIN]
        if size > 1:
            plugins.insert(0, "tiny_context.ContextOnCPU")
            settings.update(_cut(size))
        if groups > 1:
            plugins.insert(0, "tiny_plugins.FSDPOnCPU")
            settings.update({**FSDP2, "dp_shard_size": groups})
        return self.run(plugins, size * groups, **settings)


def _cut(size: int) -> dict[str, Any]:
    if WITH_ULYSSES:
        return {"context_parallel": {"size": size, "backend": "ulysses"}}
    return {"context_parallel_size": size, "attn_implementation": "flash_attention_2"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("context"))


@pytest.mark.slow
def test_two_and_four_processes_have_the_gradients_of_one(bench: Bench) -> None:
    """Tokens weigh by their entropy, too: what a token counts is known where it is predicted."""
    ual = {"loss": {"token_weight": "entropy"}}
    one, two, four = (
        bench.train(size, gradient_accumulation_steps=2, ual=ual) for size in (1, 2, 4)
    )
    for run in (two, four):
        assert_equal(run, one, "ual/token_weight")
        bench.assert_gradients(run, one)


@pytest.mark.slow
def test_stages_over_groups_of_processes(bench: Bench) -> None:
    """Two groups of two processes, sharded by FSDP2; on Axolotl 0.19 the samples are packed.

    Ulysses packs with flash attention alone, which needs a GPU. A pack of 203 tokens leaves a part
    that the other does not have, and is padded.
    """
    settings: dict[str, Any] = {"ual": {"curriculum": {"mode": "phased"}}, "max_steps": None}
    settings.update(learning_rate=0.1)
    if not WITH_ULYSSES:
        settings.update(sample_packing=True, micro_batch_size=1, sequence_len=203)
    one = bench.train(1, gradient_accumulation_steps=2, **settings)
    four = bench.train(2, groups=2, gradient_accumulation_steps=1, **settings)
    assert one.values("ual/stage") == sorted(one.values("ual/stage"))
    assert {1.0, 3.0} <= set(one.values("ual/stage"))
    assert_equal(four, one, "ual/stage", "ual/uncertainty")


@pytest.mark.slow
def test_mass_that_goes_to_a_reference(bench: Bench) -> None:
    """The model before tuning sees the other parts of a sequence as the one that trains does."""
    ual = {
        "smoothing": {"prior": "reference"},
        "loss": {"anchor": {"weight": 0.1}, "normalization": "micro_batch"},
    }
    settings: dict[str, Any] = {"adapter": "lora", "learning_rate": 1.0, "max_steps": 2, "ual": ual}
    one, two = (bench.train(size, **settings) for size in (1, 2))
    assert one.values("ual/reference_kl")[1] > 1e-5
    assert_equal(two, one, "ual/reference_kl", "ual/reference_entropy", "loss/anchor")
