"""A recipe as a chain of jobs: the files that are written, and what they do."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import stand_in_slurm
import yaml
from click.testing import CliRunner, Result

from axolotl_ual.errors import ConfigError
from axolotl_ual.preprocess.cli import main
from axolotl_ual.preprocess.launching.config import parse_launch

GOLDEN = Path(__file__).parent / "golden"
CLUSTER = Path(__file__).resolve().parents[3] / "examples" / "cluster"
SHELLCHECK = str(Path(sys.executable).with_name("shellcheck"))
RECIPE = {"base_model": "m", "ual": {"annotate": {"output": "data", "estimator": "perplexity"}}}
SLURM: dict[str, Any] = {
    "provider": "slurm",
    "name": "lima",
    "environment": {"HF_HOME": "/shared/my cache"},
    "setup": ["module load cuda", "source .venv/bin/activate"],
    "annotate": {
        "serve": "vllm serve Qwen/Qwen2.5-7B-Instruct --port 8000",
        "patience": 900,
        "options": {"gres": "gpu:1", "time": "02:00:00"},
    },
    "train": {
        "nodes": 2,
        "processes": 8,
        "options": {"gres": "gpu:8", "time": "12:00:00", "exclusive": True, "mem": 0},
    },
    "evaluate": {"runs": ["base", "ual=outputs/ual"], "options": {"gres": "gpu:1"}},
}
SKY = {
    **SLURM,
    "provider": "skypilot",
    "mounts": {"/bucket": {"name": "runs", "mode": "MOUNT"}},
    "annotate": {"options": {"cpus": "4+"}},
    "train": {
        "nodes": 2,
        "processes": 8,
        "options": {"accelerators": "H100:8", "use_spot": True},
    },
}


@pytest.fixture(autouse=True)
def in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("recipe.yaml").write_text(yaml.safe_dump(RECIPE))


def launch(config: dict[str, Any], *arguments: str) -> Result:
    Path("where.yaml").write_text(yaml.safe_dump(config))
    return CliRunner().invoke(main, ["launch", "recipe.yaml", "--on", "where.yaml", *arguments])


@pytest.mark.parametrize("config", [SLURM, SKY], ids=["slurm", "skypilot"])
def test_the_job_files(config: dict[str, Any]) -> None:
    """`golden/` holds what was read by eye; copy `jobs/` there where a change is wanted."""
    result = launch(config, "--dry-run")
    assert result.exit_code == 0 and "submitted nothing" in result.output
    written = {path.name: path.read_text() for path in Path("jobs").iterdir()}
    golden = GOLDEN / str(config["provider"])
    assert written == {path.name: path.read_text() for path in golden.iterdir()}
    for name in written:
        assert f"wrote jobs/{name}" in result.output


@pytest.mark.parametrize("name", ["slurm", "skypilot"])
def test_the_files_to_start_from(name: str) -> None:
    config = yaml.safe_load((CLUSTER / f"{name}.yaml").read_text())
    assert parse_launch(config, name).provider == name
    assert launch(config, "--dry-run").exit_code == 0


def test_steps_that_are_left_out() -> None:
    assert launch({"provider": "slurm", "annotate": None}, "--dry-run").exit_code == 0
    assert [path.name for path in Path("jobs").iterdir()] == ["ual-train.sbatch"]


def test_a_recipe_of_pairs_makes_pairs() -> None:
    recipe = {"base_model": "m", "rl": "dpo", "ual": {"pairs": {"output": "data"}}}
    Path("recipe.yaml").write_text(yaml.safe_dump(recipe))
    launch({"provider": "slurm"}, "--dry-run")
    assert "axolotl-ual pairs recipe.yaml" in Path("jobs/ual-annotate.sbatch").read_text()


@pytest.mark.slow
def test_job_files_and_scripts_pass_shellcheck() -> None:
    sky = yaml.safe_load_all((GOLDEN / "skypilot" / "lima-pipeline.yaml").read_text())
    scripts = [task["run"] for task in list(sky)[1:]]
    files = [*(GOLDEN / "slurm").iterdir(), *CLUSTER.glob("*.sh"), *CLUSTER.glob("*.sbatch")]
    assert len(files) >= 5
    # SC1091: the environment that set-up lines name is on the cluster.
    for text in [*scripts, *(path.read_text() for path in files)]:
        run = subprocess.run(
            [SHELLCHECK, "--shell=bash", "--exclude=SC1091", "-"],
            input=text,
            capture_output=True,
            text=True,
        )
        assert run.returncode == 0, run.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"provider": "pbs"}, "provider"),
        ({"nods": 2}, "nods"),
        ({"train": {"nodes": 0}}, "train.nodes"),
        ({"evaluate": {"runs": []}}, "evaluate.runs"),
        ({"environment": {"OPENAI_API_KEY": "x"}}, "would be written into job files"),
        ({"environment": {"a b": "x"}}, "no name of a variable"),
        ({"name": "a b"}, "name"),
        ({"mounts": {"/bucket": {}}}, "`mounts` is for SkyPilot"),
    ],
)
def test_a_wrong_file_is_told_by_key(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse_launch({**SLURM, **change}, "where.yaml")
    assert "where.yaml: " in str(raised.value) and said in str(raised.value)


@pytest.mark.parametrize("config", [SLURM, SKY], ids=["slurm", "skypilot"])
def test_without_the_scheduler(config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    result = launch(config)
    assert result.exit_code == 1 and "on this machine" in result.output


def commands(folder: Path, monkeypatch: pytest.MonkeyPatch, body: str) -> Path:
    """Stand-ins for Slurm, and for the commands of the steps, which note their arguments."""
    stand_in_slurm.install(folder)
    for name in ("axolotl", "axolotl-ual"):
        path = folder / name
        path.write_text(f'#!/bin/bash\necho "{name} $*" >> "$PWD/ran"\n{body}\n')
        path.chmod(0o755)
    (folder / "state").mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN_SLURM", str(folder / "state"))
    return Path("ran")


PLAIN = {
    "provider": "slurm",
    "train": {"processes": 2},
    "evaluate": {"runs": ["base", "ual=out"]},
}


@pytest.mark.slow
def test_a_chain_runs_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = commands(tmp_path / "bin", monkeypatch, "")
    result = launch(PLAIN)
    assert result.exit_code == 0, result.output
    for number in (1, 2, 3):
        assert f"submitted {number}" in result.output
    assert ran.read_text().splitlines() == [
        "axolotl-ual annotate recipe.yaml",
        "axolotl train recipe.yaml --launcher torchrun --auto-resume-from-checkpoints -- "
        "--nnodes=1 --nproc-per-node=2 --rdzv-backend=c10d --rdzv-endpoint=localhost:29500 "
        "--rdzv-id=2",
        "axolotl-ual evaluate recipe.yaml --runs base,ual=out",
    ]


@pytest.mark.slow
def test_nothing_runs_behind_a_step_that_failed_and_a_second_launch_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '[[ $* == train* && ! -e "$PWD/once" ]] && touch "$PWD/once" && exit 3\nexit 0'
    for step in (2, 10):
        Path(f"model-out/checkpoint-{step}").mkdir(parents=True)
    ran = commands(tmp_path / "bin", monkeypatch, body)
    assert launch(PLAIN).exit_code == 0
    assert [line.split()[1] for line in ran.read_text().splitlines()] == ["annotate", "train"]
    log = Path("jobs/ual-train.2.log").read_text().splitlines()
    assert log == [
        "ual-train has ended with status 3; the last checkpoint: model-out/checkpoint-10",
        "to go on from there: axolotl-ual launch recipe.yaml --on where.yaml",
    ]
    ran.unlink()
    assert launch(PLAIN).exit_code == 0
    steps = [line.split()[1] for line in ran.read_text().splitlines()]
    assert steps == ["annotate", "train", "evaluate"]


@pytest.mark.slow
def test_a_job_at_its_time_limit_goes_back_into_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = '[[ -e "$PWD/once" ]] || { touch "$PWD/once"; sleep 30; }'
    ran = commands(tmp_path / "bin", monkeypatch, body)
    monkeypatch.setenv("TIME_LIMIT", "3")
    assert launch({**PLAIN, "evaluate": None}).exit_code == 0
    steps = [line.split()[1] for line in ran.read_text().splitlines()]
    assert steps == ["annotate", "annotate", "train"]
    assert Path("jobs/ual-annotate.1.log").read_text() == "going back into the queue\n"


@pytest.mark.slow
@pytest.mark.parametrize("answers", [True, False])
def test_a_judge_on_the_node_is_waited_for_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    ran = commands(tmp_path / "bin", monkeypatch, "")
    (tmp_path / "page").write_text("here")
    step = {
        "serve": "sleep 60" if answers else "false",
        "ready": f"file://{tmp_path}/{'page' if answers else 'none'}",
    }
    assert launch({**PLAIN, "annotate": step, "evaluate": None}).exit_code == 0
    log = Path("jobs/ual-annotate.1.log").read_text()
    assert ran.exists() == answers
    assert ("the judge has ended before it answered" in log) != answers
    left = subprocess.run(["pgrep", "-f", "^sleep 60$"], capture_output=True, text=True)
    assert not left.stdout


@pytest.mark.host
def test_axolotl_finds_the_providers(monkeypatch: pytest.MonkeyPatch) -> None:
    from axolotl_ual.preprocess.launching.provider import ChainLauncher

    for name in ("slurm", "skypilot"):
        (point,) = entry_points(group="axolotl.cloud_providers", name=name)
        assert point.load() is ChainLauncher
    launcher = ChainLauncher.from_config({"provider": "slurm", "annotate": None})
    with pytest.raises(ConfigError, match="no sbatch"):
        monkeypatch.setenv("PATH", "")
        launcher.train(
            yaml.safe_dump(RECIPE), "accelerate", ["--max-restarts=1"], {}, num_epochs=2, debug=True
        )
    assert yaml.safe_load(Path("jobs/ual.yaml").read_text()) == RECIPE
    text = Path("jobs/ual-train.sbatch").read_text()
    assert "axolotl train jobs/ual.yaml --launcher torchrun" in text
    assert "--num-epochs=2 --debug" in text and text.count("--max-restarts=1") == 1
    with pytest.raises(ConfigError, match="--launcher python"):
        launcher.train(yaml.safe_dump(RECIPE), "python")
    with pytest.raises(ConfigError, match="annotates, trains and evaluates"):
        launcher.preprocess(yaml.safe_dump(RECIPE))
