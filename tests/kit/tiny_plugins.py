"""Axolotl plugins that only tests use: a lossless log, and runs of several processes on a CPU."""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from axolotl.integrations.base import BasePlugin, PluginManager
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
    """Writes every log entry to `output_dir/log.jsonl` with all its digits, and who is loaded."""

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        path = Path(cfg.output_dir) / "plugins.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(list(PluginManager.get_instance().plugins)))

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [_Writer(Path(cfg.output_dir) / "log.jsonl")]


class ManyProcesses(BasePlugin):
    """Lets Axolotl load a model on the CPU in each of several processes."""

    def register(self, cfg: Any) -> None:
        from axolotl.utils import trainer

        # It asks whether GPUs reach each other; torch built for CUDA fails where there is none.
        trainer.check_cuda_p2p_ib_support = lambda: True

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> None:
        cfg.device_map = {"": "cpu"}


class BF16OnCPU(BasePlugin):
    """Lets transformers train in bfloat16 where there is no accelerator."""

    def get_training_args(self, cfg: Any) -> dict[str, Any]:
        return {"use_cpu": True}


class _Killed(TrainerCallback):
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        last = args.process_index == args.world_size - 1
        if state.global_step == 3 and last and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)


class KilledOnce(BasePlugin):
    """The last process is killed, as if memory had run out, after its third step; once."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [_Killed(Path(cfg.output_dir) / "killed")]


class _Slow(TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        time.sleep(0.2)


class Slow(BasePlugin):
    """Steps that take long enough to be interrupted between two of them."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [_Slow()]


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
    """Lets Accelerate find a backend for DeepSpeed where there is no accelerator.

    Processes talk by gloo. DeepSpeed's own way through shared memory is C++ that it would compile.
    """

    def register(self, cfg: Any) -> None:
        backend: Any = importlib.import_module("deepspeed.comm.torch")
        backend.build_shm_op = lambda: None
        from accelerate.state import PartialState
        from accelerate.utils import DistributedType

        PartialState._prepare_backend = lambda *_, **__: ("gloo", DistributedType.MULTI_CPU)


class _AllSharded(TrainerCallback):
    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        from torch.distributed.tensor import DTensor

        whole = [name for name, part in model.named_parameters() if not isinstance(part, DTensor)]
        assert not whole, f"not sharded: {whole}"


class FSDPOnCPU(BasePlugin):
    """Lets Axolotl and Accelerate shard with FSDP2 where there is no accelerator.

    Axolotl makes its mesh of `cuda`, and Accelerate takes processes on a CPU for plain DDP.
    """

    def register(self, cfg: Any) -> None:
        from accelerate.parallelism_config import ParallelismConfig
        from accelerate.state import AcceleratorState, PartialState
        from accelerate.utils import DistributedType

        build, init = ParallelismConfig.build_device_mesh, AcceleratorState.__init__

        def initialise(state: Any, *args: Any, fsdp_plugin: Any = None, **kwargs: Any) -> None:
            init(state, *args, fsdp_plugin=fsdp_plugin, **kwargs)
            if fsdp_plugin is not None:
                state.fsdp_plugin = fsdp_plugin
                state.distributed_type = DistributedType.FSDP
                PartialState._shared_state["distributed_type"] = DistributedType.FSDP

        ParallelismConfig.build_device_mesh = lambda self, _: build(self, "cpu")
        AcceleratorState.__init__ = initialise

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [_AllSharded()]


class _AllFlattened(TrainerCallback):
    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        from torch.distributed.fsdp import FlatParameter, FullyShardedDataParallel

        units = FullyShardedDataParallel.fsdp_modules(model)
        assert len(units) > 1
        assert all(isinstance(unit._flat_param, FlatParameter) for unit in units)


class FirstFSDPOnCPU(FSDPOnCPU):
    """The same for the first generation, which takes a CPU with a number for another device.

    Nothing is saved: there PyTorch dies of a violation of memory when it gathers on a CPU what it
    saves, whoever the trainer is.
    """

    def register(self, cfg: Any) -> None:
        import torch
        from torch.distributed.fsdp import FullyShardedDataParallel

        super().register(cfg)
        init = FullyShardedDataParallel.__init__

        def initialise(unit: Any, *args: Any, **kwargs: Any) -> None:
            init(unit, *args, **{**kwargs, "device_id": torch.device("cpu")})

        FullyShardedDataParallel.__init__ = initialise

    def post_trainer_create(self, cfg: Any, trainer: Any) -> None:
        trainer.save_model = lambda *_, **__: None

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [_AllFlattened()]


class BatchWriter(BasePlugin):
    """Writes what the loss is computed of to `output_dir/batch-N.pt`, from 0 on."""

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        import torch

        compute, folder = trainer.compute_loss, Path(cfg.output_dir)
        numbers = itertools.count()

        def writing(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            folder.mkdir(parents=True, exist_ok=True)
            torch.save(dict(inputs), folder / f"batch-{next(numbers)}.pt")
            return compute(model, inputs, *args, **kwargs)

        trainer.compute_loss = writing
        return []


def _cut_cross_entropy(
    self: Any, input_ids: Any, labels: Any, attention_mask: Any = None, **_: Any
) -> Any:
    """Like the fork's forwards: a loss from the head's weight, and no logits."""
    import torch
    from transformers.modeling_outputs import CausalLMOutputWithPast

    hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    logits = hidden[:, :-1].flatten(0, 1) @ self.lm_head.weight.T
    loss = torch.nn.functional.cross_entropy(logits, labels[:, 1:].flatten())
    return CausalLMOutputWithPast(loss=loss)


class CutCrossEntropyFork(BasePlugin):
    """Stands in for the fork that Axolotl's plugin patches models with: no package index has it."""

    def register(self, cfg: Any) -> None:
        names = [
            f"cut_cross_entropy{part}" for part in ("", ".transformers", ".transformers.patch")
        ]
        for name in names:
            spec = importlib.machinery.ModuleSpec(name, None, is_package=True)
            sys.modules[name] = importlib.util.module_from_spec(spec)
        patch: Any = sys.modules[names[-1]]
        patch.AXOLOTL_CCE_FORK = True
        patch.PATCH_FNS = {"llama": None}
        patch.cce_patch = self._patch

    @staticmethod
    def _patch(model_type: str, remote_model_id: str | None = None, **options: Any) -> None:
        from transformers import LlamaForCausalLM

        LlamaForCausalLM.forward = _cut_cross_entropy


class LayersCutOnCPU(BasePlugin):
    """Lets Accelerate cut layers over processes on a CPU, which it takes for a GPU's business."""

    def register(self, cfg: Any) -> None:
        from accelerate.parallelism_config import ParallelismConfig

        build = ParallelismConfig.build_device_mesh
        ParallelismConfig.build_device_mesh = lambda self, _: build(self, "cpu")
        ParallelismConfig._validate_accelerator = lambda self, _: None

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        return [_HeadCut()]


class _HeadCut(TrainerCallback):
    def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
        head = model.get_output_embeddings().weight
        assert any(place.is_shard() for place in head.placements), "the head is not cut"
