"""Uncertainty from how spread the model's own choice is at each token of the response.

    H_i = (1 / T_i) * sum_t H_t,     H_t = -sum_v p_t(v) log p_t(v)        nats per token

with p_t(v) = p(v | x, y_<t) over the vocabulary. The response is read, not sampled: this is the
mean token entropy of Fomicheva et al., "Unsupervised Quality Estimation for Neural Machine
Translation" (TACL 2020), along the given response. Rivals: the negative log-likelihood of the given
tokens (`perplexity.py`); the entropy over whole sampled responses, by meaning (`semantic.py`).
"""

from __future__ import annotations

from typing import Any

from axolotl_ual.settings.ual import AnnotateConfig

from .base import Estimator
from .local_scores import LocalScores, mean_of, name_model

SECTION = "ual.annotate.entropy"


def token_entropy(logits_NV: Any, targets_N: Any) -> Any:
    """Entropy of the distribution at each token in nats: a measure."""
    logp_NV = logits_NV.log_softmax(dim=1)
    # p log p is 0 where p is: -inf logits would make it NaN.
    return -(logp_NV.exp() * logp_NV.clamp_min(-1e4)).sum(dim=1)


def build(annotate: AnnotateConfig, base_model: str | None) -> Estimator:
    """Make the estimator that a recipe asks for.

    Raises:
        ConfigError: neither `entropy.model` nor `base_model` names a model.
    """
    config = annotate.entropy
    model, key = name_model(config, base_model, SECTION)
    score = mean_of(token_entropy, config.batch_tokens)
    return LocalScores("entropy", config, model, key, "mean_entropy", score)
