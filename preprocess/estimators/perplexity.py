"""Uncertainty from the likelihood of the response under a local causal language model.

    nll_i = -(1 / T_i) * sum_t log p(y_t | x, y_<t)        nats per token

over the T_i tokens of the trained turns, each given everything before it (system prompt, earlier
turns, its own turn so far). This is the logarithm of the perplexity of the response
(Jelinek et al. 1977); as an uncertainty score it is the length-normalised log-probability of
Malinin and Gales, "Uncertainty Estimation in Autoregressive Structured Prediction" (ICLR 2021).
Rivals: the sum over tokens, which grows with length; the predictive entropy (`entropy.py`), which
asks how spread the model's own choice is and not how likely the given one.
"""

from __future__ import annotations

from axolotl_ual.settings.ual import AnnotateConfig

from ..models.local.causal import nll
from .base import Estimator
from .local_scores import NOT_FINITE, LocalScores, mean_of, name_model

__all__ = ["NOT_FINITE", "SECTION", "build"]

SECTION = "ual.annotate.perplexity"


def build(annotate: AnnotateConfig, base_model: str | None) -> Estimator:
    """Make the estimator that a recipe asks for.

    Raises:
        ConfigError: neither `perplexity.model` nor `base_model` names a model.
    """
    config = annotate.perplexity
    model, key = name_model(config, base_model, SECTION)
    score = mean_of(nll, config.batch_tokens)
    return LocalScores("perplexity", config, model, key, "mean_nll", score)
