"""Responses from a local causal language model, with or without a LoRA adapter.

Sampling is the inverse of the cumulative distribution, with uniform numbers that belong to the row:

    token = min { k : sum_{j <= k} p_j >= u * mass }        tokens in descending order of p
    mass  = the nucleus: the fewest tokens with sum p >= top_p

u comes from a counter-based generator with the row's own seed, so that a response depends on its
prompt and seed, not on the rows it shares a batch with, nor on where a run was interrupted. (What
is left is rounding: padding can move a probability in its last bits.)

Shapes: B rows of a batch, T tokens to generate, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import BackendError, ConfigError, words_of

from .causal import LocalModel, existing_model


@dataclass(frozen=True, slots=True)
class Draw:
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the likeliest token.
        top_p: mass of the nucleus, in (0, 1].
        max_tokens: T.
    """

    temperature: float
    top_p: float
    max_tokens: int


@dataclass(frozen=True, slots=True)
class Generated:
    """One response.

    Attributes:
        text: without special tokens.
        stopped: it ended by itself, not by max_tokens.
        logprobs: log-probability of each token at temperature 1, without the end token.
    """

    text: str
    stopped: bool
    logprobs: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Generator:
    """A model in evaluation mode that draws responses.

    Attributes:
        model: a causal language model, perhaps wrapped by an adapter.
        tokenizer: its fast tokenizer.
        ends: ids of the tokens that end a response.
        max_positions: positions that the model was made for, or None.
    """

    model: Any
    tokenizer: Any
    ends: tuple[int, ...]
    max_positions: int | None

    @classmethod
    def load(
        cls, name: str, adapter: str | None, *, key: str, device: str, dtype: str
    ) -> Generator:
        """Load a model and an adapter.

        Args:
            name: folder or Hub name of the model.
            adapter: likewise of a LoRA adapter, or None.
            key: the YAML section, for error messages.
            device: "auto" or a torch device.
            dtype: "auto", "float32", ...

        Raises:
            UALError: torch or transformers is not installed.
            ConfigError: there is no such device here.
            BackendError: the model or the adapter is not there or cannot be loaded.
        """
        local = LocalModel.load(name, key=f"{key}.model", device=device, dtype=dtype, section=key)
        if adapter is not None:
            model = with_adapter(local.model, adapter, f"{key}.adapter")
            local = LocalModel(model, local.tokenizer)
        return cls.of(local)

    @classmethod
    def of(cls, local: LocalModel) -> Generator:
        """Draw from a model that is loaded already; its own sampling settings are forgotten.

        Raises:
            BackendError: the model names no token that ends a response.
        """
        ends = _end_tokens(local.model, local.tokenizer)
        _forget_defaults(local.model, local.tokenizer, ends)
        return cls(local.model, local.tokenizer, ends, local.max_positions)

    def encode(self, text: str, has_template: bool, max_length: int) -> list[int]:
        """Token ids of a prompt; one that is too long loses tokens from its left.

        Args:
            text: the prompt as the model reads it.
            has_template: whether the text has its special tokens already.
            max_length: the most tokens.
        """
        ids = list(
            self.tokenizer(text, add_special_tokens=not has_template, verbose=False)["input_ids"]
        )
        if not ids:
            ids = [self.tokenizer.bos_token_id or self.ends[0]]
        if len(ids) <= max_length:
            return ids
        begin = ids[:1] if ids[0] == self.tokenizer.bos_token_id and max_length > 1 else []
        return begin + ids[len(ids) - max_length + len(begin) :]

    def generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], draw: Draw
    ) -> list[Generated]:
        """Draw one response for each row.

        Args:
            prompts: token ids of B prompts; a prompt may stand several times.
            seeds: of the rows.
            draw: how tokens are drawn.

        Raises:
            BackendError: one row alone does not fit in memory.
        """
        import torch

        try:
            return self._generate(prompts, seeds, draw)
        except torch.OutOfMemoryError as error:
            if len(prompts) == 1:
                raise BackendError(
                    f"a prompt of {len(prompts[0])} tokens and {draw.max_tokens} to generate do "
                    f"not fit in the memory of {self.model.device}",
                    "lower `max_prompt_length` or `max_tokens`, or choose a smaller `dtype`",
                ) from error
        # Split outside of the block above: the error holds on to the tensors of the attempt.
        torch.cuda.empty_cache()
        middle = len(prompts) // 2
        return [
            *self.generate(prompts[:middle], seeds[:middle], draw),
            *self.generate(prompts[middle:], seeds[middle:], draw),
        ]

    def _generate(
        self, prompts: Sequence[Sequence[int]], seeds: Sequence[int], draw: Draw
    ) -> list[Generated]:
        import torch
        from transformers import LogitsProcessorList

        length = max(len(prompt) for prompt in prompts)
        ids_BL = torch.full((len(prompts), length), self.tokenizer.pad_token_id or 0)
        mask_BL = torch.zeros_like(ids_BL)
        for row, prompt in enumerate(prompts):
            ids_BL[row, length - len(prompt) :] = torch.tensor(prompt)
            mask_BL[row, length - len(prompt) :] = 1
        chooser = _Chooser(uniforms(seeds, draw.max_tokens), draw)
        with torch.inference_mode():
            output_BL = self.model.generate(
                input_ids=ids_BL.to(self.model.device),
                attention_mask=mask_BL.to(self.model.device),
                logits_processor=LogitsProcessorList([chooser]),
                max_new_tokens=draw.max_tokens,
                do_sample=False,
            )
        tokens_BT = output_BL[:, length:].cpu().numpy()
        logprobs_BT = np.stack(chooser.logprobs, axis=1)
        return [
            self._finish(tokens, logprobs)
            for tokens, logprobs in zip(tokens_BT, logprobs_BT, strict=True)
        ]

    def _finish(
        self, tokens_T: npt.NDArray[np.int64], logprobs_T: npt.NDArray[np.float64]
    ) -> Generated:
        ended = np.flatnonzero(np.isin(tokens_T, self.ends))
        count = int(ended[0]) if ended.size else len(tokens_T)
        text = self.tokenizer.decode(tokens_T[:count].tolist(), skip_special_tokens=True)
        return Generated(text, bool(ended.size), logprobs_T[:count])


class _Chooser:
    """A logits processor that leaves one token of each row, drawn by the row's uniform number."""

    def __init__(self, uniforms_BT: npt.NDArray[np.float64], draw: Draw) -> None:
        self._uniforms_BT = uniforms_BT
        self._draw = draw
        self.logprobs: list[npt.NDArray[np.float64]] = []

    def __call__(self, input_ids: Any, scores_BV: Any) -> Any:
        import torch

        step = len(self.logprobs)
        uniforms_B = torch.from_numpy(self._uniforms_BT[:, step]).to(scores_BV.device)
        tokens_B1 = choose(scores_BV, uniforms_B, self._draw)[:, None]
        chosen_B = scores_BV.float().log_softmax(dim=-1).gather(1, tokens_B1)[:, 0]
        self.logprobs.append(chosen_B.double().cpu().numpy())
        return torch.full_like(scores_BV, float("-inf")).scatter_(1, tokens_B1, 0.0)


def choose(logits_BV: Any, uniforms_B: Any, draw: Draw) -> Any:
    """Draw one token a row by inverting the cumulative distribution over the nucleus.

    Args:
        logits_BV: at temperature 1.
        uniforms_B: in [0, 1), float64.
        draw: temperature and nucleus.

    Returns:
        Token ids of shape (B,).
    """
    import torch

    if draw.temperature == 0.0:
        return logits_BV.argmax(dim=-1)
    probabilities_BV = (logits_BV.float() / draw.temperature).softmax(dim=-1)
    ordered_BV, tokens_BV = probabilities_BV.sort(dim=-1, descending=True, stable=True)
    cumulative_BV = ordered_BV.to(uniforms_B.dtype).cumsum(dim=-1)
    total_B1 = cumulative_BV[:, -1:]
    inside_BV = (cumulative_BV - ordered_BV) < draw.top_p * total_B1
    mass_B1 = torch.where(inside_BV, cumulative_BV, 0.0).amax(dim=-1, keepdim=True)
    place_B1 = torch.searchsorted(cumulative_BV, uniforms_B[:, None] * mass_B1, right=True)
    last_B1 = inside_BV.sum(dim=-1, keepdim=True) - 1
    return tokens_BV.gather(1, torch.minimum(place_B1, last_B1))[:, 0]


def uniforms(seeds: Sequence[int], count: int) -> npt.NDArray[np.float64]:
    """Uniform numbers in [0, 1) of shape (rows, count), each row by its own seed."""
    return np.stack([np.random.Generator(np.random.Philox(key=s)).random(count) for s in seeds])


def _end_tokens(model: Any, tokenizer: Any) -> tuple[int, ...]:
    named = getattr(model.generation_config, "eos_token_id", None)
    listed = named if isinstance(named, list) else [named]
    ends = {int(end) for end in [*listed, tokenizer.eos_token_id] if end is not None}
    if not ends:
        raise BackendError(
            f"the model {model.config._name_or_path!r} names no token that ends a response",
            "set eos_token_id in its generation_config.json",
        )
    return tuple(sorted(ends))


def _forget_defaults(model: Any, tokenizer: Any, ends: tuple[int, ...]) -> None:
    """Leave nothing of the checkpoint's own sampling settings: the recipe's are meant."""
    from transformers import GenerationConfig

    pad = tokenizer.pad_token_id
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=list(ends),
        pad_token_id=ends[0] if pad is None else pad,
    )


def with_adapter(model: Any, adapter: str, key: str) -> Any:
    """A model with a LoRA adapter on it, in evaluation mode.

    Args:
        model: a causal language model.
        adapter: folder or Hub name.
        key: the YAML key that names the adapter, for error messages.

    Raises:
        ConfigError: peft is not installed.
        BackendError: the adapter is not there or does not fit.
    """
    source = existing_model(adapter, key)
    try:
        from peft import PeftModel
    except ImportError as error:
        raise ConfigError(
            f"{key}: an adapter needs peft: {error}", "pip install 'axolotl-ual[train]'"
        ) from None
    try:
        return PeftModel.from_pretrained(model, source).eval()
    except Exception as error:  # Every format and every library below has errors of its own.
        raise BackendError(
            f"{key}: {adapter!r} cannot be loaded as an adapter of this model: {words_of(error)}",
            f"name the output folder of a LoRA training of the same base model in `{key}`",
        ) from error
