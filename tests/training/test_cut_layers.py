"""`axolotl train` where processes have a part of each layer, against one process with all."""

from __future__ import annotations

from typing import Any

import cut_runs
import pytest
from cut_runs import PLUGIN, assert_equal

import tiny
from axolotl_ual.host import host

ON_CPU = "tiny_plugins.LayersCutOnCPU"


class Bench(cut_runs.Bench):
    """Runs on one process, and on two that have a part of each layer."""

    def alone(self, **settings: Any) -> tiny.Run:
        return self.run([PLUGIN], 1, gradient_accumulation_steps=2, **settings)

    def cut(self, plugins: tuple[str, ...] = (PLUGIN,), **settings: Any) -> tiny.Run:
        return self.run(
            [ON_CPU, *plugins],
            2,
            gradient_accumulation_steps=2,
            tensor_parallel_size=2,
            **settings,
        )


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("layers"))


def of_two_processes(bench: Bench) -> None:
    """Each token weighs by its entropy, and validation has the loss of one process, too."""
    settings: dict[str, Any] = {
        "ual": {"loss": {"token_weight": "entropy"}},
        "val_set_size": 0.25,
        "eval_steps": 1,
    }
    one = bench.alone(**settings)
    two = bench.cut(**settings)
    assert_equal(two, one, "ual/token_weight", "eval_loss")
    bench.assert_gradients(two, one)


def of_a_reference(bench: Bench) -> None:
    """The model before tuning lies whole on each process."""
    reference = {"prior": "reference", "reference": str(bench.model)}
    settings: dict[str, Any] = {
        "ual": {"smoothing": reference, "loss": {"anchor": {"weight": 0.1}}},
        "learning_rate": 1.0,
        "max_steps": 2,
    }
    one = bench.alone(**settings)
    two = bench.cut(**settings)
    assert one.values("ual/reference_kl")[1] > 1e-5
    assert_equal(two, one, "ual/reference_kl", "ual/reference_entropy", "loss/anchor")


def of_stages(bench: Bench) -> None:
    """Both processes have the rows of the plan for one."""
    settings: dict[str, Any] = {
        "ual": {"curriculum": {"mode": "phased"}},
        "max_steps": None,
        "learning_rate": 0.1,
    }
    one = bench.alone(**settings)
    two = bench.cut(**settings)
    assert {1.0, 3.0} <= set(one.values("ual/stage"))
    assert_equal(two, one, "ual/stage", "ual/uncertainty")


def that_the_host_stops(bench: Bench) -> None:
    """Without the plugin, Axolotl 0.19 ends where its refusal says."""
    run = bench.cut(plugins=(), check=False)
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
