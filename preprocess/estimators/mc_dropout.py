"""Uncertainty of the model itself: how much dropout moves the likelihood of the response.

    s_i = sqrt( 1 / (K - 1) * sum_k (nll_ik - mean_k nll_ik)^2 )        nats per token

over K passes with independent dropout masks, nll_ik the mean negative log-likelihood of the
response in pass k (Gal and Ghahramani, "Dropout as a Bayesian Approximation", ICML 2016). It tells
what the model does not know from what it knows to be random, which perplexity does not. Rival: the
mutual information of token and mask (BALD), which needs the whole distributions of all passes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.estimators import DropoutConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..models.local.causal import LocalModel, nll
from ..models.local.encoding import Encoded
from .base import Estimator
from .likelihood import LocalScores, Score, name_model

SECTION = "ual.annotate.mc_dropout"
_IN_ATTENTION = "attention_dropout"
"""Where models keep the dropout of attention weights that no module of its own applies."""


def spread_of_passes(config: DropoutConfig) -> Score:
    """The standard deviation over passes of the mean negative log-likelihood."""

    def score(local: LocalModel, sequences: Sequence[Encoded]) -> Iterator[tuple[int, float]]:
        import torch

        nll_KN = np.empty((config.passes, len(sequences)))
        with dropout_on(local.model, config.rate):
            for number in range(config.passes):
                torch.manual_seed(config.seed * config.passes + number)
                for index, values_T in local.measure(sequences, nll, config.batch_tokens):
                    nll_KN[number, index] = values_T.astype(np.float64).mean()
        with np.errstate(invalid="ignore"):
            yield from enumerate(nll_KN.std(axis=0, ddof=1).tolist())

    return score


@contextmanager
def dropout_on(model: Any, rate: float | None) -> Iterator[None]:
    """Let dropout act until the block ends.

    Args:
        model: in evaluation mode, in which it is left again.
        rate: probability for every dropout, or None for the model's own.

    Raises:
        ConfigError: the model has no dropout to switch on.
    """
    places = list(_dropouts(model))
    before = [getattr(module, name) for module, name in places]
    if rate is not None:
        for module, name in places:
            setattr(module, name, rate)
    if not any(getattr(module, name) > 0 for module, name in places):
        raise ConfigError(
            f"{SECTION}.rate: the model has no dropout above 0, so all passes would be the same",
            f"set {SECTION}.rate (0.1, say), or name an adapter that was trained with dropout",
        )
    model.train()
    try:
        yield
    finally:
        model.eval()
        for (module, name), value in zip(places, before, strict=True):
            setattr(module, name, value)


def _dropouts(model: Any) -> Iterator[tuple[Any, str]]:
    """Every module with a dropout probability, and the attribute that holds it."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            yield module, "p"
        elif isinstance(getattr(module, _IN_ATTENTION, None), float):
            yield module, _IN_ATTENTION


def build(annotate: AnnotateConfig, base_model: str | None) -> Estimator:
    """Make the estimator that a recipe asks for.

    Raises:
        ConfigError: neither `mc_dropout.model` nor `base_model` names a model.
    """
    config = annotate.mc_dropout
    model, key = name_model(config, base_model, SECTION)
    score = spread_of_passes(config)
    return LocalScores("mc_dropout", config, model, key, "mean_spread", score, passes=config.passes)
