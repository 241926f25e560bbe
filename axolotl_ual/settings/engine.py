"""Where rows are worked off: in this process, or by workers on Ray."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from axolotl_ual.settings.server import Section


class EngineConfig(Section):
    """Who works rows off; never what comes out."""

    kind: Literal["local", "ray"] = Field(
        "local", description="local: this process. ray: workers on a Ray cluster."
    )
    address: str | None = Field(
        None,
        min_length=1,
        description="Of the cluster (`auto`, or host:port); null: RAY_ADDRESS, which jobs have, or "
        "else workers on this machine.",
    )
    workers: int | None = Field(
        None,
        ge=1,
        le=4096,
        description="Processes that score rows; null: one for each CPU of the cluster, or one for "
        "each `gpus_per_worker`.",
    )
    gpus_per_worker: float = Field(
        0.0, ge=0, description="GPUs of one worker, for estimators with a local model."
    )
    rows_per_block: int = Field(
        1000, ge=1, description="Rows that a worker takes at a time, and that are its to repeat."
    )

    @model_validator(mode="after")
    def _keys_are_used(self) -> EngineConfig:
        if self.kind == "local":
            for name, field in type(self).model_fields.items():
                if getattr(self, name) != field.default:
                    raise ValueError(
                        f"`{name}: {getattr(self, name)}` is of no use to `kind: local`; set "
                        "`kind: ray`, or take it out"
                    )
        if (self.address or "").startswith("ray://"):
            raise ValueError(
                f"`address: {self.address}`: the cache would be at the other end; run the command "
                "on a node of the cluster, with `ray job submit` for example"
            )
        return self
