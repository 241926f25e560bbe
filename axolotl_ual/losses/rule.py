"""What tokens count in the loss of a run, and which kernel can compute it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from axolotl_ual.errors import ConfigError, UnsupportedError

from .heads import Head
from .token_weights import EAFT, Entropy, TokenWeight

Kernel = Literal["auto", "model", "chunked"]


@dataclass(frozen=True, slots=True)
class Weights:
    """How the sums of a micro-batch enter its loss.

    Attributes:
        mean: factor of the mean negative log-likelihood, a scalar tensor.
        sum: factor of sums over tokens, a scalar tensor.
        mass: trained tokens of the micro-batch, or the sum of their weights, a scalar tensor.
    """

    mean: Tensor
    sum: Tensor
    mass: Tensor


@dataclass(frozen=True, slots=True)
class Rule:
    """What tokens count, see `token_weights`. By default each counts 1.

    Attributes:
        weighted: batches bring the weight of each token, as `ual_weight`: int32, the bits of its
            float32.
        token: the weight that follows from the model's own prediction.
        anchor: factor of the KL divergence from the reference.
        prior: whether the smoothed mass goes to the reference, where there is one.
        entropy: of the token weight of that name; other than EAFT's it is asked for by `use_eaft`.
    """

    weighted: bool = False
    token: TokenWeight = "none"
    anchor: float = 0.0
    prior: bool = True
    entropy: Entropy = EAFT

    @property
    def plain(self) -> bool:
        """Whether all tokens count alike, so that a model's own mean over them is of use."""
        return not self.asked

    @property
    def asked(self) -> str:
        """The key of a recipe that asks for more; empty where all tokens count alike."""
        own = self.entropy.normalized
        keys = {
            "ual.loss.weight": self.weighted,
            "ual.loss.token_weight" if own else "use_eaft": self.token != "none",
            "ual.loss.anchor": self.anchor > 0.0,
        }
        return next((key for key, given in keys.items() if given), "")


EACH_COUNTS_ONE: Final = Rule()


def kernel_of(rule: Rule, kernel: Kernel, head: Head) -> Kernel:
    """The kernel that computes a rule.

    Raises:
        ConfigError: the model's own loss is asked for, which is one mean over all tokens.
        UnsupportedError: the head has an adapter, and the loss is computed in chunks.
    """
    if not rule.plain and kernel == "model":
        raise ConfigError(
            f"{rule.asked}: is computed in chunks, and `ual.loss.kernel: model` asks for "
            "the model's own loss, in which all tokens count alike",
            "set `ual.loss.kernel: auto`",
        )
    chunked = kernel == "chunked" or not rule.plain
    if chunked and not head.is_plain:
        key = "ual.loss.kernel: chunked:"
        if not rule.plain:
            key = f"{rule.asked}: is computed in chunks, and"
        fix = "leave `lm_head` out of `lora_target_modules`"
        raise UnsupportedError(
            f"{key} the head of {head.name} has an adapter",
            f"set `ual.loss.kernel: model`, or {fix}" if rule.plain else fix,
        )
    return "chunked" if chunked else kernel
