"""SmolLM2-135M-Instruct as a folder that transformers loads, from a package of the Python index.

The package carries 4-bit weights in GGUF; they are unpacked to float32 once. The chat template is
the model's own without the system message that it adds by itself, which would be a third of the
tokens of the short rows here and is the same in all of them.
"""

from __future__ import annotations

from pathlib import Path

from study import Place

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
END = "<|im_end|>"


def model_folder(place: Place) -> Path:
    """The folder, made where it is missing.

    Raises:
        DataError: the package is not installed, or carries other weights.
    """
    if place.model is not None:
        return place.model
    folder = place.work / "smollm2"
    if (folder / "tokenizer_config.json").is_file():
        return folder
    weights = place.sources.package_file("smollm2")
    import transformers

    given = {"pretrained_model_name_or_path": str(weights.parent), "gguf_file": weights.name}
    tokenizer = transformers.AutoTokenizer.from_pretrained(**given)
    model = transformers.AutoModelForCausalLM.from_pretrained(**given)
    tokenizer.eos_token = tokenizer.pad_token = END
    tokenizer.chat_template = TEMPLATE
    for config in (model.config, model.generation_config):
        config.eos_token_id = config.pad_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
