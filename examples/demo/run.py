"""The demo: the whole method on a small world, on a CPU, without a network.

    world     questions of known answer entropy, and datasets drawn from them
    base      a base model, trained from scratch on a corpus of the world
    annotate  `axolotl-ual annotate ual.yaml`: uncertainty by perplexity, label smoothing from it
    ablate    `axolotl-ual ablate ual.yaml`: UAL beside plain SFT, constant and shuffled smoothing,
              and UAL whose smoothed mass goes to what the base model predicts; three seeds of
              each, and the evaluation of all of them on held-out rows
    judges    two small classifiers for the pairs, trained on the spot
    pairs     `axolotl-ual pairs dpo.yaml`: preference pairs from the base model, without a label
    dpo       `axolotl train` on dpo.yaml: one staged preference run, and its evaluation

Everything lies in one folder, in which the same commands can be run again by hand.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console

from axolotl_ual import __version__, columns
from axolotl_ual.errors import DataError, UALError
from axolotl_ual.preprocess.models.local.quiet import hush
from axolotl_ual.preprocess.progress import show_progress

from . import preference
from .base_model import BaseSize, make_base_model
from .judges import STEPS as JUDGE_STEPS
from .measure import rank_correlation
from .steps import (
    ABLATE,
    ANNOTATE,
    EVALUATE,
    LAUNCHER,
    PAIRS,
    TRAIN,
    Command,
    Steps,
    num_cores,
    run_side_by_side,
)
from .table import print_pairs, print_report
from .world import HELD_OUT_WORDINGS, NUM_WORDINGS, World, draw_rows, make_world, untold

RECIPE: Final = "ual.yaml"
CONTROLS: Final = ("sft", "constant", "shuffled")
OVER: Final = "ual.smoothing.prior=reference"
ABLATION: Final = "ablation"
EVALUATION: Final = Path(ABLATION) / "evaluation" / "evaluation.json"
RESULT: Final = "demo.json"
_MARKER: Final = "world.json"
_FOLDERS: Final = (
    *("data", "base", "annotated", "prepared", "ual", "logs", "cache", ABLATION),
    *preference.FOLDERS,
)
PAGES: Final = (
    "annotated/report.html",
    "pairs/report.html",
    f"{ABLATION}/evaluation/evaluation.html",
)
_NEEDED: Final = ("axolotl", "peft", "torch", "transformers")


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything.

    Attributes:
        countries: of the world; two facts and one question with several answers each.
        rows: of the training data.
        heldout: rows that are only measured on.
        prompts: questions that preference pairs are made for.
        base: of the base model.
        seeds: runs of each way of training.
        seed: of everything that is drawn.
    """

    countries: int = 32
    rows: int = 300
    heldout: int = 1200
    prompts: int = 300
    base: BaseSize = field(default_factory=BaseSize)
    seeds: int = 3
    seed: int = 0


def main(output: Path, sizes: Sizes | None = None, console: Console | None = None) -> None:
    """Run the demo, print its table and write it to `demo.json`.

    Args:
        output: folder for everything; an earlier demo in it is replaced.
        sizes: of data and model.
        console: where to print; stdout by default.

    Raises:
        DataError: there is something else in `output`.
        UALError: a package is missing, or a step failed.
    """
    sizes = sizes or Sizes()
    console = console or Console(soft_wrap=True)
    _check_packages()
    hush()
    _empty(output, sizes)
    lacking = preference.missing()
    steps = Steps(console, total=4 if lacking else 7)
    with steps.step("world", f"a world of known entropy: {sizes.rows:,} rows to train on"):
        _make_data(output, sizes)
    with steps.step("base", "a base model, trained from scratch on a corpus of that world"):
        _make_base(output, sizes, console)
    with steps.step("annotate", "axolotl-ual annotate ual.yaml"):
        run_side_by_side([Command("annotate", [*ANNOTATE, RECIPE])], output)
    runs = sizes.seeds * (len(CONTROLS) + 2)
    with steps.step("ablate", f"axolotl-ual ablate ual.yaml: {runs} runs of axolotl train"):
        run_side_by_side([_ablation(sizes)], output)
    report = {
        "version": __version__,
        "annotation": _annotation(output / "annotated"),
        "evaluation": json.loads((output / EVALUATION).read_text(encoding="utf-8")),
    }
    if not lacking:
        report["preference"] = _prefer(output, sizes, steps)
    report["seconds"] = steps.seconds
    (output / RESULT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print_report(report, console)
    if lacking:
        console.print(
            f"Preference pairs were left out: pip install {' '.join(lacking)}", highlight=False
        )
    else:
        print_pairs(report["preference"], console)
    console.print(f"All of it is in {output}: see README.md there.", highlight=False)
    pages = ", ".join(page for page in PAGES if (output / page).is_file())
    console.print(f"Open in a browser: {pages}.", highlight=False)


def _prefer(output: Path, sizes: Sizes, steps: Steps) -> dict[str, Any]:
    """The second half: judges, pairs, and a staged preference run."""
    with steps.step("judges", "two small classifiers, for contradiction and for values"):
        world = make_world(sizes.seed, sizes.countries)
        seen = [wording for wording in range(NUM_WORDINGS) if wording not in HELD_OUT_WORDINGS]
        preference.make_prompts(output, world, sizes.prompts, sizes.seed + 4, seen)
        preference.link_embedding(output)
        with show_progress(steps.console, "      training", 2 * JUDGE_STEPS) as progress:
            preference.make_judges(output, world, sizes.seed + 5, progress)
    recipe = preference.RECIPE
    with steps.step("pairs", f"axolotl-ual pairs {recipe}"):
        run_side_by_side([Command("pairs", [*PAIRS, recipe])], output)
    with steps.step("dpo", f"axolotl train {recipe}, conservative pairs first"):
        run_side_by_side([Command("dpo", [*TRAIN, recipe])], output)
        run_side_by_side([Command("evaluate", [*EVALUATE, recipe, "--runs", "base,dpo"])], output)
        return preference.report_pairs(output)


def _ablation(sizes: Sizes) -> Command:
    """As many runs at a time as there are cores, two at most."""
    jobs = min(2, num_cores())
    grid = ["--over", OVER, "--control", ",".join(CONTROLS), "--seeds", str(sizes.seeds)]
    how = ["--output", ABLATION, "--jobs", str(jobs), "--launcher", LAUNCHER]
    return Command("ablate", [*ABLATE, RECIPE, *grid, *how], jobs)


def _check_packages() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UALError(
            f"the demo trains, and {', '.join(missing)} cannot be imported",
            "pip install 'axolotl-ual[train,local]'",
        )


def _empty(output: Path, sizes: Sizes) -> None:
    """Make the folder, without what an earlier demo left in it, and put the recipes there."""
    if output.exists() and not output.is_dir():
        raise DataError(f"{output}: is not a folder", "choose another --output")
    if output.is_dir() and any(output.iterdir()) and not (output / _MARKER).is_file():
        raise DataError(
            f"{output}: has files in it, and they are not of an earlier demo",
            "choose another --output",
        )
    output.mkdir(parents=True, exist_ok=True)
    (output / RESULT).unlink(missing_ok=True)
    for name in _FOLDERS:
        shutil.rmtree(output / name, ignore_errors=True)
    (output / preference.EMBEDDING).unlink(missing_ok=True)
    (output / _MARKER).write_text(json.dumps(asdict(sizes), indent=2) + "\n", encoding="utf-8")
    for name in (RECIPE, preference.RECIPE, "README.md"):
        text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        (output / name).write_text(text, encoding="utf-8")


def _make_data(output: Path, sizes: Sizes) -> None:
    world = make_world(sizes.seed, sizes.countries)
    seen = [wording for wording in range(NUM_WORDINGS) if wording not in HELD_OUT_WORDINGS]
    (output / "data").mkdir()
    _write_rows(output / "data" / "train.jsonl", draw_rows(world, sizes.rows, sizes.seed + 1, seen))
    _write_rows(
        output / "data" / "heldout.jsonl",
        draw_rows(world, sizes.heldout, sizes.seed + 2, HELD_OUT_WORDINGS),
    )


def _make_base(output: Path, sizes: Sizes, console: Console) -> None:
    world = make_world(sizes.seed, sizes.countries)
    left_out = untold(world)
    told = tuple(question for question in world.questions if question.topic not in left_out)
    corpus = World(told, world.askers)
    with show_progress(console, "      training", sizes.base.steps) as progress:
        parameters = make_base_model(corpus, output / "base", sizes.base, sizes.seed + 3, progress)
        progress.status(f"{parameters / 1e6:.1f} million parameters")


def _annotation(folder: Path) -> dict[str, Any]:
    """What `annotate` found, against what is true by construction."""
    import pyarrow.parquet as pq

    file = columns.Manifest.read(folder).sources[0].file
    table = pq.read_table(folder / file.path)
    entropy, uncertainty, smoothing = (
        table[name].to_numpy().astype(np.float64)
        for name in ("true_entropy", columns.UNCERTAINTY, columns.SMOOTHING)
    )
    return {
        "rows": table.num_rows,
        "rank_correlation": rank_correlation(uncertainty, entropy),
        "mean_smoothing": float(smoothing.mean()),
        "largest_smoothing": float(smoothing.max()),
        "mean_smoothing_certain": float(smoothing[entropy == 0].mean()),
        "mean_smoothing_uncertain": float(smoothing[entropy > 0].mean()),
    }


def _write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False) + "\n")
