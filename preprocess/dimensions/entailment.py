"""The classifier for entailment that a recipe names: loaded once, for all that need it."""

from __future__ import annotations

from typing import Any, Final

from axolotl_ual.settings.pairs import PairsConfig
from axolotl_ual.settings.server import shaping

from ..models.local.classifier import SequenceClassifier
from ..models.local.nli import Labels, NliModel
from ..sampling.local import identity

SECTION: Final = "ual.pairs.nli"


class Entailment:
    """Loads the model of `ual.pairs.nli` when it is first needed.

    Args:
        pairs: the recipe's `ual.pairs`.
    """

    def __init__(self, pairs: PairsConfig) -> None:
        self._config = pairs.nli
        self._needs_contradiction = pairs.factual.method == "consistency"
        self._model: NliModel | None = None

    def load(self) -> NliModel:
        """The model.

        Raises:
            BackendError: it is not there or cannot be loaded.
            ConfigError: it has no such labels.
        """
        if self._model is None:
            config = self._config
            classifier = SequenceClassifier.load(
                config.model,
                key=SECTION,
                max_length=config.max_length,
                device=config.device,
                dtype=config.dtype,
            )
            given = {str(role): name for role, name in (config.labels or {}).items()}
            labels = Labels.find(classifier.labels, given, SECTION, self._needs_contradiction)
            self._model = NliModel(classifier, labels, config.threshold, config.batch_tokens)
        return self._model

    def forget(self) -> None:
        """Drop the answers that are kept, so that memory does not grow with the data."""
        if self._model is not None:
            self._model.forget()

    def identity(self) -> dict[str, Any]:
        """What shapes its answers, as JSON values."""
        return {"nli": {**shaping(self._config), "model": identity(self._config.model)}}

    def facts(self) -> dict[str, Any]:
        """For the manifest: the model, and how many texts were cut where it was loaded."""
        facts: dict[str, Any] = {"model": self._config.model}
        if self._model is not None:
            cut = self._model.stats
            facts["cut"] = {"context": cut.context_cut, "response": cut.response_cut}
        return facts
