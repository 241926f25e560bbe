"""`axolotl train` where processes have a part of each layer, against one process with all.

Gradients are read off one step of SGD whose rate is so high that what a weight was before is lost
in its rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from curriculum_data import write_samples
from safetensors.torch import load_file

import tiny
from axolotl_ual.host import host

PLUGIN = "axolotl_ual.UALPlugin"
ON_CPU = "tiny_plugins.LayersCutOnCPU"


class Bench:
    """One tiny model, 16 samples of three stages, and runs on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = tiny.make_model(folder / "model")
        self.data = write_samples(folder / "rows.jsonl", (6, 5, 5))
        self.count = 0

    def train(self, plugins: list[str], processes: int, **settings: Any) -> tiny.Run:
        self.count += 1
        run = self.folder / f"run{self.count}"
        check = settings.pop("check", True)
        recipe = tiny.recipe(
            self.model,
            run,
            [{"path": str(self.data), "type": "alpaca"}],
            **{
                "plugins": plugins,
                "adapter": None,
                "optimizer": "sgd",
                "learning_rate": 1e4,
                "max_grad_norm": 0.0,
                "max_steps": 1,
                "save_strategy": "no",
                "gradient_accumulation_steps": 2,
                **settings,
            },
        )
        return tiny.axolotl(recipe, run, processes=processes, check=check)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("layers"))


def assert_equal(found: tiny.Run, wanted: tiny.Run, *keys: str) -> None:
    for key in ("loss", "loss/nll", "loss/smoothing", "grad_norm", "ual/tokens", *keys):
        assert len(wanted.values(key)) > 0, key
        assert found.values(key) == pytest.approx(wanted.values(key), rel=1e-6, abs=1e-6), key


def of_two_processes(bench: Bench) -> None:
    """Each token weighs by its entropy, and validation has the loss of one process, too."""
    settings: dict[str, Any] = {
        "ual": {"loss": {"token_weight": "entropy"}},
        "val_set_size": 0.25,
        "eval_steps": 1,
    }
    one = bench.train([PLUGIN], 1, **settings)
    two = bench.train([ON_CPU, PLUGIN], 2, tensor_parallel_size=2, **settings)
    assert_equal(two, one, "ual/token_weight", "eval_loss")
    before = load_file(bench.model / "model.safetensors")
    wanted = load_file(one.output / "model.safetensors")
    weights = load_file(two.output / "model.safetensors")
    assert weights.keys() == wanted.keys()
    for name, weight in wanted.items():
        step = weight - before[name]
        assert (weights[name] - weight).norm() < 1e-6 * step.norm(), name


def of_a_reference(bench: Bench) -> None:
    """The model before tuning lies whole on each process."""
    reference = {"prior": "reference", "reference": str(bench.model)}
    settings: dict[str, Any] = {
        "ual": {"smoothing": reference, "loss": {"anchor": {"weight": 0.1}}},
        "learning_rate": 1.0,
        "max_steps": 2,
    }
    one = bench.train([PLUGIN], 1, **settings)
    two = bench.train([ON_CPU, PLUGIN], 2, tensor_parallel_size=2, **settings)
    assert one.values("ual/reference_kl")[1] > 1e-5
    assert_equal(two, one, "ual/reference_kl", "ual/reference_entropy", "loss/anchor")


def of_stages(bench: Bench) -> None:
    """Both processes have the rows of the plan for one."""
    settings: dict[str, Any] = {
        "ual": {"curriculum": {"mode": "phased"}},
        "max_steps": None,
        "learning_rate": 0.1,
    }
    one = bench.train([PLUGIN], 1, **settings)
    two = bench.train([ON_CPU, PLUGIN], 2, tensor_parallel_size=2, **settings)
    assert {1.0, 3.0} <= set(one.values("ual/stage"))
    assert_equal(two, one, "ual/stage", "ual/uncertainty")


def that_the_host_stops(bench: Bench) -> None:
    """Without the plugin, Axolotl 0.19 ends where its refusal says."""
    run = bench.train([ON_CPU], 2, tensor_parallel_size=2, check=False)
    assert run.returncode != 0
    assert "_get_grad_norm" in run.text
    assert "got mixed torch.Tensor and DTensor" in run.text


CASES = (
    [of_two_processes, of_a_reference, of_stages] if host().cuts_layers else [that_the_host_stops]
)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_layers_cut_over_processes(bench: Bench, case: Any) -> None:
    case(bench)
