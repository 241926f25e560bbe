"""The engine that a recipe asks for."""

from __future__ import annotations

from axolotl_ual.settings.engine import EngineConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session
from .base import Engine
from .local import LocalEngine


def build_engine(settings: AnnotateConfig, base_model: str | None, session: Session) -> Engine:
    """Make the engine of `ual.annotate`.

    Args:
        settings: the section.
        base_model: the recipe's.
        session: of the command.
    """
    if settings.engine.kind == "local":
        return LocalEngine()
    from .ray import RayEngine

    return RayEngine(settings, base_model, session)


def engine_lines(config: EngineConfig, rows: int) -> list[str]:
    """What a plan says of the engine: nothing where it is this process.

    Args:
        config: the section.
        rows: to be scored.
    """
    if config.kind == "local":
        return []
    blocks = -(-rows // config.rows_per_block)
    where = config.address or "RAY_ADDRESS, or this machine"
    workers = "as many workers as it has room for"
    if config.workers is not None:
        workers = f"{min(config.workers, max(1, blocks))} workers"
    each = f" of {config.gpus_per_worker:g} GPUs each" if config.gpus_per_worker else ""
    return [
        f"  on Ray ({where}): {blocks:,} blocks of up to {config.rows_per_block:,} rows, "
        f"{workers}{each}"
    ]
