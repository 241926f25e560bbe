"""Preference pairs from scored responses: pure, vectorised selection.

A prompt gives at most one pair by each policy. Chosen is its most reliable response (least u);
rejected is one of its suboptimal responses (u above that of the chosen one, and another text):

    worst      the largest u
    second     the smallest u
    median     the lower median of u
    random     one of them, by the seed and the prompt's content
    gap        u(rejected) - u(chosen)

Where several policies find the same two texts, the pair is there once.

Uncertainties are compared to `RESOLUTION`, so that rounding noise of a model is neither a
preference nor a boundary between stages. Nothing depends on the order of responses or prompts:
among equal uncertainties a digest of the text decides.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from axolotl_ual.errors import ConfigError
from axolotl_ual.labels.smoothing import SmoothingMap, solve_smoothing
from axolotl_ual.settings.pairs import Policy

from .stages import StageCodes, assign_stages

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
Digests = npt.NDArray[np.uint64]
Mask = npt.NDArray[np.bool_]

DECIMALS = 6
RESOLUTION = 10.0**-DECIMALS

PAIRED = "paired"
NO_USABLE_RESPONSE = "no_usable_response"
NO_UNCERTAINTY = "no_uncertainty"
SINGLE_RESPONSE = "single_response"
IDENTICAL_TEXTS = "identical_texts"
TIE = "tie"
GAP_BELOW_MIN = "gap_below_min"
OUTCOMES = (
    PAIRED,
    NO_USABLE_RESPONSE,
    NO_UNCERTAINTY,
    SINGLE_RESPONSE,
    IDENTICAL_TEXTS,
    TIE,
    GAP_BELOW_MIN,
)
"""What can become of a prompt; a code is a place in this tuple."""


@dataclass(frozen=True, slots=True)
class Scored:
    """N responses of P prompts.

    Attributes:
        prompt: place of each response's prompt, shape (N,), in [0, P).
        uncertainty: shape (N,); NaN where a response has none.
        usable: bool of shape (N,); the others (empty, truncated, failed) are in no pair.
        text: digest of each response's text, shape (N,); see `digests`.
        prompt_key: digest of each prompt, shape (P,).
    """

    prompt: IntArray
    uncertainty: FloatArray
    usable: Mask
    text: Digests
    prompt_key: Digests


@dataclass(frozen=True, slots=True)
class Selection:
    """The M pairs that were made, in the order of their prompts.

    Attributes:
        chosen: places of the chosen responses, shape (M,).
        rejected: places of the rejected responses, shape (M,).
        gap: float32 of shape (M,), above 0.
        outcome: code of each prompt in `OUTCOMES`, int8 of shape (P,).
        found: by policy, how many pairs it found; those that an earlier one found too are in M
            once.
    """

    chosen: IntArray
    rejected: IntArray
    gap: npt.NDArray[np.float32]
    outcome: npt.NDArray[np.int8]
    found: Mapping[str, int]

    def counts(self) -> dict[str, int]:
        """Number of prompts by outcome, for those that happened."""
        numbers = np.bincount(self.outcome, minlength=len(OUTCOMES))
        return {name: int(n) for name, n in zip(OUTCOMES, numbers, strict=True) if n}


def digests(texts: Sequence[str], salt: int = 0) -> Digests:
    """A 64-bit digest of each text: equal for equal texts only, and in no order of theirs."""
    key = salt.to_bytes(8, "little", signed=True)
    return np.array(
        [
            int.from_bytes(
                hashlib.blake2b(
                    text.encode("utf-8", "surrogatepass"), digest_size=8, key=key
                ).digest(),
                "little",
            )
            for text in texts
        ],
        dtype=np.uint64,
    )


def rounded(uncertainty: npt.ArrayLike) -> FloatArray:
    """Uncertainties at the resolution at which they are compared."""
    values: FloatArray = np.asarray(uncertainty, dtype=np.float64)
    return values.round(DECIMALS)


def select_pairs(
    scored: Scored, policies: Sequence[Policy], min_gap: float = 0.0, seed: int = 0
) -> Selection:
    """Select the pairs of each prompt.

    Args:
        scored: the responses.
        policies: which suboptimal responses are rejected; a prompt's pairs are in this order.
        min_gap: pairs with a smaller gap are not made.
        seed: of the policy `random`.
    """
    num_prompts = len(scored.prompt_key)
    values = rounded(scored.uncertainty)
    known = np.flatnonzero(scored.usable & ~np.isnan(values))
    order = known[np.lexsort((scored.text[known], values[known], scored.prompt[known]))]
    prompt = scored.prompt[order]
    num_known = np.bincount(prompt, minlength=num_prompts)
    first = np.concatenate(([0], np.cumsum(num_known)))[:-1]
    best = np.full(num_prompts, -1, dtype=np.int64)
    has_known = num_known > 0
    best[has_known] = order[first[has_known]]

    other_text = scored.text[order] != scored.text[best[prompt]]
    suboptimal = other_text & (values[order] > values[best[prompt]])
    rivals = order[suboptimal]
    num_rivals = np.bincount(prompt[suboptimal], minlength=num_prompts)
    start = np.concatenate(([0], np.cumsum(num_rivals)))[:-1]

    paired = np.flatnonzero(num_rivals)
    key = scored.prompt_key[paired]
    places = [_place(policy, num_rivals[paired], key, seed) for policy in policies]
    # Row by prompt, column by policy.
    rejected = rivals[start[paired][:, None] + np.stack(places, axis=1)]
    gap = np.round(values[rejected] - values[best[paired]][:, None], DECIMALS).astype(np.float32)
    wide = gap >= np.float32(min_gap)
    first_of_its_kind = wide & ~_repeats(scored.text[rejected], wide)

    outcome = _outcomes(scored, num_known, prompt, other_text, num_rivals)
    outcome[paired[~wide.any(axis=1)]] = OUTCOMES.index(GAP_BELOW_MIN)
    row, column = np.nonzero(first_of_its_kind)
    return Selection(
        best[paired][row],
        rejected[row, column],
        gap[row, column],
        outcome,
        {policy: int(n) for policy, n in zip(policies, wide.sum(axis=0), strict=True)},
    )


def _repeats(text: Digests, counted: Mask) -> Mask:
    """Where a counted text stands in an earlier counted column of its row; shape of `text`."""
    result = np.zeros(text.shape, dtype=np.bool_)
    for later in range(1, text.shape[1]):
        same = (text[:, :later] == text[:, later, None]) & counted[:, :later]
        result[:, later] = same.any(axis=1)
    return result


def stage_pairs(gap: npt.NDArray[np.float32], thresholds: tuple[float, float] | None) -> StageCodes:
    """Stage of each pair: a large gap is conservative, a small one exploratory.

    Args:
        gap: shape (M,).
        thresholds: two ascending gaps; from the second on a pair is conservative, from the first
            on moderate. None: tertiles of the data.
    """
    difficulty = -gap.astype(np.float64)
    if thresholds is None:
        return assign_stages(difficulty)
    # Gaps are float32, so a threshold is met by the float32 that it would be stored as.
    low, high = (float(np.float32(threshold)) for threshold in thresholds)
    return assign_stages(difficulty, (-high, -low))


def smooth_pairs(
    gap: npt.NDArray[np.float32], mean: float, max: float
) -> tuple[npt.NDArray[np.float32], SmoothingMap]:
    """Flip probability of each pair, eps = min(a (1 - gap), max) with the given mean.

    Args:
        gap: shape (M,).
        mean: in [0, max].
        max: below 0.5, where a pair stops telling which response is better.

    Returns:
        float32 of shape (M,), and the map that was solved for.

    Raises:
        ConfigError: the mean cannot be reached.
    """
    difficulty = 1.0 - gap.astype(np.float64)
    unclear = int(np.count_nonzero(difficulty))
    if gap.size and mean > unclear * max / gap.size * (1.0 + 1e-12):
        raise ConfigError(
            f"ual.pairs.smoothing.mean: {mean:g} cannot be reached: only {unclear} of {gap.size} "
            f"pairs have a gap below 1, and none may be smoothed by more than max: {max:g}",
            f"set ual.pairs.smoothing.mean to {unclear * max / gap.size:.6g} or less",
        )
    solved = solve_smoothing(difficulty, mean, max)
    return solved(difficulty).astype(np.float32), solved


def _place(policy: Policy, num_rivals: IntArray, prompt_key: Digests, seed: int) -> IntArray:
    """Place of the rejected response among a prompt's rivals, which are in ascending order."""
    if policy == "worst":
        return num_rivals - 1
    if policy == "second":
        return np.zeros_like(num_rivals)
    if policy == "median":
        return (num_rivals - 1) // 2
    return (_mix(prompt_key, seed) % num_rivals.astype(np.uint64)).astype(np.int64)


def _mix(keys: Digests, seed: int) -> Digests:
    """SplitMix64's finaliser over key and seed: uniform, and the same on every platform."""
    z = keys ^ np.uint64(seed * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _outcomes(
    scored: Scored, num_known: IntArray, prompt: IntArray, other_text: Mask, num_rivals: IntArray
) -> npt.NDArray[np.int8]:
    num_prompts = len(scored.prompt_key)
    num_usable = np.bincount(scored.prompt[scored.usable], minlength=num_prompts)
    num_other = np.bincount(prompt[other_text], minlength=num_prompts)
    conditions = [num_rivals > 0, num_usable == 0, num_known == 0, num_known == 1, num_other == 0]
    names = [PAIRED, NO_USABLE_RESPONSE, NO_UNCERTAINTY, SINGLE_RESPONSE, IDENTICAL_TEXTS]
    codes = [np.int8(OUTCOMES.index(name)) for name in names]
    return np.select(conditions, codes, default=np.int8(OUTCOMES.index(TIE)))
