"""Ray itself: a cluster that is joined, or one on this machine for as long as the command."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from axolotl_ual.errors import BackendError, UALError, words_of
from axolotl_ual.settings.engine import EngineConfig

from ..calls.ask import Session

_STORE_BYTES: Final = 512 * 2**20
"""Of Ray's object store, where Ray is started here: blocks on their way take far less."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command does its work.

    Attributes:
        command: its name, for Ray's dashboard.
        config: the engine.
        cache: folder of the durable cache; None is the user's cache directory.
        session: of the command; its budget, and its file of answers without a score.
        row: what a row is called in that file.
    """

    command: str
    config: EngineConfig
    cache: str | None
    session: Session
    row: str


@contextmanager
def connected(config: EngineConfig) -> Iterator[Any]:
    """Ray, connected to a cluster, or started on this machine and ended again.

    Raises:
        UALError: Ray is not installed.
        BackendError: the cluster cannot be reached.
    """
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError:
        raise UALError(
            "engine.kind: ray: Ray is not installed here", "pip install 'axolotl-ual[ray]'"
        ) from None
    if ray.is_initialized():
        yield ray
        return
    # Ray would report about its use to its makers.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = config.address or os.environ.get("RAY_ADDRESS")
    given: dict[str, Any] = {"address": address}
    if address is None:
        # Logical CPUs: many workers that wait for servers have room on few.
        cpus = config.workers or os.cpu_count() or 1
        given = {"address": "local", "num_cpus": cpus, "object_store_memory": _STORE_BYTES}
        given["include_dashboard"] = False
    try:
        ray.init(**given, log_to_driver=False, logging_level="ERROR")
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        raise BackendError(
            f"engine: Ray at {address or 'this machine'} cannot be used: {words_of(error)}",
            "is the cluster up, and is this one of its nodes? `ray status` tells",
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def places(ray: Any, config: EngineConfig) -> int:
    """Workers that the cluster has room for."""
    resources = ray.cluster_resources()
    if config.gpus_per_worker:
        return int(resources.get("GPU", 0) / config.gpus_per_worker)
    return int(resources.get("CPU", 1))
