"""A real chain, killed and preempted in each of its steps, ends as an undisturbed one does."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import stand_in_slurm
import torch
import warm
import yaml
from safetensors.torch import load_file

import tiny
from axolotl_ual.columns import Manifest

pytestmark = pytest.mark.slow

ROWS = 24
IN_FLIGHT = 2


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def rows(start: int, number: int) -> list[dict[str, str]]:
    return [
        {"instruction": f"Say what comes after {n}.", "output": f"{n + 1} comes after {n}."}
        for n in range(start, start + number)
    ]


class Chain:
    """A recipe, the file that says where it runs, and the queue, in a folder of their own."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder = folder
        self.judge = f"http://localhost:{free_port()}"
        self.state = folder / "state"
        self.state.mkdir(parents=True)
        slurm = stand_in_slurm.install(folder / "slurm")
        self.environment = {
            **os.environ,
            **warm.commands(),
            "PATH": f"{slurm}:{warm.commands()['PATH']}",
            "STAND_IN_SLURM": str(self.state),
        }
        tiny.write_rows(folder / "rows.jsonl", rows(0, ROWS))
        tiny.write_rows(folder / "held-out.jsonl", rows(100, 8))
        self._write(model)

    def _write(self, model: Path) -> None:
        judge = {
            "model": "stand-in",
            "base_url": f"{self.judge}/v1",
            "max_concurrency": IN_FLIGHT,
        }
        held_out = {"path": "held-out.jsonl", "type": "alpaca"}
        entry = {"path": "rows.jsonl", "type": "alpaca"}
        recipe = tiny.recipe(
            model,
            Path("."),
            [entry],
            plugins=["axolotl_ual.UALPlugin", "tiny_plugins.Slow", "tiny_plugins.Recorder"],
            ual={
                "annotate": {"output": "annotated", "judge": judge, "cache": "answers"},
                "evaluate": {
                    "data": [held_out],
                    "output": "evaluation",
                    "cache": "measured",
                    "device": "cpu",
                    "generation": {"max_tokens": 32},
                },
            },
            micro_batch_size=4,
            max_steps=None,
            lora_dropout=0.1,
            save_strategy="steps",
            save_steps=2,
        )
        server = Path(tiny.KIT) / "judge_server.py"
        port = self.judge.rpartition(":")[2]
        where = {
            "provider": "slurm",
            "annotate": {
                "serve": f"{sys.executable} {server} --port {port} --latency 0.1",
                "ready": f"{self.judge}/stats",
            },
            "train": {"port": free_port()},
            "evaluate": {"runs": ["base", "ual=out"]},
        }
        (self.folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
        (self.folder / "where.yaml").write_text(yaml.safe_dump(where))

    def launch(self, *disturbances: Callable[[], None]) -> list[str]:
        """Launch the chain and disturb it; gives how each of its jobs ended."""
        before = len(list(self.state.glob("*.status")))
        command = ["axolotl-ual", "launch", "recipe.yaml", "--on", "where.yaml"]
        with (self.folder / "launched").open("w") as said:
            run = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=said, stderr=said
            )
            for disturb in disturbances:
                disturb()
            assert run.wait(timeout=900) == 0, (self.folder / "launched").read_text()
        numbers = range(before + 1, before + 4)
        return [(self.state / f"{number}.status").read_text() for number in numbers]

    def running(self, step: str) -> float:
        """Since when the job of a step has been running; 0 where another one is."""
        jobs = len(list(self.state.glob("*.status")))
        process = self.state / f"{jobs + 1}.pid"
        found = step == ("annotate", "train", "evaluate")[jobs % 3] and process.is_file()
        return process.stat().st_mtime if found else 0.0

    def send(self, step: str, number: signal.Signals) -> None:
        """A signal for the job that runs: KILL for all of its processes, USR1 for its script."""
        assert self.running(step), "another step runs"
        jobs = len(list(self.state.glob("*.status")))
        process = int((self.state / f"{jobs + 1}.pid").read_text())
        if number == signal.SIGKILL:
            os.killpg(process, number)
        else:
            os.kill(process, number)

    def answered(self) -> int:
        """How much the judge that is being served has answered; 0 where there is none."""
        try:
            with urllib.request.urlopen(f"{self.judge}/stats", timeout=5) as stats:
                return int(json.load(stats)["answered"])
        except OSError:
            return 0

    def log(self, step: str) -> str:
        paths = sorted(self.folder.glob(f"jobs/ual-{step}.*.log"))
        return "".join(path.read_text() for path in paths)

    @property
    def results(self) -> tuple[bytes, dict[str, torch.Tensor], Any]:
        """The annotated rows, the adapter, and what was measured."""
        return (
            (self.folder / "annotated" / "train.parquet").read_bytes(),
            load_file(self.folder / "out" / "adapter_model.safetensors"),
            json.loads((self.folder / "evaluation" / "evaluation.json").read_text())["results"],
        )


def until(true: Callable[[], Any]) -> Any:
    """What a function gives when it gives something."""
    end = time.monotonic() + 600
    while not (found := true()):
        assert time.monotonic() < end, "it never came to that"
        time.sleep(0.005)
    return found


def test_a_chain_that_is_disturbed_in_each_step_ends_as_an_undisturbed_one(
    tmp_path: Path,
) -> None:
    model = tiny.make_model(tmp_path / "model")
    calm = Chain(tmp_path / "calm", model)
    assert calm.launch() == ["0", "0", "0"], calm.log("*")
    chain = Chain(tmp_path / "disturbed", model)
    out, answered = chain.folder / "out", []

    def in_annotate(number: signal.Signals) -> None:
        answered.append(until(lambda: (found := chain.answered()) >= 6 and found))
        chain.send("annotate", number)

    def in_train(number: signal.Signals, step: int) -> None:
        until((out / f"checkpoint-{step}" / "trainer_state.json").exists)
        chain.send("train", number)

    def in_evaluate(number: signal.Signals) -> None:
        begun = until(lambda: chain.running("evaluate"))
        kept = chain.folder / "measured"
        until(lambda: any(path.stat().st_mtime > begun for path in kept.glob("*")))
        chain.send("evaluate", number)

    kill, preempt = signal.SIGKILL, signal.SIGUSR1
    assert chain.launch(lambda: in_annotate(kill)) == ["-9", "never", "never"]
    ended = chain.launch(lambda: in_annotate(preempt), lambda: in_train(kill, 2))
    assert ended == ["0", "-9", "never"], chain.log("*")
    usage = Manifest.read(chain.folder / "annotated").usage
    assert usage.requests + usage.cached == ROWS
    # At the most what was in flight at the two ends was not kept.
    assert usage.cached >= sum(answered) - 2 * IN_FLIGHT
    ended = chain.launch(lambda: in_train(preempt, 4), lambda: in_evaluate(kill))
    assert ended == ["0", "0", "-9"], chain.log("*")
    assert Manifest.read(chain.folder / "annotated").usage.requests == 0
    shutil.rmtree(chain.folder / "evaluation", ignore_errors=True)
    assert chain.launch(lambda: in_evaluate(preempt)) == ["0", "0", "0"], chain.log("*")
    for step in ("annotate", "train", "evaluate"):
        assert chain.log(step).count("going back into the queue") == 1
    # Six steps, a checkpoint after each second: none is trained again that has one.
    steps = [entry["step"] for entry in tiny.read_log(out) if "loss" in entry]
    assert sorted(set(steps)) == [1, 2, 3, 4, 5, 6]
    assert [steps.count(step) for step in (1, 2, 4, 6)] == [1, 1, 1, 1]
    rows, adapter, measured = calm.results
    found = chain.results
    assert found[0] == rows and found[2] == measured
    assert all(torch.equal(found[1][name], adapter[name]) for name in adapter)
