"""`ual.annotations`: annotations of others, joined to the recipe's datasets by content."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from axolotl_ual.settings.server import Section


class AnnotationsConfig(Section):
    """Annotations that were made elsewhere; a bare string is the `name`."""

    name: str = Field(
        min_length=1,
        description="A folder that `annotate` wrote, or a dataset on the Hub that `publish` wrote.",
    )
    revision: str | None = Field(None, description="Branch, tag or commit on the Hub.")
    on_missing: Literal["mean", "drop", "error"] = Field(
        "mean",
        description="What becomes of a row whose content is not in the annotations: it keeps the "
        "mean smoothing, it is left out, or the run stops.",
    )
