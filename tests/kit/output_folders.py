"""Output folders as `annotate` and `pairs` leave them, written directly."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_ual.columns import (
    DISAGREEMENT,
    FACTUAL,
    GAP,
    SEMANTIC,
    SMOOTHING,
    SPREAD,
    STAGE,
    STAGES,
    UNCERTAINTY,
    UNCERTAINTY_CHOSEN,
    UNCERTAINTY_REJECTED,
    VALUE,
    Manifest,
    ManifestFile,
    ManifestSource,
    ManifestUsage,
)
from axolotl_ual.labels.smoothing import solve_smoothing
from axolotl_ual.preprocess.labels.stages import assign_stages
from axolotl_ual.settings.server import shaping
from axolotl_ual.settings.ual import parse_ual

TEXT = """
the answer depends on what you mean by a good result and how much time there is to check it first
measure then change one thing at a time because two changes hide each other in general water boils
sooner on a mountain where the air is thin so rice needs longer for most people a short walk after
lunch helps more than coffee yet nobody can say why with certainty write down each step of the proof
and look for the place where the assumption is used in history cities grew beside rivers since boats
carry more than carts and grain has to come from afar
"""
WORDS = TEXT.split()
STYLE = "ual_style"
"""Column of a dimension of a user's own."""
QUESTIONS = (
    "Explain why {} is hard to measure.",
    "Write a short note about {} for a newcomer.",
    "What would you advise someone who asks about {}?",
    "Compare {} with what came before it.",
    "List three facts about {}.",
)
TOPICS = ("sleep", "bread", "rivers", "proofs", "tides", "markets", "grammar", "bridges", "dyes")


def sentence(rng: np.random.Generator, words: int) -> str:
    text = " ".join(rng.choice(WORDS, size=max(1, words)))
    return text[:1].upper() + text[1:] + "."


def question(rng: np.random.Generator) -> str:
    return str(rng.choice(QUESTIONS)).format(rng.choice(TOPICS))


def shared_settings() -> dict[str, Any]:
    """What in a manifest is compared with the recipe that names the folder in `annotations:`."""
    ual = parse_ual(None)
    return {"smoothing": shaping(ual.smoothing), "stages": shaping(ual.stages)}


def write_annotated(
    folder: Path,
    sources: dict[str, pa.Table],
    uncertainty: dict[str, Any],
    *,
    further: dict[str, dict[str, Any]] | None = None,
    types: dict[str, Any] | None = None,
    estimator: dict[str, Any] | None = None,
    settings: dict[str, Any] | None = None,
    usage: ManifestUsage | None = None,
    failures: dict[str, int] | None = None,
    cap: float = 0.5,
    manifest: bool = True,
) -> Path:
    """An annotated copy of tables with given uncertainties (NaN: none), smoothed to a mean of 0.1.

    Args:
        folder: to write.
        sources: name of a file without its suffix -> the original columns.
        uncertainty: name -> array of the table's length.
        further: name -> further float columns of it.
        types: name -> `type` of its entry; alpaca where it is left out.
        estimator: of the manifest.
        settings: of the manifest, beside the smoothing.
        usage: of the manifest.
        failures: of the manifest.
        cap: greatest smoothing.
        manifest: whether there is one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    all_values = np.concatenate([np.asarray(uncertainty[n], dtype=np.float64) for n in sources])
    solved = solve_smoothing(all_values, 0.1, cap)
    smoothing = np.where(np.isnan(all_values), 0.1, solved(all_values)).astype(np.float32)
    stages = np.array(STAGES, dtype=object)[assign_stages(all_values)]
    written, start = [], 0
    for name, table in sources.items():
        place = slice(start, start + table.num_rows)
        start = place.stop
        values = pa.array(np.asarray(uncertainty[name], dtype=np.float32), from_pandas=True)
        table = table.append_column(UNCERTAINTY, values)
        table = table.append_column(SMOOTHING, pa.array(smoothing[place]))
        table = table.append_column(STAGE, pa.array(stages[place], type=pa.string()))
        for column, array in (further or {}).get(name, {}).items():
            wide = np.asarray(array, dtype=np.float32)
            table = table.append_column(column, pa.array(wide, from_pandas=True))
        file = _write(folder / f"{name}.parquet", table)
        entry = {"path": f"{name}.jsonl", "type": (types or {}).get(name, "alpaca")}
        written.append(
            ManifestSource(entry=entry, fingerprint="0" * 64, rows=table.num_rows, file=file)
        )
    if manifest:
        known = int(np.isfinite(all_values).sum())
        _manifest(
            folder,
            Manifest(
                package_version="0.1.0",
                versions={"python": "3.11.9", "pyarrow": "20.0.0"},
                created="2025-11-25T12:00:00+00:00",
                estimator=estimator or {"name": "perplexity", "model": "tiny"},
                settings={
                    "estimator": (estimator or {}).get("name", "perplexity"),
                    "smoothing": {"mean": 0.1, "max": cap, "direction": "increasing"},
                    **(settings or {}),
                },
                sources=written,
                counts={
                    "rows": all_values.size,
                    "scored": known,
                    "missing": all_values.size - known,
                    "dropped": 0,
                },
                failures=failures or {},
                usage=usage or ManifestUsage(),
                smoothing={
                    "mean": float(smoothing.mean()),
                    "max": float(smoothing.max()),
                    "scale": solved.scale,
                },
                stages={stage: int((stages == stage).sum()) for stage in STAGES},
            ),
        )
    return folder


def alpaca(rows: int, seed: int = 0) -> pa.Table:
    """Instructions with answers of lognormal length, about 1 kB a row."""
    rng = np.random.default_rng(seed)
    lengths = np.clip(rng.lognormal(4.6, 0.8, rows), 3, 2000).astype(int)
    pool = [sentence(rng, 400) for _ in range(200)]
    picked = rng.integers(0, len(pool), rows)
    return pa.table(
        {
            "instruction": [f"{question(rng)} ({i})" for i in range(rows)],
            "input": [""] * rows,
            "output": [pool[p][: int(n) * 6] for p, n in zip(picked, lengths, strict=True)],
        }
    )


def dialogues(rows: int, seed: int = 1) -> pa.Table:
    """Messages of one to six exchanges."""
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "messages": [
                [
                    {"role": role, "content": text}
                    for _ in range(int(rng.integers(1, 7)))
                    for role, text in (
                        ("user", question(rng)),
                        ("assistant", sentence(rng, int(rng.lognormal(3.5, 0.8)))),
                    )
                ]
                for _ in range(rows)
            ]
        }
    )


def judged(folder: Path, rows: int = 1200, seed: int = 0) -> Path:
    """Two sources that a judge was asked about three times, some rows without a score."""
    rng = np.random.default_rng(seed)
    first, second = alpaca(rows - rows // 4, seed), dialogues(rows // 4, seed + 1)
    uncertainty, spread = {}, {}
    for name, table, mean in (("train", first, 0.35), ("chat", second, 0.55)):
        scores = np.clip(
            rng.beta(2.2, 2.2 * (1 - mean) / mean, (table.num_rows, 1))
            + rng.normal(0, 0.06, (table.num_rows, 3)),
            0,
            1,
        ).round(2)
        scores[rng.random(table.num_rows) < 0.03] = np.nan
        uncertainty[name] = scores.mean(axis=1)
        spread[name] = {SPREAD: scores.std(axis=1, ddof=1)}
    missing = int(sum(np.isnan(values).sum() for values in uncertainty.values()))
    return write_annotated(
        folder,
        {"train": first, "chat": second},
        uncertainty,
        further=spread,
        types={"chat": "chat_template"},
        estimator={
            "name": "judge",
            "model": "gpt-4o",
            "rubric": "uncertainty-v1",
            "rubric_sha256": "ab" * 32,
            "score": "verbalized",
            "shortened": 0,
            "replaced_characters": 0,
        },
        settings={"judge": {"model": "gpt-4o", "repeats": 3}, "on_missing": "mean"},
        usage=ManifestUsage(
            requests=3 * rows,
            cached=12,
            prompt_tokens=1_204 * rows,
            completion_tokens=26 * rows,
            cost_usd=0.0033 * rows,
        ),
        failures={"refused": missing // 3, "unparsable": missing - missing // 3},
    )


def panel_columns(values: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """The column that a panel adds."""
    rng = np.random.default_rng(seed)
    return {DISAGREEMENT: np.abs(rng.normal(0, 0.1, len(values)))}


def paired(folder: Path, prompts: int = 300, n: int = 6, seed: int = 0) -> Path:
    """Pairs and all responses, with clusters, four dimensions and prompts without a pair."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    pairs: list[dict[str, Any]] = []
    responses: list[dict[str, Any]] = []
    for prompt in range(prompts):
        messages = [{"role": "user", "content": f"{question(rng)} ({prompt})"}]
        if prompt % 5 == 0:
            messages.insert(0, {"role": "system", "content": "Be brief and kind."})
        clusters = np.sort(rng.integers(0, rng.integers(1, 5), n))
        sizes = np.bincount(clusters)
        entropy = -sum(s / n * np.log(s / n) for s in sizes if s) / np.log(n)
        group = []
        for number in range(n):
            semantic = 1 - sizes[clusters[number]] / n
            factual = float(np.clip(rng.beta(2, 5) + 0.3 * semantic, 0, 1))
            value = float(rng.beta(2, 8))
            group.append(
                {
                    "prompt_id": prompt,
                    "response_id": number,
                    "messages": messages,
                    "response": sentence(rng, int(rng.lognormal(3.4, 0.6))),
                    "status": "usable",
                    "cluster": int(clusters[number]),
                    "semantic_entropy": float(entropy),
                    SEMANTIC: float(semantic),
                    FACTUAL: factual,
                    VALUE: value,
                    STYLE: float(rng.random()),
                    UNCERTAINTY: round((semantic + factual + value) / 3, 6),
                    "used_as": None,
                }
            )
        if prompt % 11 != 3:
            best = min(group, key=lambda r: r[UNCERTAINTY])
            worst = max(group, key=lambda r: r[UNCERTAINTY])
            best["used_as"], worst["used_as"] = "chosen", "rejected"
            pairs.append(
                {
                    "prompt_id": prompt,
                    "messages": messages,
                    "chosen": {"role": "assistant", "content": best["response"]},
                    "rejected": {"role": "assistant", "content": worst["response"]},
                    UNCERTAINTY_CHOSEN: best[UNCERTAINTY],
                    UNCERTAINTY_REJECTED: worst[UNCERTAINTY],
                    GAP: round(worst[UNCERTAINTY] - best[UNCERTAINTY], 6),
                }
            )
        responses += group
    gap = np.array([pair[GAP] for pair in pairs])
    solved = solve_smoothing(1 - gap, 0.1, 0.4)
    stages = [STAGES[code] for code in assign_stages(-gap)]
    for pair, eps, stage in zip(pairs, solved(1 - gap), stages, strict=True):
        pair |= {SMOOTHING: float(eps), STAGE: stage}
    train = _write(folder / "train.parquet", _float32(pa.Table.from_pylist(pairs)))
    every = _write(folder / "responses.parquet", _float32(pa.Table.from_pylist(responses)))
    _manifest(
        folder,
        Manifest(
            kind="pairs",
            package_version="0.1.0",
            versions={"python": "3.11.9"},
            created="2025-11-25T12:00:00+00:00",
            estimator={
                "sampling": {"method": "api", "model": "llama-3.1-8b"},
                "semantic": {"method": "nli", "model": "deberta-large-mnli"},
                "factual": {"method": "consistency", "model": "deberta-large-mnli"},
                "value": {"method": "judge", "model": "gpt-4o"},
                "total": {"method": "weighted mean", "shares": {"semantic": 1 / 3}},
            },
            settings={"policy": "worst", "smoothing": {"mean": 0.1, "max": 0.4}},
            sources=[
                ManifestSource(
                    entry={"path": "prompts.jsonl", "type": "chat_template.default"},
                    fingerprint="0" * 64,
                    rows=prompts,
                    file=train,
                )
            ],
            files=[every],
            counts={
                "prompts": prompts,
                "responses": len(responses),
                "usable": len(responses),
                "pairs": len(pairs),
            },
            failures={"no pair: identical_texts": prompts - len(pairs)},
            usage=ManifestUsage(requests=prompts, cost_usd=0.41),
            smoothing={"mean": 0.1, "max": float(solved(1 - gap).max())},
            stages={stage: stages.count(stage) for stage in STAGES},
        ),
    )
    return folder


def _float32(table: pa.Table) -> pa.Table:
    fields = [
        pa.field(f.name, pa.float32()) if f.name.startswith("ual_") and f.name != STAGE else f
        for f in table.schema
    ]
    return table.cast(pa.schema(fields))


def _write(path: Path, table: pa.Table) -> ManifestFile:
    pq.write_table(table, path, compression="zstd", row_group_size=10_000)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return ManifestFile(path=path.name, rows=table.num_rows, sha256=digest)


def _manifest(folder: Path, manifest: Manifest) -> None:
    (folder / "manifest.json").write_text(manifest.model_dump_json(indent=2), encoding="utf-8")
