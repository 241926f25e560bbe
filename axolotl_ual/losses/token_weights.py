r"""What a token counts in the loss: by its data, by the model's own prediction, and an anchor.

Of a token with label y, CE is the cross entropy smoothed by eps towards q (`chunked_ce`), w >= 0
the weight that its row or message brings, p the model's prediction and r that of the model before
tuning. With a weight g that follows from p and an anchor of strength lambda,

    L_t = w_t (g_t CE_t + lambda KL(r_t || p_t))        loss = sum_t L_t / sum_t w_t

over the global batch, so that a weight of 2 is the row twice. g is a constant for the gradient:

    dL_t / dx_v = w (g (p_v - (1 - eps) 1[v = y] - eps q_v) + lambda (p_v - r_v))

    none         g = 1
    probability  g = p_y                                        DFT, arXiv 2508.05629
    entropy      g = (H(p') / ln K)^a, p' the K largest of p    EAFT, arXiv 2601.02151
                 made to sum to 1, K = 20 and a = 1: in [0, 1]

Like the papers' own code, the divisor counts tokens and not their g: a batch in which the model is
unlikely (or certain) takes a smaller step. The anchor is that of ASFT (arXiv 2509.23753), which
adds it to `probability`; there as here it is the KL from the model before tuning.

Rivals: Axolotl's `use_eaft` leaves the division by ln K out (`normalized` is False here), which
makes its loss 3.0 times this one, and lets the recipe choose K and a; LLaMA-Factory divides by 3.
Focal loss (arXiv 1708.02002) weighs by (1 - p_y)^gamma, which is the opposite of `probability`, and
with a gradient.

Shape legend: C tokens of a chunk, V rows of the head, K largest of them, B blocks of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, Literal

import torch
from torch import Tensor

from .prior import Prior

TokenWeight = Literal["none", "probability", "entropy"]

ENTROPY_TOKENS: Final = 20
"""K of EAFT."""
_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Entropy:
    """How the g of `entropy` is made.

    Attributes:
        tokens: K, at least 2.
        power: a, finite and at least 0.
        normalized: whether the entropy, in nats, is divided by ln K.
    """

    tokens: int = ENTROPY_TOKENS
    power: float = 1.0
    normalized: bool = True


EAFT: Final = Entropy()


@dataclass(frozen=True, slots=True)
class Weighting:
    """What the tokens of a micro-batch count.

    Attributes:
        weight_N: w, float32 at least, finite; None is 1 each.
        token: how g is made.
        anchor: lambda.
        reference: gives r where there is an anchor; with a prior they are the same.
        entropy: of the token weight of that name.
    """

    weight_N: Tensor | None = None
    token: TokenWeight = "none"
    anchor: float = 0.0
    reference: Prior | None = None
    entropy: Entropy = EAFT


def entropy_weight(top_CK: Tensor, entropy: Entropy = EAFT) -> Tensor:
    """The g of `entropy`, of shape (C,), from the largest logits of each token.

    It is in [0, 1] where it is normalized, and otherwise at most (ln K)^a.
    """
    entropy_C = torch.special.entr(top_CK.softmax(dim=1)).sum(dim=1)
    if entropy.normalized:
        entropy_C = entropy_C / math.log(top_CK.shape[1])
    return entropy_C if entropy.power == 1.0 else entropy_C.pow(entropy.power)


def largest_logits(logits_CV: Tensor, count: int = ENTROPY_TOKENS) -> Tensor:
    """The largest logits of each token, in no order: (C, min(count, V)).

    The vocabulary is read once, for the largest of each block of it: what is among the `count`
    largest lies in a block that has one of the `count` largest of these, or is equal to what does.
    """
    size = logits_CV.shape[1]
    count = min(count, size)
    num_blocks = size // _BLOCK
    if num_blocks <= count:
        return logits_CV.topk(count, dim=1, sorted=False).values
    cut = num_blocks * _BLOCK
    blocks_CBS = logits_CV[:, :cut].unflatten(1, (num_blocks, _BLOCK))
    best_CK = blocks_CBS.amax(dim=2).topk(count, dim=1, sorted=False).indices
    found = blocks_CBS.gather(1, best_CK[..., None].expand(-1, -1, _BLOCK)).flatten(1)
    candidates = torch.cat([found, logits_CV[:, cut:]], dim=1)
    return candidates.topk(count, dim=1, sorted=False).values
