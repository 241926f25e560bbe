from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from axolotl_ual.errors import BackendError, ConfigError, UALError
from axolotl_ual.preprocess.models.local.causal import LocalModel, nll, plan_batches
from axolotl_ual.preprocess.models.local.encoding import Encoded
from tiny import make_model

KEY = "ual.annotate.perplexity.model"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(Path(tmp_path_factory.mktemp("model")), initializer_range=0.4)


@pytest.fixture(scope="module")
def local(folder: Path) -> LocalModel:
    return LocalModel.load(str(folder), key=KEY, device="cpu")


@pytest.fixture(scope="module")
def double(folder: Path) -> LocalModel:
    loaded = LocalModel.load(str(folder), key=KEY, device="cpu")
    return replace(loaded, model=loaded.model.double())


def sequences(num: int = 12, vocab: int = 300, seed: int = 0) -> list[Encoded]:
    """Random ids of very different lengths; scored tokens anywhere behind the first."""
    random = np.random.default_rng(seed)
    found = []
    for _ in range(num):
        length = int(random.integers(2, 60))
        scored = random.random(length) < 0.4
        scored[0], scored[-1] = False, True
        found.append(Encoded(random.integers(0, vocab, length).astype(np.int32), scored))
    return found


def reference(local: LocalModel, item: Encoded) -> np.ndarray:
    """One sequence at a time, all logits, softmax in fp64."""
    import torch

    with torch.no_grad():
        logits = local.model(torch.tensor(item.ids[None].astype(np.int64))).logits[0].double()
    log_p = torch.log_softmax(logits, -1).numpy()
    return np.array([-log_p[t - 1, item.ids[t]] for t in range(len(item.ids)) if item.scored[t]])


def measured(local: LocalModel, items: list[Encoded], batch_tokens: int) -> list[np.ndarray]:
    found = dict(local.measure(items, nll, batch_tokens))
    assert sorted(found) == list(range(len(items)))
    return [found[index] for index in range(len(items))]


def test_likelihoods_equal_the_reference_in_fp64(double: LocalModel) -> None:
    items = sequences()
    for item, values in zip(items, measured(double, items, 128), strict=True):
        assert values.dtype == np.float64
        np.testing.assert_allclose(values, reference(double, item), rtol=1e-10)


@pytest.mark.parametrize("batch_tokens", [1, 64, 100_000])
def test_likelihoods_do_not_depend_on_the_batch(local: LocalModel, batch_tokens: int) -> None:
    items = sequences()
    for item, values in zip(items, measured(local, items, batch_tokens), strict=True):
        assert values.shape == (int(item.scored.sum()),)
        np.testing.assert_allclose(values, reference(local, item), rtol=0, atol=1e-5)


def test_a_measure_may_have_more_dimensions(local: LocalModel) -> None:
    def top_two(logits_NV: Any, _: Any) -> Any:
        return logits_NV.topk(2, dim=1).values

    items = sequences(3)
    for index, values in local.measure(items, top_two, 64):
        assert values.shape == (int(items[index].scored.sum()), 2)
        assert (values[:, 0] >= values[:, 1]).all()


def test_only_chosen_positions_reach_the_head(local: LocalModel) -> None:
    shapes = []
    handle = local.model.lm_head.register_forward_hook(
        lambda _module, _inputs, output: shapes.append(tuple(output.shape))
    )
    items = sequences(4)
    measured(local, items, 100_000)
    handle.remove()
    num_scored = sum(int(item.scored.sum()) for item in items)
    assert shapes == [(1, num_scored, local.model.config.vocab_size)]


def test_a_soft_cap_and_a_head_that_is_not_told(folder: Path) -> None:
    """A model whose forward changes its logits, and one whose head cannot be found."""
    import torch

    local = LocalModel.load(str(folder), key=KEY, device="cpu")
    forward = local.model.forward

    def capped(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = 2.0 * torch.tanh(output.logits / 2.0)
        return output

    local.model.forward = capped
    items = sequences(5)
    expected = [reference(local, item) for item in items]
    for values, item in zip(measured(local, items, 128), expected, strict=True):
        np.testing.assert_allclose(values, item, atol=1e-5)
    local.model.get_output_embeddings = lambda: None
    for values, item in zip(measured(local, items, 128), expected, strict=True):
        np.testing.assert_allclose(values, item, atol=1e-5)


def test_a_batch_that_does_not_fit_is_halved(folder: Path) -> None:
    import torch

    local = LocalModel.load(str(folder), key=KEY, device="cpu")
    items = sequences(6)
    expected = measured(local, items, 100_000)
    forward, sizes = local.model.forward, []

    def small(*, input_ids: Any, **kwargs: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return forward(input_ids=input_ids, **kwargs)

    local.model.forward = small
    for values, item in zip(measured(local, items, 100_000), expected, strict=True):
        np.testing.assert_allclose(values, item, atol=1e-5)
    assert sizes == [6, 3, 1, 2, 3, 1, 2]


def test_a_sequence_that_does_not_fit_is_told(folder: Path) -> None:
    import torch

    local = LocalModel.load(str(folder), key=KEY, device="cpu")

    def full(**_: Any) -> Any:
        raise torch.OutOfMemoryError("out of memory")

    local.model.forward = full
    with pytest.raises(BackendError, match=r"tokens does not fit.*\n.*lower `max_length`"):
        list(local.measure(sequences(1), nll, 10))


def test_batches_by_hand() -> None:
    # Longest first: 9 (index 1), 8 (3), 5 (0), 2 (2), 1 (4). Two of 9 make 18 padded tokens, more
    # than 16, so 9 is alone; 8 and 5 make 16; three of 8 make 24, so 2 begins a batch with 1.
    assert plan_batches([5, 9, 2, 8, 1], [1] * 5, 16, 100) == [[1], [3, 0], [2, 4]]
    # At most 3 scored tokens: 2 + 2 is too many.
    assert plan_batches([4, 4, 4], [2, 2, 1], 100, 3) == [[0], [1, 2]]
    assert plan_batches([], [], 10, 10) == []


@given(
    rows=st.lists(st.tuples(st.integers(2, 50), st.integers(1, 50)), max_size=40),
    batch_tokens=st.integers(1, 300),
    max_scored=st.integers(1, 100),
)
def test_batches_hold_every_row_once_within_bounds(
    rows: list[tuple[int, int]], batch_tokens: int, max_scored: int
) -> None:
    lengths, scored = [row[0] for row in rows], [row[1] for row in rows]
    batches = plan_batches(lengths, scored, batch_tokens, max_scored)
    assert sorted(index for batch in batches for index in batch) == list(range(len(rows)))
    for batch in batches:
        if len(batch) > 1:
            assert len(batch) * max(lengths[index] for index in batch) <= batch_tokens
            assert sum(scored[index] for index in batch) <= max_scored


@pytest.mark.parametrize("name", ["./missing/model", "runs/42/merged", "/missing", "~/missing"])
def test_a_folder_that_does_not_exist_is_told_at_once(name: str) -> None:
    with pytest.raises(BackendError, match=r"perplexity\.model: .*is not a folder") as caught:
        LocalModel.load(name, key=KEY)
    assert f"set `{KEY}` to a folder" in caught.value.fix


def test_a_hub_name_that_cannot_be_reached_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BackendError, match="'nobody/nothing' cannot be loaded") as caught:
        LocalModel.load("nobody/nothing", key=KEY)
    assert KEY in caught.value.fix


def test_a_folder_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{not json")
    with pytest.raises(BackendError, match="cannot be loaded as a causal language model"):
        LocalModel.load(str(tmp_path), key=KEY)


@pytest.mark.parametrize("device", ["cuda:99", "abacus"])
def test_a_device_that_is_not_there_is_told(folder: Path, device: str) -> None:
    with pytest.raises(ConfigError, match=f"perplexity.device: there is no device '{device}'"):
        LocalModel.load(str(folder), key=KEY, device=device, section="ual.annotate.perplexity")


def test_dtype(folder: Path, local: LocalModel) -> None:
    assert str(local.model.dtype) == "torch.float32"
    half = LocalModel.load(str(folder), key=KEY, device="cpu", dtype="bfloat16")
    assert str(half.model.dtype) == "torch.bfloat16"
    # Logits are in bfloat16 (8 bits of mantissa), everything after them in fp32.
    for values, item in zip(measured(half, sequences(4), 128), sequences(4), strict=True):
        assert values.dtype == np.float32
        np.testing.assert_allclose(values, reference(local, item), rtol=0.2, atol=0.2)


def test_missing_libraries_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UALError, match=r"pip install 'axolotl-ual\[local\]'"):
        LocalModel.load("anything", key=KEY)
