"""The engine that a recipe asks for."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from axolotl_ual.settings.engine import EngineConfig
from axolotl_ual.settings.pairs import PairsConfig
from axolotl_ual.settings.ual import AnnotateConfig

from ..calls.ask import Session
from ..data.prompt import Prompt
from ..data.responses import Response
from ..dimensions.scores import Scores
from ..progress import Progress
from ..sampling.base import Sampled
from .base import Engine
from .blocks import Lost
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


def pairs_on_ray(
    settings: PairsConfig,
    base_model: str | None,
    template: str | None,
    prompts: Sequence[Prompt],
    responses: Sequence[list[Response]] | None,
    session: Session,
    progress: Progress,
) -> tuple[Sampled, Scores]:
    """Let workers sample responses to prompts, and score them.

    Args:
        settings: the recipe's `ual.pairs`.
        base_model: the recipe's.
        template: its chat template, where it is not the tokenizer's own.
        prompts: at least one.
        responses: to each of them; None: they are to be sampled.
        session: of the command.
        progress: advances by one for each prompt.

    Raises:
        UALError: Ray cannot be used, or as sampling and scoring raise.
    """
    from .cluster import Place
    from .pairing import Asked, Pairing, Part, join_parts, prompt_without_result
    from .ray import do_on_ray

    samples = responses is None
    rows = [Asked(prompt, None) for prompt in prompts]
    if responses is not None:
        rows = [Asked(*of) for of in zip(prompts, responses, strict=True)]
    work = functools.partial(Pairing, settings, base_model, template, samples)
    place = Place("pairs", settings.engine, settings.cache, session, "prompt_id")

    def without(lost: Lost, like: Part) -> Part:
        return prompt_without_result(lost.asked, like, settings.sampling.n)

    joined = join_parts(do_on_ray(work, rows, place, progress, without))
    return joined.sampled, joined.scores


def engine_lines(config: EngineConfig, rows: int, what: str = "rows") -> list[str]:
    """What a plan says of the engine: nothing where it is this process.

    Args:
        config: the section.
        rows: to be scored.
        what: they are called.
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
        f"  on Ray ({where}): {blocks:,} blocks of up to {config.rows_per_block:,} {what}, "
        f"{workers}{each}"
    ]
