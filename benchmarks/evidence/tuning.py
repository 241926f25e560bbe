"""One model, tuned in one arm by one seed: the plugin's loss in a plain loop.

`axolotl train` computes in float32 on a CPU. Here the matrix products are in bfloat16, which is
faster on processors with matrix units, and one loaded model serves all runs; the loss, the
smoothing map and the priors are the plugin's own objects.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mixed import Encoded

from axolotl_ual.columns import IGNORE_INDEX
from axolotl_ual.losses.encoding import encode_smoothing
from axolotl_ual.losses.objective import SmoothedObjective
from axolotl_ual.losses.reference import AdapterOff
from axolotl_ual.losses.rule import Weights


class Tuned:
    """A base model under a LoRA adapter that each run makes anew.

    Args:
        folder: of the base model.
        protocol: rank, dropout, rate, epochs, batch.
    """

    def __init__(self, folder: Path, protocol: Mapping[str, Any]) -> None:
        import transformers

        self.protocol = protocol
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        self._base = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        self.model: Any = None

    def start(self, seed: int) -> None:
        """A fresh adapter."""
        from peft import LoraConfig, get_peft_model

        self.stop()
        torch.manual_seed(seed)
        rank = self.protocol["lora_r"]
        config = LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            lora_dropout=self.protocol["lora_dropout"],
            target_modules="all-linear",
        )
        self.model = get_peft_model(self._base, config)

    def stop(self) -> None:
        """The base model as it was."""
        if self.model is not None:
            self._base = self.model.unload()
            self.model = None

    @property
    def current(self) -> Any:
        """The model with its adapter, where there is one."""
        return self._base if self.model is None else self.model

    def train(
        self, rows: Sequence[Encoded], smoothing: np.ndarray[Any, Any], prior: str, seed: int
    ) -> list[float]:
        """Train the adapter on rows, each smoothed by its number.

        Returns:
            Mean negative log-likelihood a trained token, epoch by epoch.
        """
        inner = self.model.get_base_model()
        reference = partial(AdapterOff, inner) if prior == "reference" else None
        objective = SmoothedObjective(inner, "chunked", len(self.tokenizer), reference)
        with objective.installed():
            return self._epochs(objective, rows, smoothing, seed)

    def _epochs(
        self,
        objective: SmoothedObjective,
        rows: Sequence[Encoded],
        smoothing: np.ndarray[Any, Any],
        seed: int,
    ) -> list[float]:
        fixed = self.protocol
        eps = torch.from_numpy(smoothing.astype(np.float32))
        weights = [weight for weight in self.model.parameters() if weight.requires_grad]
        optimizer = torch.optim.AdamW(weights, lr=fixed["learning_rate"], weight_decay=0.0)
        steps = fixed["epochs"] * math.ceil(len(rows) / fixed["batch"])
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: min(1.0, (step + 1) / 5) * 0.5 * (1 + math.cos(math.pi * step / steps)),
        )
        rng = np.random.default_rng(seed)
        self.model.train()
        found = []
        for _ in range(fixed["epochs"]):
            total, count = 0.0, 0.0
            cuts = range(fixed["batch"], len(rows), fixed["batch"])
            for chosen in np.split(rng.permutation(len(rows)), cuts):
                batch = collate([rows[one] for one in chosen], self.tokenizer.pad_token_id)
                number = (batch["labels"][:, 1:] != IGNORE_INDEX).sum().float()
                objective.weights = Weights(torch.ones(()), 1.0 / number, number)
                each = eps[chosen][:, None].expand(batch["labels"].shape).contiguous()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = self.model(**batch, ual_smoothing=encode_smoothing(each)).loss
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
                optimizer.zero_grad()
                schedule.step()
                assert objective.parts is not None
                total, count = total + float(objective.parts[0]), count + float(number)
            found.append(total / count)
        self.model.eval()
        return found


def collate(rows: Sequence[Encoded], pad: int) -> dict[str, torch.Tensor]:
    """Ids, mask, and labels of the answers, padded on the right."""
    longest = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), longest), pad)
    labels = torch.full((len(rows), longest), IGNORE_INDEX)
    mask = torch.zeros((len(rows), longest), dtype=torch.int64)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        labels[number, row.start : len(row.ids)] = torch.tensor(row.ids[row.start :])
        mask[number, : len(row.ids)] = 1
    return {"input_ids": ids, "labels": labels, "attention_mask": mask}
