"""A local sequence classifier or reward model: encoded texts in, logits out.

Inputs of similar length share a batch, whatever prompt they come from, and padding is masked, so
that a result does not depend on what else is in the batch.

Shapes: N inputs, B inputs of a batch, L labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import BackendError, words_of

from .causal import existing_model, find_device, libraries, quiet_loading

LogitArray = npt.NDArray[np.float32]
Encoding = dict[str, list[int]]
"""What a tokenizer gives for one input: input_ids, attention_mask, perhaps token_type_ids."""


@dataclass(frozen=True)
class SequenceClassifier:
    """A sequence classifier in evaluation mode, and its tokenizer.

    Attributes:
        model: a Hugging Face model with a classification head.
        tokenizer: its fast tokenizer, which pads on the right.
        max_length: tokens that an input may have.
    """

    model: Any
    tokenizer: Any
    max_length: int

    @classmethod
    def load(
        cls, name: str, *, key: str, max_length: int, device: str = "auto", dtype: str = "auto"
    ) -> SequenceClassifier:
        """Load a classifier from a folder, the local cache or the Hub.

        Args:
            name: folder or Hub name.
            key: the YAML section that holds `model`, `device` and `dtype`, for error messages.
            max_length: tokens of an input; less where the model was made for less.
            device: "auto" or a torch device.
            dtype: "auto" (the checkpoint's own on an accelerator, float32 on a CPU), "float32", ...

        Raises:
            UALError: torch or transformers is not installed.
            ConfigError: there is no such device here.
            BackendError: the model is not there, cannot be loaded, or has no fast tokenizer.
        """
        torch, transformers = libraries()
        place = find_device(torch, device, f"{key}.device")
        source = existing_model(name, f"{key}.model")
        kind: Any = getattr(torch, dtype) if dtype != "auto" else "auto"
        if dtype == "auto" and place.type == "cpu":
            kind = torch.float32
        try:
            with quiet_loading(transformers):
                tokenizer = transformers.AutoTokenizer.from_pretrained(source)
                model = transformers.AutoModelForSequenceClassification.from_pretrained(
                    source, dtype=kind
                )
        except Exception as error:  # Every format and every library below has errors of its own.
            raise BackendError(
                f"{key}.model: {name!r} cannot be loaded as a sequence classifier: "
                f"{words_of(error)}",
                f"name a folder or a Hub model with a classification head in `{key}.model`",
            ) from error
        if not tokenizer.is_fast:
            raise BackendError(
                f"{key}.model: the tokenizer of {name!r} does not map tokens to characters",
                "use a model with a fast tokenizer (tokenizer.json)",
            )
        _make_padding_work(model, tokenizer)
        limit = min(max_length, tokenizer.model_max_length, _positions(model) or max_length)
        return cls(model.to(place).eval(), tokenizer, limit)

    @property
    def labels(self) -> list[str]:
        """Names of the L labels, in the order of the logits."""
        names = self.model.config.id2label
        return [str(names[index]) for index in range(self.model.config.num_labels)]

    def logits(
        self,
        encodings: Sequence[Encoding],
        batch_tokens: int,
        advance: Callable[[int], None] = lambda done: None,
    ) -> LogitArray:
        """Classify inputs.

        Args:
            encodings: N inputs of at most `max_length` tokens.
            batch_tokens: padded tokens of a batch; a longer input is a batch by itself.
            advance: called with the number of inputs that were done.

        Returns:
            float32 of shape (N, L).

        Raises:
            BackendError: one input alone does not fit in memory.
        """
        logits_NL = np.empty((len(encodings), self.model.config.num_labels), dtype=np.float32)
        lengths = [len(encoding["input_ids"]) for encoding in encodings]
        for batch in length_batches(lengths, batch_tokens):
            for part, values in self._within_memory(encodings, batch):
                logits_NL[part] = values
            advance(len(batch))
        return logits_NL

    def _within_memory(
        self, encodings: Sequence[Encoding], batch: list[int]
    ) -> Iterator[tuple[list[int], LogitArray]]:
        """Classify a batch; where memory runs out, its halves."""
        import torch

        try:
            values = self._forward([encodings[index] for index in batch])
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                tokens = len(encodings[batch[0]]["input_ids"])
                raise BackendError(
                    f"an input of {tokens} tokens does not fit in the memory of "
                    f"{self.model.device}",
                    "lower `max_length`, or choose a smaller `dtype` or another `device`",
                ) from error
            # Split outside of this block: the error holds on to the tensors of the attempt.
            values = None
        if values is not None:
            yield batch, values
            return
        torch.cuda.empty_cache()
        middle = len(batch) // 2
        yield from self._within_memory(encodings, batch[:middle])
        yield from self._within_memory(encodings, batch[middle:])

    def _forward(self, batch: list[Encoding]) -> LogitArray:
        import torch

        padded = self.tokenizer.pad(batch, return_tensors="pt").to(self.model.device)
        with torch.inference_mode():
            logits_BL: LogitArray = self.model(**padded).logits.float().cpu().numpy()
        return logits_BL


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Group inputs of similar length, longest first; ties by index.

    Args:
        lengths: tokens of each input.
        batch_tokens: bound on rows times the longest; only a batch of one may exceed it.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def _make_padding_work(model: Any, tokenizer: Any) -> None:
    """Decoder classifiers read the last token that is no padding, so it must be told apart."""
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.bos_token or tokenizer.eos_token
    config = model.config.get_text_config()
    if getattr(config, "pad_token_id", None) is None:
        config.pad_token_id = tokenizer.pad_token_id


def _positions(model: Any) -> int | None:
    config = model.config.get_text_config()
    positions = getattr(config, "max_position_embeddings", None)
    if not positions:
        return None
    # RoBERTa and its kin count positions from pad_token_id + 1.
    skipped = config.pad_token_id + 1 if "roberta" in config.model_type else 0
    return int(positions) - skipped
