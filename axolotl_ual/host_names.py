"""What of Axolotl, transformers, TRL and PEFT is used beyond their documented interfaces.

A name that was renamed, or takes other parameters, is often no error by itself: a method that
nobody calls overrides nothing, and rows are trained in another order. So every such name stands
here with its parameters, and is compared with what is installed before data are loaded.

`module:name(parameters)`: a parameter with a default ends in `=`. A name that takes other
parameters in other versions stands here once for each. Without parentheses it need only be there:
a class that is derived from or made, or an attribute that methods of a class set.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any, Final, Literal

from axolotl_ual.errors import UnsupportedError
from axolotl_ual.host import installed

Use = Literal["data", "messages", "trainer", "sft", "preference", "reward", "prompts", "reference"]

NAMES: Final[dict[Use, tuple[str, ...]]] = {
    "data": (
        "axolotl.cli.args:PreprocessCliArgs",
        "axolotl.cli.args:TrainerCliArgs",
        "axolotl.common.datasets:load_datasets(*, cfg, cli_args=, debug=)",
        "axolotl.common.datasets:load_preference_datasets(*, cfg, cli_args=)",
        "axolotl.integrations.base:PluginManager.cfg",
        "axolotl.integrations.base:PluginManager.get_instance()",
        "axolotl.loaders.tokenizer:load_tokenizer(cfg)",
        "axolotl.prompt_strategies.base:load(strategy, cfg, module_base=, **kwargs)",
        "axolotl.prompt_strategies.chat_template:ChatTemplateStrategy.eot_tokens",
        "axolotl.prompt_strategies.chat_template:ChatTemplateStrategy.roles_to_train",
        "axolotl.prompt_strategies.dpo.chat_template:default(cfg, dataset_idx=, **kwargs)",
        "axolotl.prompt_tokenizers:PromptTokenizingStrategy.max_length",
        "axolotl.prompt_tokenizers:PromptTokenizingStrategy.tokenizer",
        "axolotl.prompt_tokenizers:PromptTokenizingStrategy.train_on_inputs",
        "axolotl.utils.chat_templates:get_chat_template_from_config(cfg, ds_cfg=, tokenizer=)",
        "axolotl.utils.data.sft:_load_and_process_single_dataset"
        "(dataset_config, cfg, tokenizer, split, seed, processor=, streaming=)",
        "axolotl.utils.data.sft:wrap_streaming_dataset(dataset, tokenizer, cfg, ds_wrapper_fn)",
        "axolotl.utils.data.wrappers:wrap_dataset_for_tokenized_prompt"
        "(prompt_tokenizer, dataset, **kwargs)",
        "axolotl.utils.logging:get_logger(name, log_level=)",
        "axolotl.utils.samplers.multipack:pack_parallel(sequence_lengths, bin_capacity, "
        "group_size, bin_size, num_processes=, safe_mode=, mp_start_method=)",
        "axolotl.utils.samplers.utils:get_dataset_lengths(dataset, from_arrow=)",
        "axolotl.utils.trainer:calculate_total_num_steps(cfg, train_dataset, update=)",
    ),
    "messages": (
        "axolotl.prompt_strategies.chat_template:ChatTemplateStrategy",
        "axolotl.prompt_strategies.chat_template:ChatTemplateStrategy._build_turn_locator"
        "(self, turns, tools, input_ids)",
        "axolotl.prompt_strategies.chat_template:ChatTemplateStrategy._get_messages(self, prompt)",
        "axolotl.prompt_strategies.chat_template:ChatTemplateStrategy._get_tools(self, prompt)",
        "axolotl.prompt_strategies.chat_template:ChatTemplateStrategy.find_turn(self, turns, "
        "turn_idx, tools=, content_only=, reasoning_only=, locator=)",
        "axolotl.prompt_strategies.chat_template:ChatTemplateStrategy.get_conversation_thread"
        "(self, prompt)",
        "axolotl.utils.dict:remove_none_values(obj)",
    ),
    "trainer": (
        "transformers.integrations.deepspeed:is_deepspeed_zero3_enabled()",
        "transformers.trainer:Trainer._get_dataloader(self, dataset, description, batch_size, "
        "sampler_fn=, is_training=, dataloader_key=)",
        "transformers.trainer:Trainer._get_train_sampler(self, train_dataset=)",
        "transformers.trainer:Trainer._init_training_state(self, max_steps, "
        "num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial)",
        "transformers.trainer:Trainer._prepare_inputs(self, inputs)",
        "transformers.trainer:Trainer._remove_unused_columns(self, dataset, description=)",
        "transformers.trainer:Trainer._set_signature_columns_if_needed(self)",
        "transformers.trainer:Trainer._signature_columns",
        "transformers.trainer:Trainer._train_batch_size",
        "transformers.trainer:Trainer.compute_loss"
        "(self, model, inputs, return_outputs=, num_items_in_batch=)",
        "transformers.trainer:Trainer.compute_loss_context_manager(self)",
        "transformers.trainer:Trainer.create_scheduler(self, num_training_steps, optimizer=)",
        "transformers.trainer:Trainer.current_gradient_accumulation_steps",
        "transformers.trainer:Trainer.evaluate"
        "(self, eval_dataset=, ignore_keys=, metric_key_prefix=)",
        "transformers.trainer:Trainer.get_batch_samples(self, epoch_iterator, num_batches, device)",
        "transformers.trainer:Trainer.get_train_dataloader(self)",
        "transformers.trainer:Trainer.log(self, logs, start_time=)",
        "transformers.trainer:Trainer.model_accepts_loss_kwargs",
        "transformers.trainer:Trainer.set_initial_training_values(self, args, dataloader)",
        "transformers.trainer:Trainer.train"
        "(self, resume_from_checkpoint=, trial=, ignore_keys_for_eval=)",
        "transformers.trainer:Trainer.training_step(self, model, inputs, num_items_in_batch=)",
        "transformers.trainer_utils:seed_worker(worker_id, num_workers, rank)",
    ),
    "sft": (
        "axolotl.core.trainers.base:AxolotlTrainer",
        "axolotl.core.trainers.base:AxolotlTrainer._get_dataloader(self, dataset, description, "
        "batch_size, sampler_fn=, is_training=, dataloader_key=)",
        "axolotl.core.trainers.base:AxolotlTrainer._get_train_sampler(self, train_dataset=)",
        "axolotl.core.trainers.base:AxolotlTrainer.axolotl_cfg",
        "axolotl.core.trainers.base:AxolotlTrainer.compute_loss"
        "(self, model, inputs, return_outputs=, num_items_in_batch=)",
        "axolotl.core.trainers.base:AxolotlTrainer.log(self, logs, start_time=)",
    ),
    "preference": (
        "axolotl.core.trainers:AxolotlCPOTrainer",
        "axolotl.core.trainers:AxolotlKTOTrainer",
        "axolotl.core.trainers:AxolotlORPOTrainer",
        "axolotl.core.trainers.dpo.trainer:AxolotlDPOTrainer",
        "trl.models.utils:disable_gradient_checkpointing(model, gradient_checkpointing_kwargs=)",
        "trl.trainer.dpo_trainer:DPOTrainer._set_signature_columns_if_needed(self)",
        "trl.trainer.dpo_trainer:DPOTrainer.aux_loss_enabled",
        "trl.trainer.dpo_trainer:DPOTrainer.beta",
        "trl.trainer.dpo_trainer:DPOTrainer.compute_loss"
        "(self, model, inputs, return_outputs=, num_items_in_batch=)",
        "trl.trainer.dpo_trainer:DPOTrainer.compute_ref_log_probs(self, model, inputs)",
        "trl.trainer.dpo_trainer:DPOTrainer.log(self, logs, start_time=)",
        "trl.trainer.dpo_trainer:DPOTrainer.loss_types",
        "trl.trainer.dpo_trainer:DPOTrainer.ref_model",
        "trl.trainer.dpo_trainer:DPOTrainer.router_aux_loss_coef",
        "trl.trainer.kto_trainer:KTOTrainer._get_train_sampler(self, train_dataset=)",
        "trl.trainer.utils:use_adapter(model, adapter_name)",
    ),
    "reward": (
        "axolotl.core.trainers:AxolotlRewardTrainer",
        "trl.trainer.reward_trainer:RewardTrainer._set_signature_columns_if_needed(self)",
        "trl.trainer.reward_trainer:RewardTrainer._total_train_tokens",
        "trl.trainer.reward_trainer:RewardTrainer.compute_loss"
        "(self, model, inputs, return_outputs=, num_items_in_batch=)",
        "trl.trainer.reward_trainer:RewardTrainer.log(self, logs, start_time=)",
    ),
    "prompts": (
        "axolotl.core.trainers.ebft.trainer:EBFTMixin",
        "axolotl.core.trainers.ebft.trainer:EBFTMixin._feature_matching_reward"
        "(self, prompts, completions, ground_truth=, remaining_turns=, **kwargs)",
        "axolotl.core.trainers.grpo.trainer:AxolotlGRPOTrainer",
        "trl.trainer.grpo_config:GRPOConfig",
        "trl.trainer.grpo_trainer:GRPOTrainer._get_train_sampler(self, dataset=)",
        "trl.trainer.grpo_trainer:GRPOTrainer._set_signature_columns_if_needed(self)",
        "trl.trainer.grpo_trainer:GRPOTrainer._step",
        "trl.trainer.grpo_trainer:GRPOTrainer.get_train_dataloader(self)",
        "trl.trainer.grpo_trainer:GRPOTrainer.num_generations",
        "trl.trainer.grpo_trainer:GRPOTrainer.num_iterations",
        "trl.trainer.utils:RepeatSampler(data_source, mini_repeat_count, batch_size=, "
        "repeat_count=, shuffle=, seed=)",
    ),
    "reference": (
        "peft.tuners.tuners_utils:BaseTunerLayer._disable_adapters",
        "peft.utils.other:AuxiliaryTrainingWrapper._disable_adapters",
        "transformers.configuration_utils:PreTrainedConfig._attn_implementation",
        "transformers.integrations.deepspeed:set_hf_deepspeed_config(hf_deepspeed_config_obj)",
        "transformers.integrations.deepspeed:unset_hf_deepspeed_config()",
    ),
}
"""By what they are used for: names of a use are imported together."""


def check(*uses: Use) -> None:
    """Stop where what is installed is not what is known here.

    Args:
        uses: what will be used; all by default.

    Raises:
        UnsupportedError: naming every name that is missing or takes other parameters.
    """
    found = [line for use in uses or tuple(NAMES) for line in differences(NAMES[use])]
    if found:
        raise UnsupportedError(
            "axolotl or what it is built on differs from what this plugin was made for\n  "
            + "\n  ".join(found),
            "install a version of axolotl that this plugin supports: "
            "pip install 'axolotl-ual[train]'",
        )


def differences(names: tuple[str, ...]) -> list[str]:
    """A line for each name whose installed form is none of those that stand here for it."""
    known: dict[str, list[str | None]] = {}
    for name in names:
        place, opened, rest = name.partition("(")
        known.setdefault(place, []).append(rest.removesuffix(")") if opened else None)
    lines = []
    for place, accepted in known.items():
        package = place.partition(":")[0].partition(".")[0]
        try:
            found = _resolve(place)
        except (ImportError, AttributeError) as error:
            lines.append(f"{installed(package)}: {place}: {error}")
            continue
        if None not in accepted and parameters_of(found) not in accepted:
            expected = " or ".join(f"({text})" for text in accepted)
            lines.append(
                f"{installed(package)}: {place}: takes ({parameters_of(found)}), not {expected}"
            )
    return lines


def parameters_of(function: Any) -> str:
    """The names of a function's parameters, in order: one with a default ends in `=`."""
    parts = []
    starred = False
    stars: dict[Any, str] = {
        inspect.Parameter.VAR_POSITIONAL: "*",
        inspect.Parameter.VAR_KEYWORD: "**",
    }
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not starred:
            parts.append("*")
        starred |= parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        default = "" if parameter.default is parameter.empty else "="
        parts.append(f"{stars.get(parameter.kind, '')}{parameter.name}{default}")
    return ", ".join(parts)


def _resolve(place: str) -> Any:
    """The object at a place, or the class whose methods set the attribute.

    Raises:
        ImportError: there is no such module.
        AttributeError: there is no such name in it.
    """
    module, _, path = place.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        if not hasattr(found, part) and inspect.isclass(found) and _is_set_by_methods(found, part):
            continue
        found = getattr(found, part)
    return found


def _is_set_by_methods(owner: type, attribute: str) -> bool:
    methods = (inspect.unwrap(value) for value in vars(owner).values() if callable(value))
    return any(attribute in getattr(m, "__code__", check.__code__).co_names for m in methods)
