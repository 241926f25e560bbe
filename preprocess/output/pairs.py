"""The folder that `pairs` leaves: the pairs, all responses with their scores, manifest and card."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from axolotl_ual.columns import PAIRS_FILE, Manifest, ManifestSource, ManifestUsage
from axolotl_ual.data.fingerprint import plain

from ..data.recipe import Recipe
from ..labels.pairs import OUTCOMES, PAIRED, Selection
from ..labels.stages import stage_counts
from . import card
from .annotated import UNSCORED_FILE
from .folder import replace_folder, write_manifest, write_table
from .manifest import make_manifest
from .pairing import Pairing
from .tables import PAIRS, fill, scored

TRAIN_FILE: Final = PAIRS_FILE
RESPONSES_FILE: Final = "responses.parquet"

BY_POLICY: Final = "pairs by "
FOUND_AGAIN: Final = "pairs found again"
"""Counts where several policies were asked for: of what each found, and of what an earlier one
found too.
"""

Origin = tuple[Mapping[str, Any], str, int]
"""Of the prompts of one dataset: its entry, its fingerprint, its rows."""


@dataclass(frozen=True, slots=True)
class Made:
    """What a run found out beside the values of the columns.

    Attributes:
        facts: of sampling and of each dimension.
        settings: that shape the pairs.
        origins: of the prompts.
        failures: responses without a dimension, by reason.
        usage: of sampling and scoring together.
        unreadable: rows without a prompt that were left out.
        limit: `--limit`.
        unscored: file with the answers that gave no score, where there is one.
    """

    facts: dict[str, Any]
    settings: dict[str, Any]
    origins: Sequence[Origin]
    failures: Mapping[str, int]
    usage: ManifestUsage
    unreadable: int = 0
    limit: int | None = None
    unscored: Path | None = None


def write_pairs(output: Path, recipe: Recipe, pairing: Pairing, made: Made) -> Manifest:
    """Write the folder, the manifest last.

    Args:
        output: the folder.
        recipe: that was run.
        pairing: responses, scores and pairs.
        made: what else the run found out.

    Raises:
        DataError: something else lies where the folder should.
    """
    with replace_folder(output) as folder:
        train = write_table(folder / TRAIN_FILE, fill(PAIRS, pairing))
        responses = write_table(folder / RESPONSES_FILE, scored(pairing))
        if made.unscored is not None and made.unscored.exists():
            shutil.copyfile(made.unscored, folder / UNSCORED_FILE)
        smoothing = pairing.paired.smoothing
        manifest = make_manifest(
            kind="pairs",
            estimator=made.facts,
            settings=made.settings,
            sources=[
                ManifestSource(entry=plain(entry), fingerprint=digest, rows=rows, file=train)
                for entry, digest, rows in made.origins
            ],
            files=[responses],
            limit=made.limit,
            counts={
                **pairing.data.counts(),
                "pairs": len(pairing.chosen),
                **_by_policy(pairing.paired.selection),
                **({"unreadable": made.unreadable} if made.unreadable else {}),
            },
            failures=_failures(pairing, made.failures),
            usage=made.usage,
            smoothing={
                "mean": float(smoothing.mean(dtype=np.float64)),
                "max": float(smoothing.max()),
            },
            stages=stage_counts(pairing.paired.stages),
        )
        (folder / "README.md").write_text(
            card.render_pairs(manifest, output, recipe.raw), encoding="utf-8"
        )
        write_manifest(folder, manifest)
    return manifest


def _by_policy(selection: Selection) -> dict[str, int]:
    if len(selection.found) < 2:
        return {}
    again = sum(selection.found.values()) - len(selection.chosen)
    return {**{f"{BY_POLICY}{n}": k for n, k in selection.found.items()}, FOUND_AGAIN: again}


def _failures(pairing: Pairing, failures: Mapping[str, int]) -> dict[str, int]:
    outcomes = pairing.paired.selection.counts()
    unpaired = {f"no pair: {n}": outcomes[n] for n in OUTCOMES if n in outcomes and n != PAIRED}
    return {**unpaired, **dict(sorted(failures.items()))}
