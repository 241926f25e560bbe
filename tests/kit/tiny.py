"""A model, a tokenizer and a recipe small enough for a CPU, and real `axolotl` runs with them.

Everything is made on the spot: a Llama of two layers and a byte-level BPE tokenizer with a chat
template. `train` runs the real command line in a subprocess and reads back what it logged.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

KIT = Path(__file__).resolve().parent
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}</s>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
ALPACA = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n### Instruction:\n\n"
    "### Response:\n"
)
SPECIAL_TOKENS = ["<pad>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>"]


def make_tokenizer(folder: Path, texts: Iterable[str] = (), vocab_size: int = 384) -> Any:
    """Save a byte-level BPE tokenizer that any text round-trips through.

    Args:
        texts: what merges are learned from, besides the alpaca prompt.
        vocab_size: an upper bound, at least 256 bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([ALPACA, ALPACA, *texts], trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return fast


def make_model(
    folder: Path, *, texts: Iterable[str] = (), vocab_size: int = 384, seed: int = 0, **config: Any
) -> Path:
    """Save a randomly initialised Llama of two layers with its tokenizer.

    Args:
        texts: see `make_tokenizer`.
        config: overrides of LlamaConfig, `hidden_size` or `tie_word_embeddings` for example.
    """
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer(folder, texts, vocab_size)
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **config}))
    model.save_pretrained(folder)
    return folder


def make_reward_model(folder: Path, **config: Any) -> Path:
    """Save such a Llama with a head of one reward in the place of the vocabulary's.

    Args:
        config: see `make_model`.
    """
    from transformers import AutoModelForSequenceClassification

    make_model(folder, **config)
    made = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    # Drawn wide, as the rest is: rewards differ.
    made.score.weight.data.normal_(std=0.3)
    made.save_pretrained(folder)
    return folder


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as .jsonl, or as .parquet by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist([dict(row) for row in rows]), path)
    else:
        path.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    return path


def recipe(
    model: Path, output: Path, datasets: Sequence[Mapping[str, Any]], **overrides: Any
) -> dict[str, Any]:
    """An Axolotl recipe that trains a LoRA adapter on a CPU.

    Args:
        output: folder of the run: prepared data and output lie in it.
        overrides: further keys; a value of None takes the key out.
    """
    settings: dict[str, Any] = {
        "base_model": str(model),
        "datasets": [dict(entry) for entry in datasets],
        "dataset_prepared_path": str(output / "prepared"),
        "output_dir": str(output / "out"),
        "sequence_len": 256,
        "sample_packing": False,
        "adapter": "lora",
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "lora_target_linear": True,
        "lora_mlp_kernel": False,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
        "micro_batch_size": 2,
        "gradient_accumulation_steps": 1,
        "max_steps": 4,
        "num_epochs": 1,
        "optimizer": "adamw_torch",
        "lr_scheduler": "constant",
        "learning_rate": 0.01,
        "seed": 7,
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "attn_implementation": "sdpa",
        "logging_steps": 1,
        "save_strategy": "epoch",
        "dataset_num_proc": 1,
        "special_tokens": {"pad_token": "<pad>"},
        **overrides,
    }
    return {key: value for key, value in settings.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Run:
    """What a finished `axolotl` process left behind.

    Attributes:
        returncode: exit status.
        text: stdout and stderr together.
        log: the trainer's log entries in order, with every digit.
        output: `output_dir` of the recipe.
    """

    returncode: int
    text: str
    output: Path
    log: list[dict[str, Any]] = field(default_factory=list)

    def values(self, key: str) -> list[float]:
        """A logged quantity, step by step."""
        return [entry[key] for entry in self.log if key in entry]


def axolotl(
    settings: Mapping[str, Any],
    folder: Path,
    *,
    command: str = "train",
    processes: int = 1,
    launcher: str | None = None,
    environment: Mapping[str, str] | None = None,
    imports: Mapping[str, str] | None = None,
    check: bool = True,
    keep: bool = False,
    typed: str = "",
) -> Run:
    """Run `axolotl COMMAND` on a recipe in a process of its own.

    Args:
        folder: where the recipe file is written and the process runs.
        processes: more than one: on CPU, with gloo.
        launcher: Axolotl's; None forks the processes from a warm one, which saves the 20 s of CPU
            that Axolotl's imports take in each.
        environment: further variables.
        imports: variables that an import reads: the warm process is one that has them.
        check: fail the test when the exit status is not 0.
        keep: leave what an earlier run put into `output_dir`.
        typed: what a run with forked processes reads from its standard input.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plugins = [*settings.get("plugins", []), "tiny_plugins.Recorder"]
    if processes > 1:
        plugins.append("tiny_plugins.ManyProcesses")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**settings, "plugins": plugins}, sort_keys=False))
    output = Path(settings["output_dir"])
    if not keep:
        shutil.rmtree(output, ignore_errors=True)
    arguments = [command, str(path)]
    if command in ("train", "evaluate", "inference"):
        arguments += ["--launcher", launcher or "python"]
    variables = run_environment(processes, {**(environment or {}), **(imports or {})})
    text = folder / "output.txt"
    (folder / "input.txt").write_text(typed)
    if launcher is not None:
        arguments += ["--", f"--nproc_per_node={processes}"] if processes > 1 else []
        returncode = _run_cold(arguments, folder, variables, text)
    else:
        server = _zygote(tuple((imports or {}).items()))
        returncode = _run_warm(server, arguments, folder, variables, text, processes)
    printed = text.read_text(errors="replace")
    if check:
        assert returncode == 0, printed[-6000:]
    return Run(returncode, printed, output, read_log(output))


def read_log(output: Path) -> list[dict[str, Any]]:
    """The entries that `tiny_plugins.Recorder` has written."""
    log = output / "log.jsonl"
    lines = log.read_text().splitlines() if log.is_file() else []
    return [json.loads(line) for line in lines]


def _run_cold(arguments: list[str], folder: Path, variables: Mapping[str, str], text: Path) -> int:
    with text.open("w") as stream:
        return subprocess.run(
            [sys.executable, "-m", "axolotl.cli.main", *arguments],
            cwd=folder,
            env={**os.environ, **variables},
            stdout=stream,
            stderr=subprocess.STDOUT,
            timeout=800,
            check=False,
        ).returncode


def _run_warm(
    server: subprocess.Popen[str],
    arguments: list[str],
    folder: Path,
    variables: Mapping[str, str],
    text: Path,
    processes: int,
) -> int:
    request = {
        "arguments": arguments,
        "folder": str(folder),
        "environment": dict(variables),
        "input": str(folder / "input.txt"),
        "output": str(text),
        "processes": processes,
    }
    assert server.stdin is not None and server.stdout is not None
    server.stdin.write(json.dumps(request) + "\n")
    server.stdin.flush()
    answer = server.stdout.readline()
    assert answer, "the process that runs axolotl has gone"
    return int(json.loads(answer)["returncode"])


@functools.cache
def _zygote(imports: tuple[tuple[str, str], ...]) -> subprocess.Popen[str]:
    server = subprocess.Popen(
        [sys.executable, str(KIT / "tiny_zygote.py")],
        env={**os.environ, **run_environment(1, dict(imports))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    atexit.register(server.kill)
    return server


def run_environment(processes: int = 1, further: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables that a run of Axolotl in the tests needs."""
    result = {
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"])),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        "PYTHONPATH": os.pathsep.join(
            part for part in (str(KIT), os.environ.get("PYTHONPATH", "")) if part
        ),
    }
    if processes > 1:
        result["ACCELERATE_USE_CPU"] = "true"
    return {**result, **(further or {})}
