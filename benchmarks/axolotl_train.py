"""Axolotl's own recipes trained on a CPU, each in a fork of a process that has imported Axolotl.

What a recipe came to is a line of JSON, written when it is known; what is there already is not
trained again. A recipe that fails is trained once more without the plugin: one that fails then as
well does not train on a CPU whoever trains it.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import resource
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tiny_zygote
import yaml
from axolotl_rows import unknown_formats
from axolotl_tiny import swapped

import tiny
from axolotl_ual.host import PLUGIN, host
from axolotl_ual.settings.refusals import unsupported

Recipe = dict[str, Any]

_STAND_INS = Path(__file__).resolve().parent / "axolotl_stand_ins"
"""Modules that recipes name and Axolotl does not ship."""
_ERROR = re.compile(r"^(\w[\w.]*(?:Error|Exception|Refused|Exit)): (.*)$")
_SAID = "Axolotl said "
_PLUMBING = (
    "tiny_plugins.BF16OnCPU",
    "tiny_plugins.Recorder",
    "strided_on_cpu.StridedOnCPU",
)


_IMPORTED = (
    "axolotl.integrations.cut_cross_entropy",
    "axolotl.integrations.liger",
    "axolotl_ual.preprocess.data.axolotl_says",
    "axolotl_ual.training.sft",
    "bitsandbytes",
    "peft.tuners.lora.model",
    "transformers.models.llama.modeling_llama",
)


def train_all(recipes: Mapping[Path, Recipe], folder: Path, results: Path, limit: int) -> None:
    """Train recipes one by one.

    Args:
        recipes: by their files.
        folder: that names of recipes are relative to.
        results: file of lines of JSON that results are added to.
        limit: seconds of processor time that one run may take.
    """
    known = {entry["recipe"] for entry in read(results)}
    os.environ.update(tiny.run_environment())
    for module in _IMPORTED:
        importlib.import_module(module)
    tiny_zygote.import_axolotl()
    for path, recipe in recipes.items():
        name = str(path.relative_to(folder))
        if name in known:
            continue
        before = os.times()
        found = _asked(path, recipe) or _tried(path, recipe, limit)
        spent = os.times()
        seconds = round(sum(spent[2:4]) - sum(before[2:4]), 1)
        line = {"recipe": name, "axolotl": host().version, **found, "seconds": seconds}
        with results.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")
        print(f"{line['outcome']:8} {name}: {line.get('why', line.get('losses'))}", flush=True)


def _asked(path: Path, recipe: Recipe) -> dict[str, Any] | None:
    """What Axolotl or the rules of the plugin say against a recipe as it stands, if anything."""
    heard, say = os.pipe()
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(say, 1)
        from axolotl_ual.preprocess.data.axolotl_says import problems

        tiny_zygote.status_of(lambda: print(_SAID + json.dumps(problems(path))))
        os._exit(0)
    os.close(say)
    with os.fdopen(heard) as stream:
        lines = [line for line in stream.read().splitlines() if line.startswith(_SAID)]
    os.waitpid(child, 0)
    against = (
        json.loads(lines[-1].removeprefix(_SAID)) if lines else ["Axolotl ended without an answer"]
    )
    if against:
        return {"outcome": "invalid", "why": " ".join(against[0].split())[:300]}
    errors = unsupported({**recipe, "plugins": [*(recipe.get("plugins") or []), PLUGIN], "ual": {}})
    if errors:
        return {"outcome": "refused", "why": " ".join(errors[0].problem.split())}
    return None


def read(results: Path) -> list[dict[str, Any]]:
    """The results that are known."""
    if not results.is_file():
        return []
    return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def table(results: list[dict[str, Any]]) -> Iterator[str]:
    """How many recipes came to what, and why others did not train."""
    counts = Counter(entry["outcome"] for entry in results)
    yield "\n| outcome | recipes |\n|---|---|"
    for outcome in ("trained", "refused", "host", "untried", "failed", "invalid"):
        yield f"| {outcome} | {counts[outcome]} |"
    yield "\n| recipe | outcome | because |\n|---|---|---|"
    for entry in results:
        if entry["outcome"] not in ("trained", "invalid"):
            yield f"| {entry['recipe']} | {entry['outcome']} | {entry['why']} |"


def _tried(path: Path, recipe: Recipe, limit: int) -> dict[str, Any]:
    """What came of training a recipe with the plugin."""
    if unknown := unknown_formats(recipe):
        return {"outcome": "untried", "why": f"no rows of `type: {unknown[0]}` can be made here"}
    folder = Path(tempfile.mkdtemp(prefix="recipe-"))
    beside = [str(path.parent), str(_STAND_INS)]
    sys.path[:0] = beside
    try:
        facts, found = _in_a_fork(recipe, folder / "with", limit, plugin=True)
        if found["outcome"] != "failed":
            return {**found, **facts}
        _, without = _in_a_fork(recipe, folder / "without", limit, plugin=False)
        if without["outcome"] == "failed":
            found = {**found, "outcome": "host", "alone": without["why"]}
        return {**found, **facts}
    finally:
        del sys.path[: len(beside)]
        shutil.rmtree(folder, ignore_errors=True)


def _in_a_fork(
    recipe: Recipe, folder: Path, limit: int, plugin: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What was swapped, and how the run ended."""
    folder.mkdir(parents=True)
    output = folder / "output.txt"
    child = os.fork()
    if child == 0:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
        os._exit(_run(recipe, folder, output, plugin))
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)  # workers of a dataloader outlive a run
    text = output.read_text(encoding="utf-8", errors="replace") if output.is_file() else ""
    swap = folder / "swap.json"
    facts = json.loads(swap.read_text()) if swap.is_file() else {}
    losses = [entry for entry in tiny.read_log(folder / "out") if "loss" in entry]
    if ended == 0 and losses and all(math.isfinite(entry["loss"]) for entry in losses):
        marks = sorted({key for entry in losses for key in entry if key.startswith("loss/")})
        return facts, {
            "outcome": "trained",
            "losses": [round(entry["loss"], 4) for entry in losses],
            "parts": marks,
        }
    return facts, _reason(text, ended)


def _run(recipe: Recipe, folder: Path, output: Path, plugin: bool) -> int:
    """Make a recipe small and train it, in the fork."""
    stream = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(stream, 1)
    os.dup2(stream, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(folder)

    def main() -> None:
        small, kind, stripped = swapped(recipe, folder)
        small["plugins"] += [*([PLUGIN] if plugin else []), *_PLUMBING]
        (folder / "swap.json").write_text(json.dumps({"model": kind, "stripped": stripped}))
        path = folder / "recipe.yaml"
        asked = {key: value for key, value in small.items() if value is not None}
        path.write_text(yaml.safe_dump({**asked, **({"ual": {}} if plugin else {})}))
        sys.argv = ["axolotl", "train", str(path), "--launcher", "python"]
        from axolotl.cli.main import main as axolotl

        axolotl()

    return tiny_zygote.status_of(main)


def _reason(text: str, status: int) -> dict[str, Any]:
    """The error that a run ended with: one of the plugin's own, or any other."""
    lines = text.splitlines()
    found = [(n, match) for n, line in enumerate(lines) if (match := _ERROR.match(line.strip()))]
    if status == -signal.SIGKILL:
        return {"outcome": "failed", "why": "killed: too long, or too little memory"}
    if not found:
        last = next((line for line in reversed(lines) if line.strip()), "")
        return {"outcome": "failed", "why": f"status {status}: {last.strip()[:200]}"}
    number, match = found[-1]
    name, said = match.groups()
    if name.endswith("ValidationError"):
        said = lines[number + 1].strip()
    refused = name.startswith("axolotl_ual.errors.")
    return {"outcome": "refused" if refused else "failed", "why": f"{name}: {said}"[:300]}
