"""The files of `examples/cluster/ray`, as far as they can be read without a cluster."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from axolotl_ual.preprocess.data.recipe import load_recipe

FOLDER = Path(__file__).resolve().parents[3] / "examples" / "cluster" / "ray"


def read(name: str) -> Any:
    return yaml.safe_load((FOLDER / name).read_text(encoding="utf-8"))


def test_the_recipe_is_one() -> None:
    annotate = load_recipe(FOLDER / "annotate.yaml").ual.annotate
    assert annotate is not None and annotate.engine.kind == "ray"
    assert annotate.engine.address is None, "a job finds its cluster by RAY_ADDRESS"


def test_the_cluster_file_is_what_ray_takes() -> None:
    spec = find_spec("ray")
    assert spec is not None and spec.origin is not None
    schema = json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(read("cluster.yaml"), schema)


def test_jobs_run_the_recipe() -> None:
    job = read("kuberay.yaml")
    assert job["kind"] == "RayJob"
    assert job["spec"]["entrypoint"] == "axolotl-ual annotate /recipe/annotate.yaml"
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    containers = [pod["template"]["spec"]["containers"][0] for pod in pods]
    assert len({container["image"] for container in containers}) == 1
    assert all(container["envFrom"] for container in containers), "each has the keys of servers"
    mounts = {m["name"]: m["mountPath"] for m in containers[0]["volumeMounts"]}
    recipe = read("annotate.yaml")["ual"]["annotate"]
    assert mounts["recipe"] == "/recipe"
    for name in ("output", "cache"):
        assert recipe[name].startswith(mounts["data"] + "/"), "it outlives the pod"
    assert "axolotl-ual annotate annotate.yaml" in (FOLDER / "submit.sh").read_text()
