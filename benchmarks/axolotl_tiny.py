"""One of Axolotl's recipes made small enough for a CPU without a network.

The model is swapped for a random one of two layers of the same architecture, where transformers
knows it by name, the rows for a few of the format that each dataset names, annotated. What needs a
GPU, several processes or a server is taken out or set back, and listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tiny_images
from axolotl_rows import DATASETS, ROWS, annotated, rows

import tiny

Recipe = dict[str, Any]

_TOKENS = ["<unk>", "<|im_start|>", "<|im_end|>", "<start_of_turn>", "<end_of_turn>", "<|eot_id|>"]

FAMILIES: Mapping[str, str] = {
    r"qwen3\.5.*a\d+b": "qwen3_5_moe_text",
    r"qwen3\.5": "qwen3_5_text",
    r"qwen3-next": "qwen3_next",
    r"qwen3-30b": "qwen3_moe",
    r"qwen1\.5-moe": "qwen2_moe",
    r"qwen3|reward-v2-qwen3|plano": "qwen3",
    r"qwen2|deepcoder|mimo|cogito-v1-preview-qwen": "qwen2",
    r"llama-4": "llama4_text",
    r"gemma-4.*a4b|gemma-4": "gemma4_text",
    r"gemma-3n": "gemma3n_text",
    r"gemma-3": "gemma3_text",
    r"gemma-2": "gemma2",
    r"gemma": "gemma",
    r"glm-5": "glm_moe_dsa",
    r"glm-4\.7-flash": "glm4_moe_lite",
    r"glm-4\.5": "glm4_moe",
    r"glm-4": "glm4",
    r"gpt-oss": "gpt_oss",
    r"deepseek-v4": "deepseek_v4",
    r"deepseek-v2": "deepseek_v2",
    r"mixtral": "mixtral",
    r"mistral-small-4": "mistral4",
    r"ministral-3": "ministral3",
    r"mistral|magistral|devstral|ministral": "mistral",
    r"falcon-h1": "falcon_h1",
    r"falcon-e": "llama",
    r"falcon": "falcon",
    r"jamba": "jamba",
    r"nemotron-3": "nemotron_h",
    r"nemotron": "nemotron",
    r"lfm2-8b": "lfm2_moe",
    r"lfm2": "lfm2",
    r"apertus": "apertus",
    r"afm": "arcee",
    r"trinity": "afmoe",
    r"cerebras-gpt": "gpt2",
    r"gpt-j": "gptj",
    r"mpt": "mpt",
    r"pythia|redpajama": "gpt_neox",
    r"starcoder2": "starcoder2",
    r"command-r7b": "cohere2",
    r"dbrx": "dbrx",
    r"granite": "granitemoehybrid",
    r"hunyuan": "hunyuan_v1_dense",
    r"minimax": "minimax_m2",
    r"olmo-3": "olmo3",
    r"phi-3": "phi3",
    r"phi": "phi",
    r"seed-oss": "seed_oss",
    r"smollm3": "smollm3",
    r"stablelm": "stablelm",
    r"mamba": "mamba",
}
"""The architecture in transformers of the models whose names match; a Llama for all others."""

_SMALL: Mapping[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model"), 32),
    **dict.fromkeys(("intermediate_size", "hidden_size_per_layer_input", "ffn_hidden_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "global_head_dim", "index_head_dim", "v_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "rotary_dim"), 8),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "o_lora_rank"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "top_k_experts", "num_experts_per_token"), 2),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("shared_intermediate_size", "moe_shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"), 1),
    **dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 8),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len"), 512),
    **dict.fromkeys(("mamba_d_ssm", "mamba_d_state", "mamba_dt_rank", "ssm_state_size"), 32),
    **dict.fromkeys(("mamba_n_heads", "mamba_num_heads"), 4),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("n_groups", "mamba_n_groups", "index_n_heads"), 2),
    "num_kv_shared_layers": 0,
    "expand": 2,
}
"""Settings of a config, where an architecture has them."""

_ON_A_CPU: Mapping[str, Any] = {
    "attn_implementation": "sdpa",
    **dict.fromkeys(("load_in_4bit", "load_in_8bit", "gptq", "tf32", "fp16"), False),
    **dict.fromkeys(("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel"), False),
}
_SHORT_ANSWERS: Mapping[str, Any] = {
    **dict.fromkeys(("use_vllm", "async_prefetch"), False),
    "max_completion_length": 8,
    "num_generations": 2,
    "generation_kwargs": None,
}
_CHANGED = {"optimizer", "plugins", "gradient_checkpointing", "trl", "bf16", "sample_packing"}
_UNPACKED = ("granitemoehybrid", "nemotron_h")
"""Axolotl keeps packed rows apart in their Mamba layers by kernels for a GPU."""
_NOT_HERE = re.compile(
    r"flash_|fsdp|deepspeed|ddp|dp_|tensor_parallel|context_para|expert_parallel|experts_impl"
    r"|torch_compile|flex_attn|fp8|float16|bfloat16|torch_dtype|cut_cross|liger_|use_scatter"
    r"|use_sonic|use_kernels|use_dsv4|use_glm|dsv4_|fused_attn|quantize_moe|qat|nvfp4|gptq_|bnb_"
    r"|model_quantization|use_onebitllms|llama4_linear|wandb|swanlab|use_swanlab|trackio|otel"
    r"|use_otel|use_ray|ray_|hub_|device_map|experimental_skip|low_cpu|peft$|reinit|local_rank"
    r"|tokenizer_|model_type|trust_remote|revision|processor_type|base_model_|model_config"
    r"|cls_model|resume_|auto_resume|lora_model_dir|activation_offloading|tiled_mlp|gemma4_hybrid"
    r"|batch_size$|eval_table|eval_causal|do_causal|use_tensorboard|vllm|test_value|strict|push_dataset"
)
"""Keys that need a GPU, a network, or the model that the recipe names."""
_PLUGINS = re.compile(r"Liger|CutCross|Kernels|Swanlab|SwanLab|LLMCompressor|nvfp4|expert_parallel")


def family(name: str) -> str:
    """The architecture of a model by its name."""
    found = (kind for pattern, kind in FAMILIES.items() if re.search(pattern, name.lower()))
    return next(found, "llama")


def make_model(recipe: Recipe, folder: Path) -> tuple[str, str]:
    """Save a tiny model for a recipe; gives its architecture, and its kind of attention."""
    import torch
    from transformers import AutoModelForCausalLM

    if recipe.get("processor_type"):
        tiny_images.make_model(folder)
        return "llava", "sdpa"
    tokenizer = tiny.make_tokenizer(folder)
    named = [*_TOKENS, *(recipe.get("special_tokens") or {}).values()]
    named += [*(recipe.get("eot_tokens") or []), *(recipe.get("tokens") or [])]
    tokenizer.add_special_tokens({"additional_special_tokens": sorted(set(filter(None, named)))})
    tokenizer.save_pretrained(folder)
    kind = family(recipe["base_model"])
    for given in (kind, "llama"):
        torch.manual_seed(0)
        try:
            model = AutoModelForCausalLM.from_config(_config(given, tokenizer))
            model.save_pretrained(folder)
        except Exception:  # any architecture may need more than sizes: then it is a Llama's turn
            continue
        return given, "sdpa" if model._supports_sdpa else "eager"
    raise AssertionError("a Llama could not be made")


def _config(kind: str, tokenizer: Any) -> Any:
    """A small config of an architecture."""
    from transformers import AutoConfig

    known = AutoConfig.for_model(kind).to_dict()
    marks = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id")}
    sizes = {name: value for name, value in _SMALL.items() if name in known}
    if "kv_lora_rank" in known:  # latent attention has as many keys as heads
        sizes["num_key_value_heads"] = sizes["num_attention_heads"]
    return AutoConfig.for_model(
        kind, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **marks, **sizes
    )


def _pictured(folder: Path) -> list[Recipe]:
    """Rows with images."""
    drawn = tiny_images.draw(folder)
    return [
        {"messages": tiny_images.messages(n, drawn[n % len(drawn)]), **annotated(n)}
        for n in range(ROWS)
    ]


def _local(entry: Any, number: int, folder: Path, images: bool) -> Recipe:
    """An entry with its rows in a file."""
    entry = {"path": entry, "type": "pretrain"} if isinstance(entry, str) else dict(entry)
    made = _pictured(folder / "images") if images else rows(entry)
    path = tiny.write_rows(folder / f"rows-{number}.jsonl", made)
    for gone in ("name", "data_files", "revision", "trust_remote_code", "skip"):
        entry.pop(gone, None)
    if images:
        entry.pop("field_messages", None)
    return {**entry, "path": str(path), "ds_type": "json", "split": "train"}


def swapped(recipe: Recipe, folder: Path) -> tuple[Recipe, str, list[str]]:
    """A recipe for a CPU.

    Args:
        recipe: as Axolotl ships it.
        folder: where model, rows and run are put.

    Returns:
        The recipe, the architecture of its model, and the keys that were taken out or changed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind, attention = make_model(recipe, folder / "model")
    images = bool(recipe.get("processor_type"))
    kept = {key: value for key, value in recipe.items() if value is not None}
    gone = {key for key in kept if _NOT_HERE.match(key)}
    small = {**{k: v for k, v in kept.items() if k not in gone}, **dict(_sizes(kept, folder))}
    if images:
        small.update(processor_type="AutoProcessor", chat_template="qwen2_vl")
    small["attn_implementation"] = attention
    if kind in _UNPACKED:
        small["sample_packing"] = False
    if kind == "falcon" and not small["adapter"]:  # its layer norms are of both dtypes then
        small["bf16"] = False
    small["base_model"] = str(folder / "model")
    small["plugins"] = [name for name in kept.get("plugins", []) if not _PLUGINS.search(name)]
    for key in DATASETS:
        entries = kept.get(key)
        if entries:
            listed = entries if isinstance(entries, list) else [entries]
            small[key] = [_local(entry, n, folder, images) for n, entry in enumerate(listed)]
    if "pretraining_dataset" in small:
        small["pretraining_dataset"] = [_streamed(e) for e in small["pretraining_dataset"]]
    small.update(_modules(small, folder / "model"))
    changed = {key for key in kept if key in small and small[key] != kept[key]}
    return small, kind, sorted(gone | (changed & (_ON_A_CPU.keys() | _CHANGED)))


def _streamed(entry: Recipe) -> Recipe:
    """Axolotl hands the path of a stream to `load_dataset`, which wants a format there."""
    path = entry.pop("path")
    entry.pop("ds_type")
    return {**entry, "path": "json", "data_files": path}


def _sizes(kept: Recipe, folder: Path) -> Iterator[tuple[str, Any]]:
    """What every recipe gets: a few steps on a CPU, into a folder."""
    yield from _ON_A_CPU.items()
    yield "bf16", kept.get("bf16") in ("auto", True)
    yield "adapter", {"qlora": "lora"}.get(kept.get("adapter", ""), kept.get("adapter"))
    optimizer = str(kept.get("optimizer", ""))
    own = not re.search(r"8bit|4bit|paged|bnb|fused|galore|ao_", optimizer)
    yield "optimizer", optimizer if own and optimizer else "adamw_torch"
    for key, most in (("micro_batch_size", 2), ("gradient_accumulation_steps", 2)):
        yield key, min(kept.get(key, 1), most)
    yield "sequence_len", 256
    yield "max_steps", 2
    yield "dataset_num_proc", 1
    yield "logging_steps", 1
    yield "dataset_prepared_path", str(folder / "prepared")
    yield "output_dir", str(folder / "out")
    yield "special_tokens", {"pad_token": "<pad>", **(kept.get("special_tokens") or {})}
    if kept.get("val_set_size"):
        yield "val_set_size", 0.25
    if isinstance(kept.get("gradient_checkpointing"), str):  # to offload needs a GPU
        yield "gradient_checkpointing", True
    if kept.get("trl"):
        yield "trl", {**kept["trl"], **_SHORT_ANSWERS}
    if kept.get("lisa_n_layers"):
        yield "lisa_n_layers", 1
    if kept.get("streaming_multipack_buffer_size"):
        yield "streaming_multipack_buffer_size", ROWS // 2


def _modules(small: Recipe, model: Path) -> Recipe:
    """All linear layers where a recipe names modules that the tiny model has none of."""
    if small["adapter"] is None:
        return {}
    named = small.get("lora_target_modules")
    has = _parameters(model)
    spelled = named
    if isinstance(named, str) and not _matches(named, has):
        spelled = re.sub(r"language_model(\\?\.)", "", named)  # a model of text alone has none
    found = _matches(spelled, has)
    wanted: Recipe = {} if spelled is None else {"lora_target_modules": spelled if found else None}
    parts = small.get("lora_target_parameters") or []
    if any(name.endswith(part) for part in parts for name in has):
        found = True
    elif parts:
        wanted["lora_target_parameters"] = None
    if not found and not small.get("lora_target_linear"):
        wanted["lora_target_linear"] = True
    return wanted


def _matches(named: Any, has: list[str]) -> bool:
    """Whether what a recipe names, a pattern or the ends of names, is there."""
    patterns = [named] if isinstance(named, str) else [rf"(.*\.)?{one}" for one in named or []]
    return any(re.fullmatch(one, name) for one in patterns for name in has)


def _parameters(model: Path) -> list[str]:
    """Names of the tiny model's modules and parameters."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText

    config = AutoConfig.from_pretrained(model)
    auto = AutoModelForImageTextToText if config.model_type == "llava" else AutoModelForCausalLM
    with torch.device("meta"):
        made = auto.from_config(config)
    return [name for name, _ in [*made.named_modules(), *made.named_parameters()]]
