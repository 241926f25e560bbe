from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from click.testing import CliRunner, Result
from held_out import ROWS, make_world, write_recipe

from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.commands.ablate import _fits
from axolotl_ual.preprocess.data.recipe import load_recipe
from axolotl_ual.preprocess.evaluation.controls import write_control
from axolotl_ual.preprocess.evaluation.grid import CONTROLS, make_points
from axolotl_ual.preprocess.evaluation.training import command_line
from output_folders import shared_settings, write_annotated
from tiny import KIT, write_rows

LAUNCHER = f"{sys.executable} {KIT / 'stand_in_trainer.py'}"
UNCERTAINTY = np.linspace(0, 1, len(ROWS))
ANNOTATED = [
    {
        **row,
        "ual_uncertainty": float(np.float32(u)),
        "ual_smoothing": float(np.float32(0.2 * u)),
        "ual_stage": "conservative" if u < 0.5 else "exploratory",
    }
    for row, u in zip(ROWS, UNCERTAINTY, strict=True)
]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world")).parent


@pytest.fixture
def here(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("base", "adapter-1", "adapter-2", "held-out.jsonl"):
        (tmp_path / name).symlink_to(world / name)
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "train.parquet", ANNOTATED)
    entry = {"path": "train.parquet", "type": "chat_template"}
    write_recipe(
        tmp_path,
        tmp_path / "held-out.jsonl",
        {"generation": {"max_tokens": 4}},
        datasets=[entry],
        plugins=["axolotl_ual.UALPlugin"],
    )
    return tmp_path


def ablate(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["ablate", "recipe.yaml", *arguments])


def calls() -> list[str]:
    path = Path("calls.txt")
    return path.read_text().splitlines() if path.exists() else []


def trained(point: str, seed: int) -> tuple[dict[str, Any], Any]:
    """The recipe of a run and the table it trains on."""
    recipe = yaml.safe_load(Path(f"ablation/runs/{point}/seed-{seed}/recipe.yaml").read_text())
    return recipe, pq.read_table(recipe["datasets"][0]["path"])


@pytest.mark.slow
def test_a_grid_with_controls(here: Path) -> None:
    result = ablate(
        "--control",
        "sft,constant,shuffled,decreasing,length",
        "--seeds",
        "2",
        "--launcher",
        LAUNCHER,
    )
    assert result.exit_code == 0, result.output
    assert len(calls()) == len(set(calls())) == 12
    document = json.loads(Path("ablation/evaluation/evaluation.json").read_text())
    arms = ["base", "ual", "sft", "constant", "shuffled", "decreasing", "length"]
    (nll,) = (r for r in document["results"] if (r["measure"], r["group"]) == ("nll", "all"))
    assert list(nll["values"]) == arms and document["against"] == "sft"
    assert [(run["arm"], run["seed"]) for run in document["runs"]][:3] == [
        ("base", ""),
        ("ual", "7"),
        ("ual", "8"),
    ]
    assert document["single_seed"] == [] and len(nll["by_seed"]["ual"]) == 2
    assert nll["differences"][1]["seeds"] is not None
    smoothing = 0.2 * UNCERTAINTY
    found = {arm: trained(arm, 7)[1]["ual_smoothing"].to_numpy() for arm in arms[1:]}
    assert found["ual"] == pytest.approx(smoothing, abs=1e-7)
    assert found["sft"].tolist() == [0] * 20
    assert found["constant"] == pytest.approx([0.1] * 20, abs=1e-7)
    assert sorted(found["shuffled"]) == pytest.approx(sorted(smoothing), abs=1e-7)
    assert found["shuffled"].tolist() != found["ual"].tolist()
    assert trained("shuffled", 8)[1]["ual_smoothing"].to_numpy().tolist() != (
        found["shuffled"].tolist()
    )
    # u evenly spaced in [0, 1] has mean .5: a slope of .2 on 1 - u gives the mean of .1.
    assert found["decreasing"] == pytest.approx(smoothing[::-1], abs=1e-7)
    lengths = [len(row["messages"][1]["content"]) for row in ROWS]
    assert np.all(np.diff(found["length"][np.argsort(lengths, kind="stable")]) >= 0)
    assert found["length"].mean() == pytest.approx(0.1, abs=1e-6)
    recipe, table = trained("length", 8)
    assert recipe["seed"] == 8 and recipe["auto_resume_from_checkpoints"]
    assert table.column_names[:3] == ["messages", "kind", "level"]


def test_a_control_is_of_whole_rows(here: Path) -> None:
    """Sentences of the rows would go before the smoothing that a control sets."""
    given = [{"end": 3, "uncertainty": 0.0, "smoothing": 0.0}]
    write_rows(Path("train.parquet"), [{**row, "ual_sentences": given} for row in ANNOTATED])
    recipe = load_recipe("recipe.yaml")
    for control in ("sft", "constant", "shuffled"):
        (entry,) = write_control(control, recipe, here / control, seed=7)
        names = pq.read_schema(entry["path"]).names
        assert "ual_sentences" not in names
        assert "ual_smoothing" in names


@pytest.mark.slow
def test_controls_of_rows_that_others_annotated(here: Path) -> None:
    """Rows without our columns, of which the first was never annotated."""
    write_rows(Path("plain.jsonl"), ROWS)
    write_annotated(
        here / "shared",
        {"train": pa.Table.from_pylist(ROWS[:0:-1])},
        {"train": UNCERTAINTY[:0:-1]},
        settings=shared_settings(),
    )
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    recipe["datasets"] = [{"path": "plain.jsonl", "type": "chat_template"}]
    recipe["ual"]["annotations"] = "shared"
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    chosen = ("--control", "constant,length", "--seeds", "1", "--launcher", LAUNCHER)
    result = ablate(*chosen)
    assert result.exit_code == 0, result.output
    own = yaml.safe_load(Path("ablation/runs/ual/seed-7/recipe.yaml").read_text())
    assert own["datasets"] == recipe["datasets"] and own["ual"]["annotations"] == "shared"
    for control in ("constant", "length"):
        made, table = trained(control, 7)
        assert "annotations" not in made["ual"]
        found = table["ual_uncertainty"].to_pylist()
        if control == "constant":
            assert found == [None, *UNCERTAINTY[1:].astype(np.float32).tolist()]
            assert table["ual_smoothing"].to_numpy() == pytest.approx([0.1] * 20, abs=1e-7)
    document = json.loads(Path("ablation/evaluation/evaluation.json").read_text())
    assert [run["arm"] for run in document["runs"]] == ["base", "ual", "constant", "length"]


def test_a_grid_of_values(here: Path) -> None:
    over = ("--over", "learning_rate=0.1,0.2", "--over", "ual.curriculum.mode=none,phased")
    result = ablate(*over, "--seeds", "1", "--dry-run")
    assert result.exit_code == 0 and "would train 4 runs" in result.output
    assert not Path("ablation").exists()
    points = make_points(over[1::2], [], load_recipe("recipe.yaml"))
    assert [point.name for point in points] == [
        f"learning_rate={rate}, mode={mode}" for rate in (0.1, 0.2) for mode in ("none", "phased")
    ]
    recipe = points[3].recipe({"learning_rate": 1, "ual": {"smoothing": {"mean": 0.2}}})
    assert recipe == {
        "learning_rate": 0.2,
        "ual": {"smoothing": {"mean": 0.2}, "curriculum": {"mode": "phased"}},
    }
    (point,) = make_points(["ual.curriculum.epochs=[1, 2, 1]"], [], load_recipe("recipe.yaml"))
    assert point.changes == {"ual.curriculum.epochs": [1, 2, 1]}


@pytest.mark.slow
def test_a_restart_repeats_no_finished_run(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--control", "constant", "--seeds", "2", "--launcher", LAUNCHER)
    monkeypatch.setenv("STOP_AT", "3")
    failed = ablate(*arguments)
    assert failed.exit_code == 1 and "| out of memory" in failed.output
    assert "train.log" in failed.output and len(calls()) == 3
    again = ablate(*arguments)
    assert again.exit_code == 0 and again.output.count("finished before") == 2
    # The run that failed is the only one that was begun twice.
    assert len(calls()) == 5 and len(set(calls())) == 4
    first = Path("ablation/evaluation/evaluation.json").read_text()
    assert ablate(*arguments).exit_code == 0 and len(calls()) == 5
    second = Path("ablation/evaluation/evaluation.json").read_text()
    assert json.loads(first)["results"] == json.loads(second)["results"]


@pytest.mark.slow
def test_several_at_a_time_stop_at_a_failure(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ("--control", "constant,sft", "--seeds", "3", "--jobs", "2")
    monkeypatch.setenv("STOP_AT", "1")
    failed = ablate(*arguments, "--launcher", LAUNCHER)
    assert failed.exit_code == 1 and "| out of memory" in failed.output
    # The one that failed, the one beside it, and at most one that was just then begun.
    assert len(calls()) <= 3
    assert ablate(*arguments, "--launcher", LAUNCHER).exit_code == 0
    assert len(set(calls())) == 9 and len(calls()) == 10


@pytest.mark.slow
def test_finished_runs_of_another_recipe_are_not_taken(here: Path) -> None:
    arguments = ("--seeds", "1", "--launcher", LAUNCHER)
    assert ablate(*arguments).exit_code == 0
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    Path("recipe.yaml").write_text(yaml.safe_dump({**recipe, "learning_rate": 0.5}))
    other = ablate(*arguments)
    assert other.exit_code == 1 and "(`learning_rate` differ)" in other.output
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    write_rows(Path("train.parquet"), ANNOTATED[:10])
    changed = ablate(*arguments)
    assert changed.exit_code == 1 and "(its data differ)" in changed.output


@pytest.mark.slow
def test_annotations_are_made_once_for_all_seeds(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from axolotl_ual.preprocess.estimators.likelihood import LocalScorer

    score, scored = LocalScorer.score, []
    monkeypatch.setattr(LocalScorer, "score", lambda *args: scored.append(1) or score(*args))
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    recipe["datasets"][0]["path"] = "held-out.jsonl"
    recipe["ual"]["annotate"] = {
        "output": "annotated",
        "estimator": "perplexity",
        "perplexity": {"device": "cpu"},
    }
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ("--over", "ual.smoothing.mean=0.05,0.1", "--control", "constant", "--seeds", "2")
    result = ablate(*arguments, "--launcher", LAUNCHER)
    assert result.exit_code == 0, result.output
    # The recipe's own mean is 0.1: its point, the recipe as it is and the control share rows.
    assert len(scored) == 2
    own = yaml.safe_load(Path("ablation/runs/mean=0.05/seed-8/recipe.yaml").read_text())
    assert _fits(own) is True
    annotated = Path(own["ual"]["annotate"]["output"])
    smoothing = pq.read_table(annotated / "train.parquet")["ual_smoothing"].to_numpy()
    assert smoothing.mean() == pytest.approx(0.05, abs=1e-7)


@pytest.mark.slow
def test_annotating_and_judging_share_what_may_be_spent(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from axolotl_ual.preprocess.commands import ablate as command

    annotate, given = command.annotate, []

    def priced(path: Path, options: Any, console: Any) -> Any:
        given.append((options.max_cost, options.retry_failed))
        made = annotate(path, options, console)
        return made.model_copy(update={"usage": made.usage.model_copy(update={"cost_usd": 0.25})})

    def evaluate_runs(recipe: Any, runs: Any, options: Any, console: Any) -> None:
        given.append((options.max_cost, options.retry_failed))

    monkeypatch.setattr(command, "annotate", priced)
    monkeypatch.setattr(command, "evaluate_runs", evaluate_runs)
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    recipe["datasets"][0]["path"] = "held-out.jsonl"
    scorer = {"estimator": "perplexity", "perplexity": {"device": "cpu"}}
    recipe["ual"]["annotate"] = {"output": "annotated", **scorer}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    over = ("--over", "ual.smoothing.mean=0.05,0.1", "--seeds", "1", "--launcher", LAUNCHER)
    result = ablate(*over, "--max-cost", "1", "--retry-failed")
    assert result.exit_code == 0, result.output
    # A quarter is gone after the first annotation, a half after the second.
    assert given == [(1.0, True), (0.75, True), (0.5, True)]


def test_pairs_without_a_dimension(here: Path) -> None:
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    recipe["rl"] = "dpo"
    recipe["ual"]["pairs"] = {"output": "pairs", "value": {"method": "none"}}
    recipe["ual"]["pairs"]["factual"] = {"method": "consistency"}
    recipe["ual"]["pairs"]["semantic"] = {"method": "nli"}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    own, point = make_points([], ["no-factual"], load_recipe("recipe.yaml", for_pairs=True))
    changed = point.recipe(recipe)["ual"]["pairs"]
    assert own.name == "ual" and own.recipe(recipe) == recipe
    assert changed == {**recipe["ual"]["pairs"], "factual": {"method": "none"}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--control", "constent"], "did you mean `constant`?"),
        (["--control", "no-factual"], "makes no preference pairs"),
        (["--over", "ual.smoothing.mean"], "is no key with values"),
        (["--over", "seed.more=1"], "`seed` is 7, and no section"),
        (["--over", "ual.smoothing.meen=1"], "did you mean `mean`?"),
        (["--over", "learning_rate=1,1"], "is there twice"),
        (["--launcher", "no-such-command"], "no-such-command cannot be started"),
        (["--launcher", "true"], "does --launcher wait for the training to end?"),
    ],
)
def test_mistakes(here: Path, arguments: list[str], said: str) -> None:
    result = ablate("--seeds", "1", *arguments)
    assert result.exit_code == 1 and said in result.output, result.output
    assert calls() == []


def test_seeds_would_mix_validation_and_training_rows(here: Path) -> None:
    recipe = yaml.safe_load(Path("recipe.yaml").read_text())
    del recipe["test_datasets"]
    Path("recipe.yaml").write_text(yaml.safe_dump({**recipe, "val_set_size": 0.2}))
    result = ablate("--seeds", "2")
    assert result.exit_code == 1 and "sets other rows apart with every seed" in result.output
    del recipe["plugins"]
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert "does not list axolotl_ual.UALPlugin" in ablate().output


def test_launchers() -> None:
    path = Path("a b/recipe.yaml")
    assert command_line(None, path)[1:] == ["-m", "axolotl.cli.main", "train", str(path)]
    assert command_line("sbatch --wait job.sh", path) == ["sbatch", "--wait", "job.sh", str(path)]
    assert command_line("axolotl train {recipe} --launcher python", path) == [
        "axolotl",
        "train",
        str(path),
        "--launcher",
        "python",
    ]
    assert {"sft", "constant", "shuffled", "decreasing", "length", "no-value"} <= set(CONTROLS)


@pytest.mark.slow
def test_killed_and_restarted_with_axolotl(here: Path) -> None:
    launcher = f"{sys.executable} -m axolotl.cli.main train {{recipe}} --launcher python"
    command = [
        sys.executable,
        "-m",
        "axolotl_ual.preprocess.cli",
        "ablate",
        "recipe.yaml",
        "--control",
        "sft",
        "--seeds",
        "1",
        "--launcher",
        launcher,
    ]
    environment = {
        **os.environ,
        "AXOLOTL_DO_NOT_TRACK": "1",
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
    }
    runs = [Path(f"ablation/runs/{point}/seed-7") for point in ("ual", "sft")]
    with Path("first.log").open("w") as log:
        first = subprocess.Popen(
            command, env=environment, stdout=log, stderr=log, start_new_session=True
        )
        while not (runs[1] / "train.log").exists():
            assert first.poll() is None, Path("first.log").read_text()
            time.sleep(0.2)
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    before = (runs[0] / "finished.json").stat().st_mtime_ns
    assert not (runs[1] / "finished.json").exists()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.count("finished before") == 1
    assert (runs[0] / "finished.json").stat().st_mtime_ns == before
    document = json.loads(Path("ablation/evaluation/evaluation.json").read_text())
    (nll,) = (r for r in document["results"] if (r["measure"], r["group"]) == ("nll", "all"))
    # Both were trained, from one initialisation, and smoothing makes the difference.
    values = nll["values"]
    assert values["sft"] < values["base"] - 0.1
    assert values["sft"] != values["ual"]
    assert abs(values["sft"] - values["ual"]) < abs(values["sft"] - values["base"])
