"""Forgetting: what a run lost or gained against the base model, beside what it was trained on.

Tasks are those of lm-evaluation-harness, its own or task files of the user's. Each is a set of
questions that every run answers, so a change is paired by question: measures are the means that the
task reports over its questions, and a measure that is no such mean (a corpus perplexity, say) is
left out by name. What a run answered is kept in the durable cache, task by task.

The divergence from the base model on neutral text,

    KL = mean_t sum_v p_base(v) log( p_base(v) / p_run(v) )          nats a token

needs no task: it is how far the run's predictions have moved where nothing asked them to. A model
against itself has exactly 0.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from rich.console import Console

from axolotl_ual.errors import BackendError, ConfigError, DataError, UALError
from axolotl_ual.evaluation.comparison import Arm, Result, compare
from axolotl_ual.evaluation.predictions import Measure, ratio
from axolotl_ual.settings.evaluate import EvaluateConfig, ForgettingConfig

from ..calls.cache import Cache
from ..data.sample import Sample, Turn
from ..models.local.causal import LocalModel
from ..models.local.encoding import Encoded, encode
from ..progress import Progress, show_progress
from .reading import Reader
from .runs import BASE, Run, make_arms

KL: Final = ratio("kl", "KL from the base model on neutral text, a token", "kl", "tokens", None)
_FORMAT: Final = 1
_LOGITS: Final = 1 << 26
_NOT_MEASURES: Final = frozenset({"alias", "name", "sample_len"})

_INSTALL: Final = "pip install 'axolotl-ual[evaluate]'"

Readers = Sequence[tuple[Run, Reader]]


@dataclass(frozen=True, slots=True)
class TaskScores:
    """What one run scored in one task.

    Attributes:
        metrics: the means that the task reports.
        by_question: of each metric, the score of each question, in the order of the questions.
    """

    metrics: Mapping[str, float]
    by_question: Mapping[str, Sequence[float]]


def check_forgetting(settings: ForgettingConfig, runs: Sequence[Run]) -> None:
    """Find what stands in the way before anything is measured.

    Raises:
        ConfigError: the base model is not among the runs, or a file is missing.
        UALError: lm-evaluation-harness is not installed.
    """
    if not settings.tasks and settings.neutral is None:
        return
    if not any(run.kind == BASE for run in runs):
        raise ConfigError(
            "ual.evaluate.forgetting: is measured against the base model, which is none of the "
            "runs",
            "add `base` to --runs",
        )
    if settings.tasks and importlib.util.find_spec("lm_eval") is None:
        raise UALError("ual.evaluate.forgetting.tasks: lm_eval is not installed", _INSTALL)
    for key in ("include_path", "neutral"):
        path = getattr(settings, key)
        if path is not None and not Path(path).exists():
            raise ConfigError(f"ual.evaluate.forgetting.{key}: {path}: no such file or folder")


def score_tasks(
    readers: Readers, settings: ForgettingConfig, max_length: int, cache: Cache, progress: Progress
) -> Iterator[tuple[str, list[TaskScores]]]:
    """Let every run answer every task.

    Yields:
        A task and the scores of the runs, in their order.

    Raises:
        ConfigError: there is no such task.
        BackendError: a task cannot be run.
    """
    scores: dict[str, list[TaskScores]] = {task: [] for task in settings.tasks}
    for run, reader in readers:
        progress.status(run.label)
        for task in settings.tasks:
            scores[task].append(_score(task, reader, settings, max_length, cache))
            progress.advance()
        reader.release()
    yield from scores.items()


def _score(
    task: str, reader: Reader, settings: ForgettingConfig, max_length: int, cache: Cache
) -> TaskScores:
    import lm_eval

    identity = {
        "kind": "evaluate-task",
        "format": _FORMAT,
        **reader.identity(max_length),
        "lm_eval": str(getattr(lm_eval, "__version__", "")),
        "own_tasks": _folder_digest(settings.include_path),
        "limit": settings.limit,
        "num_fewshot": settings.num_fewshot,
    }
    store = cache.values(identity)
    sample = Sample((Turn(None, task, trained=False),))
    (known,) = store.find([sample])
    if known is None:
        found = _ask_harness(task, reader.local, settings)
        known = {"metrics": dict(found.metrics), "by_question": dict(found.by_question)}
        store.put([(sample, known)])
    return TaskScores(known["metrics"], known["by_question"])


def _folder_digest(folder: str | None) -> str | None:
    """Of the task files and the data beside them."""
    if folder is None:
        return None
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(f"{path.relative_to(folder)}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _ask_harness(task: str, local: LocalModel, settings: ForgettingConfig) -> TaskScores:
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    manager = _task_manager(settings.include_path)
    if task not in manager.all_tasks:
        raise ConfigError(
            f"ual.evaluate.forgetting.tasks: {task}: lm-evaluation-harness has no such task",
            "`lm-eval ls tasks` lists its own; those of `include_path` are found by their `task:`",
        )
    model = HFLM(pretrained=local.model, tokenizer=local.tokenizer, batch_size=settings.batch_size)
    try:
        found = lm_eval.simple_evaluate(
            model=model,
            tasks=[task],
            task_manager=manager,
            limit=settings.limit,
            num_fewshot=settings.num_fewshot,
            bootstrap_iters=0,
            log_samples=True,
        )
    except Exception as error:  # A task file is a program, and its data lie anywhere.
        said = str(error).strip() or type(error).__name__
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise BackendError(
            f"ual.evaluate.forgetting.tasks: {task}: cannot be run{offline}: "
            f"{said.splitlines()[0]}",
            "try it with `lm-eval run`, or name tasks whose data are here",
        ) from error
    return _scores(found, task)


@functools.cache
def _task_manager(include_path: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path)


def _scores(found: Mapping[str, Any], task: str) -> TaskScores:
    """The metrics of all subtasks, with the scores of their questions."""
    metrics: dict[str, float] = {}
    by_question: dict[str, list[float]] = {}
    for name, samples in found["samples"].items():
        prefix = "" if name == task else f"{name}: "
        for key, value in found["results"][name].items():
            metric, _, filtered = key.partition(",")
            if metric in _NOT_MEASURES or "stderr" in metric or not isinstance(value, int | float):
                continue
            label = f"{prefix}{metric}" + (f" ({filtered})" if filtered != "none" else "")
            metrics[label] = float(value)
            scores = [
                float(s[metric])
                for s in sorted(samples, key=lambda s: int(s["doc_id"]))
                if s.get("filter", "none") == filtered and isinstance(s.get(metric), int | float)
            ]
            # Only a mean over questions can be compared question by question.
            if scores and abs(float(np.mean(scores)) - float(value)) < 1e-9:
                by_question[label] = scores
    return TaskScores(metrics, by_question)


@dataclass(slots=True)
class Forgetting:
    """Changes against the base model.

    Attributes:
        measures: metrics of tasks, and the divergence on neutral text.
        results: of each measure.
        left_out: metrics that are no means over questions, by task.
    """

    measures: list[Measure] = field(default_factory=list)
    results: list[Result] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=dict)


def measure_forgetting(
    readers: Readers, settings: EvaluateConfig, max_length: int, cache: Cache, console: Console
) -> Forgetting | None:
    """Compare every run with the base model on tasks and on neutral text.

    Returns:
        None where the settings ask for neither.
    """
    wanted = settings.forgetting
    found = Forgetting()
    runs = [run for run, _ in readers]
    if wanted.tasks:
        with show_progress(console, "tasks", len(readers) * len(wanted.tasks)) as progress:
            for task, scores in score_tasks(readers, wanted, max_length, cache, progress):
                _add_task(found, task, runs, scores, settings.seed)
    if wanted.neutral is not None:
        texts = read_neutral(Path(wanted.neutral))
        with show_progress(console, "neutral text", len(readers) * len(texts)) as progress:
            sums = divergences(readers, texts, max_length, cache, progress)
        _add(found, KL, "neutral text", make_arms(runs, sums), settings.seed)
    return found if wanted.tasks or wanted.neutral is not None else None


def _add_task(
    found: Forgetting, task: str, runs: Sequence[Run], scores: Sequence[TaskScores], seed: int
) -> None:
    paired = set.intersection(*(set(one.by_question) for one in scores))
    for metric in scores[0].metrics:
        if metric not in paired:
            found.left_out.setdefault(task, []).append(metric)
            continue
        sums = []
        for one in scores:
            values = np.array(one.by_question[metric], dtype=np.float64)
            sums.append({"score": values, "questions": np.ones(len(values))})
        name = f"{task}: {metric}"
        measure = ratio(name, name, "score", "questions", None)
        _add(found, measure, "questions", make_arms(runs, sums), seed)


def _add(found: Forgetting, measure: Measure, group: str, arms: list[Arm], seed: int) -> None:
    rows = len(next(iter(arms[0].sums[0].values())))
    everything = {group: np.ones(rows, dtype=bool)}
    base = next(arm.name for arm in arms if not arm.trained)
    found.measures.append(measure)
    found.results += compare(arms, np.arange(rows), everything, [measure], base, seed)


def read_neutral(path: Path) -> list[str]:
    """Paragraphs of a .txt file, or the `text` of the rows of a .jsonl file.

    Raises:
        DataError: there is no text in it.
    """
    content = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        texts = []
        for number, line in enumerate(content.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                texts.append(str(json.loads(line)["text"]))
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{path}, line {number}: is no JSON object with `text`", "mend this line"
                ) from None
    else:
        texts = [part.strip() for part in content.split("\n\n")]
    texts = [text for text in texts if text]
    if not texts:
        raise DataError(f"{path}: holds no text", "name another file")
    return texts


def divergences(
    readers: Readers, texts: Sequence[str], max_length: int, cache: Cache, progress: Progress
) -> list[dict[str, npt.NDArray[np.float64]]]:
    """Sums of KL and tokens by text, of every run.

    Raises:
        DataError: no text can be read.
    """
    base = next(reader for run, reader in readers if run.kind == BASE)
    samples = [Sample((Turn(None, text, trained=True),)) for text in texts]
    encoded = encode(samples, base.local.tokenizer, max_length)
    pairs = [(s, e) for s, e in zip(samples, encoded, strict=True) if isinstance(e, Encoded)]
    if not pairs:
        raise DataError("ual.evaluate.forgetting.neutral: no text has two tokens or more")
    tokens = np.array([float(item.scored.sum()) for _, item in pairs])
    found = []
    for run, reader in readers:
        progress.status(run.label)
        sums = np.zeros(len(pairs))
        if run.kind != BASE:
            identity = {
                "kind": "evaluate-kl",
                "format": _FORMAT,
                **reader.identity(max_length),
                "of": base.identity(max_length)["run"],
            }
            store = cache.values(identity)
            known = store.find([sample for sample, _ in pairs])
            for place, (sample, item) in enumerate(pairs):
                if known[place] is None:
                    known[place] = _divergence(base.local, reader.local, item)
                    store.put([(sample, known[place])])
            sums = np.array(known, dtype=np.float64)
            reader.release()
        progress.advance(len(pairs))
        found.append({"kl": sums, "tokens": tokens, "rows": np.ones(len(pairs))})
    base.release()
    return found


def _divergence(base: LocalModel, run: LocalModel, item: Encoded) -> float:
    """Sum over the tokens of a text, in fp64."""
    import torch

    ((_, base_TV),) = base.measure([item], _logits, _LOGITS)
    ((_, run_TV),) = run.measure([item], _logits, _LOGITS)
    total = 0.0
    for p_TV, q_TV in zip(
        torch.from_numpy(base_TV).split(256), torch.from_numpy(run_TV).split(256), strict=True
    ):
        logp_TV, logq_TV = p_TV.double().log_softmax(1), q_TV.double().log_softmax(1)
        total += float((logp_TV.exp() * (logp_TV - logq_TV)).sum())
    return total


def _logits(logits_NV: Any, _: Any) -> Any:
    return logits_NV
