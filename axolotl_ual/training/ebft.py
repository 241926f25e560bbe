"""Axolotl's EBFT trainer on prompts, in the order of a curriculum.

It is GRPO whose reward compares features of a response with those of the given one, so prompts come
in the order that those of GRPO have. `ebft.mode: strided` has another trainer, on whole documents.
"""

from __future__ import annotations

from axolotl.core.trainers.ebft.trainer import EBFTMixin

from axolotl_ual.training.grpo import UALGRPOTrainer


class UALEBFTTrainer(EBFTMixin, UALGRPOTrainer):
    """EBFT in the order of a curriculum."""
