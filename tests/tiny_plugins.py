"""Axolotl plugins that only tests use: a lossless log, and runs of several processes on a CPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin
from transformers import TrainerCallback


class _Writer(TrainerCallback):
    def __init__(self, path: Path) -> None:
        self.path = path

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if state.is_world_process_zero:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as stream:
                stream.write(json.dumps({"step": state.global_step, **(logs or {})}) + "\n")


class Recorder(BasePlugin):
    """Writes every log entry to `output_dir/log.jsonl` with all its digits."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [_Writer(Path(cfg.output_dir) / "log.jsonl")]


class ManyProcesses(BasePlugin):
    """Lets Axolotl load a model on the CPU in each of several processes."""

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        cfg.device_map = {"": "cpu"}


class TorchSmoothing(BasePlugin):
    """PyTorch's own smoothed loss, 0.1 for every token, in place of the model's loss."""

    def get_trainer_cls(self, cfg: Any) -> Any:
        import torch
        from axolotl.core.trainers.base import AxolotlTrainer

        class Trainer(AxolotlTrainer):
            def compute_loss(
                self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any
            ) -> Any:
                labels = inputs.pop("labels")
                logits = model(**inputs).logits[:, :-1]
                return torch.nn.functional.cross_entropy(
                    logits.flatten(0, 1), labels[:, 1:].flatten(), label_smoothing=0.1
                )

        return Trainer


class DeepSpeedOnCPU(BasePlugin):
    """Lets Accelerate find a backend for DeepSpeed where there is no accelerator."""

    def register(self, cfg: Any) -> None:
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType

        PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_CPU)
