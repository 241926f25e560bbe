"""The hooks that Axolotl calls. What they do is in modules that are imported when it is done.

Axolotl goes on without a plugin whose import fails. So this module imports nothing that could be
missing where Axolotl is there, and a failed import within a hook is an error like any other.

Where Axolotl loads every installed plugin, the hooks run for every recipe: those that do not ask
for the plugin are left as they are.
"""

from __future__ import annotations

from typing import Any

from axolotl.integrations.base import BasePlugin

from axolotl_ual.host import PLUGIN, asks_for_plugin, host, names_plugin


class UALPlugin(BasePlugin):
    """Uncertainty-aware learning: smoothing of samples and pairs, and a curriculum of stages."""

    _curriculum: Any = None

    def register(self, cfg: Any) -> None:
        """Check the recipe and remember it; every command of Axolotl comes by, so no data are read.

        `axolotl inference` takes `rl:` out of the recipe, which leaves the settings of a preference
        loss behind: it trains nothing, so they are not held against it.
        """
        if not self._acts(cfg):
            _warn_of_nothing(cfg)
            return
        if not names_plugin(cfg):
            # Validation drops an empty `ual:`, and the later hooks must still know.
            cfg["plugins"] = [*(cfg.get("plugins") or []), PLUGIN]
        _warn_of_untested()
        from axolotl_ual.data.sources import remember
        from axolotl_ual.settings.preference import PREFERENCE_TRAINERS, kind_of_rl
        from axolotl_ual.settings.refusals import unsupported

        for error in [] if cfg.get("inference") else unsupported(cfg):
            raise error
        remember(cfg)
        rl = kind_of_rl(cfg)
        if rl is not None:
            # The builder of preference trainers gives a plugin's trainer no model.
            cfg["trainer_cls"] = PREFERENCE_TRAINERS[rl]

    def get_input_args(self) -> str | None:
        """The pydantic model that gives Axolotl's schema the key `ual`, once."""
        return "axolotl_ual.settings.ual.UALArgs" if self._is_first() else None

    def load_datasets(self, cfg: Any, preprocess: bool = False) -> Any:
        """Load what is trained on as Axolotl loads datasets, with our columns carried along."""
        self._curriculum = None
        if not self._acts(cfg):
            return None
        from axolotl.integrations.base import PluginManager

        from axolotl_ual.host_names import check
        from axolotl_ual.schedule.curriculum import load
        from axolotl_ual.settings.preference import kind_of_rl, trains_reward_model
        from axolotl_ual.settings.rivals import rivals
        from axolotl_ual.settings.ual import parse_ual

        for error in rivals(cfg, PluginManager.get_instance().plugins):
            raise error
        check("data", "trainer", _use(kind_of_rl(cfg), trains_reward_model(cfg)))
        ual = parse_ual(cfg.ual)
        if ual.smoothing.prior == "reference" or ual.loss.anchor is not None:
            check("reference")
        if ual.loss.weight is not None and ual.loss.weight.message is not None:
            check("messages")
        loaded, self._curriculum = load(cfg, preprocess, _recipe_name(cfg))
        return loaded

    def pre_model_load(self, cfg: Any) -> None:
        """Seed what the loading of the model draws, new embeddings for example."""
        self._seed(cfg)

    def pre_lora_load(self, cfg: Any, model: Any) -> None:
        """Seed the adapter's initialisation, which Axolotl does before anything is seeded."""
        self._seed(cfg)

    def get_trainer_cls(self, cfg: Any) -> Any:
        """The trainer with the smoothed loss; preference trainers are named by `trainer_cls`."""
        if cfg.rl or not self._acts(cfg):
            return None
        from axolotl_ual.settings.preference import trains_reward_model

        if trains_reward_model(cfg):
            from axolotl_ual.training.reward import UALRewardTrainer

            return UALRewardTrainer
        from axolotl_ual.training.sft import UALTrainer

        return UALTrainer

    def get_collator_cls_and_kwargs(self, cfg: Any, is_eval: bool = False) -> None:
        """None: the trainer wraps whichever collator Axolotl chooses."""
        return None

    def add_callbacks_post_trainer(self, cfg: Any, trainer: Any) -> list[Any]:
        """Give the trainer the curriculum that was fixed on the data, and what belongs to it."""
        if self._curriculum is None:
            return []
        from axolotl_ual.training.boundaries import CurriculumCallback

        trainer.follow(self._curriculum)
        return [CurriculumCallback(trainer)]

    def _acts(self, cfg: Any) -> bool:
        """Whether the recipe asks the plugin for anything, and no other instance does it."""
        return asks_for_plugin(cfg) and self._is_first() and _left_alone(cfg) is None

    def _is_first(self) -> bool:
        """Whether no instance was loaded earlier, under the other name that a recipe may use."""
        from axolotl.integrations.base import PluginManager

        loaded = PluginManager.get_instance().plugins.values()
        return next((plugin for plugin in loaded if isinstance(plugin, UALPlugin)), self) is self

    def _seed(self, cfg: Any) -> None:
        if host().seeds_model or cfg.seed is None or not self._acts(cfg):
            return
        from transformers import set_seed

        set_seed(cfg.seed)


def _use(rl: str | None, reward: bool) -> Any:
    """What of Axolotl and TRL a kind of training uses beyond their documented interfaces."""
    from axolotl_ual.settings.preference import ON_PROMPTS

    if rl is None:
        return "reward" if reward else "sft"
    return "prompts" if rl in ON_PROMPTS else "preference"


def _left_alone(cfg: Any) -> str | None:
    from axolotl_ual.settings.left_alone import left_alone

    return left_alone(cfg)


def _warn_of_nothing(cfg: Any) -> None:
    """Say where a recipe names the plugin and asks nothing of it that its training has."""
    line = _left_alone(cfg) if asks_for_plugin(cfg) else None
    if line is not None:
        from axolotl.utils.logging import get_logger

        get_logger(__name__).warning(line)


def _warn_of_untested() -> None:
    """Say which parts nobody has tried with an Axolotl that is newer than the tested ones."""
    if host().untested is not None:
        from axolotl.utils.logging import get_logger

        get_logger(__name__).warning(host().untested)


def _recipe_name(cfg: Any) -> str:
    """The recipe's file as the user named it, for messages."""
    return str(cfg.get("axolotl_config_path") or "recipe.yaml")
