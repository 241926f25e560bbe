"""Axolotl's own example recipes under the plugin: which are accepted, and why others are not.

    git clone https://github.com/axolotl-ai-cloud/axolotl
    python benchmarks/axolotl_recipes.py axolotl/examples [--each]
    python benchmarks/axolotl_recipes.py axolotl/examples --train results.jsonl [--only PATTERN]

Each recipe is validated by the Axolotl that is installed, as it stands, in a process of its own;
what it says is no matter of the plugin. To those that validate the plugin is added with an empty
`ual:` block, and the rules are asked that `axolotl-ual check` and the plugin ask before a model is
loaded. Nothing is downloaded and no model is made. A minute or two for all.

With `--train` those that are accepted are trained for two steps on a CPU, each with a tiny model
and tiny rows in place of its own (`axolotl_tiny.py`), by the real command in a process of its own
(`axolotl_train.py`). A run that is broken off goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "kit"))

from axolotl_ual.host import PLUGIN, Host, host
from axolotl_ual.settings.refusals import unsupported

Recipe = dict[str, Any]

_SAYS = """
import axolotl.integrations.cut_cross_entropy, axolotl.integrations.liger, bitsandbytes
from axolotl_ual.preprocess.data.axolotl_says import main
main()
"""
"""What recipes need is imported once, and not again in the process of each."""


def recipes(folder: Path) -> Iterator[tuple[Path, Recipe]]:
    """The YAML files below a folder that name a model, in the order of their paths."""
    for path in sorted([*folder.rglob("*.yml"), *folder.rglob("*.yaml")]):
        try:
            found = yaml.safe_load(path.read_text(encoding="utf-8"))
        except yaml.YAMLError:
            continue
        if isinstance(found, dict) and "base_model" in found:
            yield path, found


def refused_by_axolotl(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """What Axolotl says against each recipe as it stands; empty where it accepts it."""
    process = subprocess.run(
        [sys.executable, "-c", _SAYS, *map(str, paths)],
        env={**os.environ, "AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    said = {path: ["Axolotl ended without an answer"] for path in paths}
    for line in process.stdout.splitlines():
        if line.startswith('{"recipe"'):
            answer = json.loads(line)
            said[Path(answer["recipe"])] = answer["problems"]
    return said


def with_plugin(recipe: Mapping[str, Any]) -> Recipe:
    """The recipe with the plugin and an empty block."""
    return {**recipe, "plugins": [*(recipe.get("plugins") or []), PLUGIN], "ual": {}}


def refused_by_plugin(recipe: Mapping[str, Any], on: Host | None = None) -> list[str]:
    """What the plugin says against a recipe, from the YAML alone."""
    return [error.problem for error in unsupported(with_plugin(recipe), on)]


def report(found: Mapping[Path, Recipe], said: Mapping[Path, list[str]]) -> Iterator[str]:
    """The tables: how many are accepted, and what others are refused for.

    Args:
        found: the recipes.
        said: what Axolotl says against each.
    """
    valid = [path for path in found if not said[path]]
    refused = {path: refused_by_plugin(found[path]) for path in valid}
    accepted = [path for path in valid if not refused[path]]
    yield f"Axolotl {host().version}\n\n| recipes | number |\n|---|---|"
    yield f"| examples | {len(found)} |"
    yield f"| validated by Axolotl | {len(valid)} |"
    yield f"| accepted with the plugin | {len(accepted)} |"
    yield f"| refused | {len(valid) - len(accepted)} |"
    reasons: dict[str, list[str]] = {}
    for path in valid:
        for key, problem in {p.partition(":")[0]: p for p in refused[path]}.items():
            reasons.setdefault(key, []).append(problem)
    yield "\n| refused for | recipes | for example |\n|---|---|---|"
    for key, problems in sorted(reasons.items(), key=lambda item: -len(item[1])):
        yield f"| `{key}` | {len(problems)} | {problems[0]} |"


def each(found: Mapping[Path, Recipe], said: Mapping[Path, list[str]]) -> Iterator[str]:
    """A line for each recipe that is not accepted, and who refuses it."""
    yield "\n| recipe | refused by | because |\n|---|---|---|"
    for path, recipe in found.items():
        who, why = ("Axolotl", said[path]) if said[path] else ("plugin", refused_by_plugin(recipe))
        for line in why:
            yield f"| {path} | {who} | {' '.join(line.split())} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("examples", type=Path)
    parser.add_argument("--each", action="store_true", help="list what is refused as well")
    parser.add_argument("--train", type=Path, metavar="FILE", help="train, results into FILE")
    parser.add_argument("--only", default="*", help="paths that match, below `examples`")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th recipe from the i-th on")
    parser.add_argument("--limit", type=int, default=90, help="processor seconds a run")
    given = parser.parse_args()
    part, of = map(int, given.shard.split("/"))
    every = dict(list(recipes(given.examples))[part::of])
    found = {
        path: recipe
        for path, recipe in every.items()
        if fnmatch(str(path.relative_to(given.examples)), given.only)
    }
    if given.train is not None:
        import axolotl_train

        axolotl_train.train_all(found, given.examples, given.train, given.limit)
        print("\n".join(axolotl_train.table(axolotl_train.read(given.train))))
        return
    said = refused_by_axolotl(list(found))
    lines = [*report(found, said), *(each(found, said) if given.each else [])]
    print("\n".join(lines))


if __name__ == "__main__":
    main()
