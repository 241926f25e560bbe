"""A local causal language model: what it makes of chosen tokens.

`LocalModel.measure` runs sequences in batches of similar length and hands the logits of the chosen
positions, and of no others, to a measure. Batches are padded on the right: under a causal mask no
token sees the padding, so a result does not depend on what else is in the batch.

Shapes: B sequences of a batch, L padded length, N chosen tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy.typing as npt

from axolotl_ual.errors import BackendError, ConfigError, UALError, words_of

from .encoding import Encoded
from .quiet import hush

Measure = Callable[[Any, Any], Any]
"""(logits (N, V) in fp32 or fp64, target ids (N,)) -> tensor whose first dimension is N."""

_LOGITS_PER_BATCH: Final = 1 << 29
_LOGITS_PER_CHUNK: Final = 1 << 24


def nll(logits_NV: Any, targets_N: Any) -> Any:
    """Negative log-likelihood of each target in nats: a measure."""
    chosen_N = logits_NV.gather(1, targets_N[:, None])[:, 0]
    return logits_NV.logsumexp(dim=1) - chosen_N


def plan_batches(
    lengths: Sequence[int], scored: Sequence[int], batch_tokens: int, max_scored: int
) -> list[list[int]]:
    """Group sequences of similar length, longest first.

    Args:
        lengths: tokens of each sequence.
        scored: tokens of each sequence that logits are needed of.
        batch_tokens: bound on padded tokens (rows times the longest) of a batch.
        max_scored: bound on scored tokens of a batch.

    Returns:
        Batches of indices. Only a batch of one sequence may exceed a bound.
    """
    batches: list[list[int]] = []
    num_scored = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        batch = batches[-1] if batches else []
        padded = (len(batch) + 1) * lengths[batch[0]] if batch else 0
        num_scored += scored[index]
        if not batch or padded > batch_tokens or num_scored > max_scored:
            batches.append([index])
            num_scored = scored[index]
        else:
            batch.append(index)
    return batches


@dataclass(frozen=True)
class LocalModel:
    """A causal language model in evaluation mode, and its tokenizer.

    Attributes:
        model: a Hugging Face causal language model.
        tokenizer: its fast tokenizer.
    """

    model: Any
    tokenizer: Any

    @classmethod
    def load(
        cls, name: str, *, key: str, device: str = "auto", dtype: str = "auto", section: str = "ual"
    ) -> LocalModel:
        """Load a model from a folder, the local cache or the Hub.

        Args:
            name: folder or Hub name.
            key: the YAML key that names the model, for error messages.
            device: "auto" or a torch device.
            dtype: "auto" (the checkpoint's own on an accelerator, float32 on a CPU), "float32", ...
            section: the YAML section that holds `device`, for error messages.

        Raises:
            UALError: torch or transformers is not installed.
            ConfigError: there is no such device here.
            BackendError: the model is not there or cannot be loaded.
        """
        torch, transformers = libraries()
        place = find_device(torch, device, f"{section}.device")
        source = existing_model(name, key)
        if dtype == "auto" and place.type != "cpu":
            kind: Any = "auto"
        else:
            kind = torch.float32 if dtype == "auto" else getattr(torch, dtype)
        try:
            with quiet_loading(transformers):
                tokenizer = transformers.AutoTokenizer.from_pretrained(source)
                model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=kind)
        except Exception as error:  # Every format and every library below has errors of its own.
            raise BackendError(
                f"{key}: {name!r} cannot be loaded as a causal language model: {words_of(error)}",
                f"name a model folder that exists, or a Hub name that can be reached, in `{key}`",
            ) from error
        return cls(model.to(place).eval(), tokenizer)

    @property
    def max_positions(self) -> int | None:
        """Positions that the model was made for, where its config tells."""
        positions = getattr(self.model.config.get_text_config(), "max_position_embeddings", None)
        return int(positions) if positions else None

    def measure(
        self, sequences: Sequence[Encoded], measure: Measure, batch_tokens: int
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Measure the scored tokens of sequences, in an order that suits the batches.

        Args:
            sequences: what to read, with the tokens to score.
            measure: called with logits and target ids of scored tokens, in order.
            batch_tokens: padded tokens of a batch; a longer sequence is a batch by itself.

        Yields:
            The index of a sequence and the measure of its scored tokens.

        Raises:
            BackendError: one sequence alone does not fit in memory.
        """
        lengths = [len(item.ids) for item in sequences]
        scored = [int(item.scored.sum()) for item in sequences]
        max_scored = _LOGITS_PER_BATCH // self.model.config.get_text_config().vocab_size
        for batch in plan_batches(lengths, scored, batch_tokens, max_scored):
            yield from self._measure_within_memory(sequences, batch, measure)

    def _measure_within_memory(
        self, sequences: Sequence[Encoded], batch: list[int], measure: Measure
    ) -> Iterator[tuple[int, npt.NDArray[Any]]]:
        """Measure a batch; where memory runs out, its halves."""
        import torch

        try:
            values = self._measure_batch([sequences[index] for index in batch], measure)
        except torch.OutOfMemoryError as error:
            if len(batch) == 1:
                raise BackendError(
                    f"a sequence of {len(sequences[batch[0]].ids)} tokens does not fit in the "
                    f"memory of {self.model.device}",
                    "lower `max_length`, or choose a smaller `dtype` or another `device`",
                ) from error
            # Split outside of this block: the error holds on to the tensors of the attempt.
            values = None
        if values is not None:
            yield from zip(batch, values, strict=True)
            return
        torch.cuda.empty_cache()
        middle = len(batch) // 2
        yield from self._measure_within_memory(sequences, batch[:middle], measure)
        yield from self._measure_within_memory(sequences, batch[middle:], measure)

    def _measure_batch(self, batch: Sequence[Encoded], measure: Measure) -> list[npt.NDArray[Any]]:
        import torch

        device = self.model.device
        length = max(len(item.ids) for item in batch)
        ids_BL = torch.zeros(len(batch), length, dtype=torch.long)
        mask_BL = torch.zeros(len(batch), length, dtype=torch.long)
        scored_BL = torch.zeros(len(batch), length, dtype=torch.bool)
        for row, item in enumerate(batch):
            ids_BL[row, : len(item.ids)] = torch.from_numpy(item.ids)
            mask_BL[row, : len(item.ids)] = 1
            scored_BL[row, : len(item.ids)] = torch.from_numpy(item.scored)
        targets_N = ids_BL[scored_BL].to(device)
        # The logits of a token stand one position before it.
        before_BL = torch.zeros_like(scored_BL)
        before_BL[:, :-1] = scored_BL[:, 1:]
        with torch.inference_mode():
            logits_NV = self._logits(ids_BL.to(device), mask_BL.to(device), before_BL)
            parts = [
                measure(_at_least_fp32(logits), targets).cpu()
                for logits, targets in _chunks(logits_NV, targets_N)
            ]
        counts = [int(item.scored.sum()) for item in batch]
        return [part.numpy() for part in torch.cat(parts).split(counts)]

    def _logits(self, ids_BL: Any, mask_BL: Any, chosen_BL: Any) -> Any:
        """Logits (N, V) of the chosen positions, row by row.

        The hidden states that enter the head are cut down to the chosen positions, so that logits
        of others are never computed, and whatever the model does to its logits afterwards (scaling,
        a soft cap) is done by the model.
        """
        selected = False

        def select(_: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...] | None:
            nonlocal selected
            hidden = inputs[0]
            if hidden.shape[:-1] != chosen_BL.shape:
                return None
            selected = True
            return (hidden[chosen_BL.to(hidden.device)][None], *inputs[1:])

        head = self.model.get_output_embeddings()
        handle = head.register_forward_pre_hook(select) if head is not None else None
        try:
            output = self.model(input_ids=ids_BL, attention_mask=mask_BL, use_cache=False)
        finally:
            if handle is not None:
                handle.remove()
        logits = output.logits
        return logits[0] if selected else logits[chosen_BL.to(logits.device)]


def _chunks(logits_NV: Any, targets_N: Any) -> Iterator[tuple[Any, Any]]:
    size = max(1, _LOGITS_PER_CHUNK // logits_NV.shape[-1])
    targets_N = targets_N.to(logits_NV.device)
    return zip(logits_NV.split(size), targets_N.split(size), strict=True)


def _at_least_fp32(logits: Any) -> Any:
    import torch

    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def libraries() -> tuple[Any, Any]:
    """Import torch and transformers, or say how to get them."""
    hush()
    try:
        import torch
        import transformers
    except ImportError as error:
        raise UALError(
            f"a local model needs torch and transformers: {error}",
            "pip install 'axolotl-ual[local]'",
        ) from error
    return torch, transformers


def find_device(torch: Any, name: str, key: str) -> Any:
    """The torch device of that name; "auto" is an accelerator where there is one."""
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(
            f"{key}: there is no device {name!r} here: {words_of(error)}",
            f"set `{key}` to auto or cpu, or run on a machine that has it",
        ) from error
    return device


def existing_model(name: str, key: str) -> str:
    """The folder or Hub name to load; a path that does not exist is told at once."""
    path = Path(name).expanduser()
    if path.is_dir():
        return str(path)
    is_hub_name = name.count("/") <= 1 and not name.startswith((".", "~", "/"))
    if not is_hub_name or path.exists() or path.is_absolute():
        raise BackendError(
            f"{key}: {name!r} is not a folder (looked for {path.absolute()})",
            f"set `{key}` to a folder with a model in it, or to the name of one on the Hub",
        )
    return name


@contextmanager
def quiet_loading(transformers: Any) -> Iterator[None]:
    """Keep the bars of loading out of a command that draws its own."""
    logging = transformers.utils.logging
    was_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_enabled:
            logging.enable_progress_bar()
