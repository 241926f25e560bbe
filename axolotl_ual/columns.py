"""The contract between annotation and training: column names, stages, and the manifest.

Both halves import this module; it imports nothing of ours. A name that is written in a Parquet
file, and read back by the trainer, is spelled here and nowhere else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

UNCERTAINTY: Final = "ual_uncertainty"
"""float32 in [0, 1], or null where no uncertainty could be had."""
SMOOTHING: Final = "ual_smoothing"
"""float32 in [0, smoothing.max]: label smoothing of the sample or pair."""
WEIGHT: Final = "ual_weight"
"""Prepared data only: what a row counts in the loss, float32 and not negative; or a list of these,
one for each of its tokens."""
STAGE: Final = "ual_stage"
"""string, one of STAGES."""
SENTENCES: Final = "ual_sentences"
"""list of {end: int32, uncertainty: float32 in [0, 1], smoothing: float32 in [0, smoothing.max]},
one for each sentence of the trained text, in order; `end` counts the characters of the trained text
that are no white space, from its beginning to the end of the sentence. Null where the row was not
scored."""
TOKEN_SMOOTHING: Final = "ual_token_smoothing"
"""Prepared data only: float32 list, the smoothing of each token of the row; null or empty where the
row has no sentences, and then its `ual_smoothing` counts."""
IGNORE_INDEX: Final = -100
"""The label of a token that is not trained on, as PyTorch's cross entropy has it."""
SEMANTIC: Final = "ual_semantic"
FACTUAL: Final = "ual_factual"
VALUE: Final = "ual_value"
"""The three UDASA dimensions: float32 in [0, 1], or null where the dimension failed."""
UNCERTAINTY_CHOSEN: Final = "ual_uncertainty_chosen"
UNCERTAINTY_REJECTED: Final = "ual_uncertainty_rejected"
SPREAD: Final = "ual_spread"
"""float32: standard deviation of a judge's repeated scores, or null below two of them."""
DISAGREEMENT: Final = "ual_disagreement"
"""float32: standard deviation over the judges of a panel, or null below two of them."""
MASS: Final = "ual_mass"
"""float32 in [0, 1]: probability that the digits of `score: expected` covered, or null."""
GAP: Final = "ual_gap"
"""float32 in [0, 1]: uncertainty of the rejected response minus that of the chosen one."""
MARGIN: Final = "ual_margin"
"""Training data only: float32, what a pair's target margin is above the mean one."""
REFERENCE_IDS: Final = "ual_reference_ids"
REFERENCE_LOGPROBS: Final = "ual_reference_logprobs"
"""Prepared data only: int32 and float32 lists, K for each trained token of the row, in order."""

ROW: Final = "ual_row"
"""Training data only: int64, a row's number in the training set, where smoothing is replaced."""

PLACE: Final = "ual_place"
"""Training batches only: int64, which of a batch's rows a token is of; negative for padding."""

CONTENT: Final = "ual_content"
"""string: digest of a row's own columns, where annotations are published without the rows."""

PREFIX: Final = "ual_"
"""Every column of ours starts with this; source columns that do are refused."""

CONSERVATIVE: Final = "conservative"
MODERATE: Final = "moderate"
EXPLORATORY: Final = "exploratory"
STAGES: Final = (CONSERVATIVE, MODERATE, EXPLORATORY)
"""In the order of training."""

MANIFEST_FILE: Final = "manifest.json"
PAIRS_FILE: Final = "train.parquet"
"""Of the folder that `axolotl-ual pairs` writes: what is trained on."""
MANIFEST_VERSION: Final = 1


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ManifestColumn(_Record):
    """A column of ours in a Parquet file."""

    name: str
    dtype: str = Field(description="float32, string, list, ...")
    meaning: str


class ManifestFile(_Record):
    """One Parquet file of the output folder."""

    path: str = Field(description="File name, relative to the folder.")
    rows: int = Field(ge=0)
    sha256: str = Field(description="Of the file's bytes.")
    columns: list[ManifestColumn] = Field(
        default_factory=list, description="Those of ours, in their order."
    )


class ManifestSource(_Record):
    """One entry of the recipe's `datasets:` and the file its annotated copy is in."""

    entry: dict[str, Any] = Field(description="The entry as the recipe spells it.")
    fingerprint: str = Field(
        description="What was read: see `axolotl_ual.data.fingerprint.fingerprint`."
    )
    rows: int = Field(ge=0, description="Rows read from the source.")
    file: ManifestFile


class ManifestUsage(_Record):
    """What the run asked of a judge, or of a local model."""

    requests: int = Field(0, ge=0, description="Requests sent in this run.")
    cached: int = Field(0, ge=0, description="Answers that came from the cache.")
    prompt_tokens: int = Field(0, ge=0)
    completion_tokens: int = Field(0, ge=0)
    cost_usd: float | None = Field(None, description="None where no price is known.")


class Manifest(_Record):
    """`manifest.json`, written last: a folder with a manifest is complete."""

    manifest_version: Literal[1] = MANIFEST_VERSION
    kind: Literal["annotations", "pairs", "hashes"] = Field(
        "annotations", description="hashes: annotations with digests in the place of the rows."
    )
    package_version: str
    versions: dict[str, str] = Field(description="Python and the libraries that shaped the result.")
    created: str = Field(description="UTC, ISO 8601.")
    estimator: dict[str, Any] = Field(
        description="Name, model and, for a judge, the rubric's version and hash."
    )
    settings: dict[str, Any] = Field(description="`ual:` as resolved, without secrets.")
    sources: list[ManifestSource]
    files: list[ManifestFile] = Field(
        default_factory=list, description="Further files of the folder, beside those of sources."
    )
    limit: int | None = Field(None, description="--limit of the run; None for the whole data.")
    counts: dict[str, int] = Field(description="rows, scored, missing, dropped, and what else.")
    failures: dict[str, int] = Field(
        default_factory=dict, description="Rows without an uncertainty, by reason."
    )
    usage: ManifestUsage = Field(default_factory=ManifestUsage)
    smoothing: dict[str, float | None] = Field(
        default_factory=dict, description="mean, max and the scale a of min(a * u, max)."
    )
    stages: dict[str, int] = Field(default_factory=dict, description="Rows by stage.")
    trained: dict[str, Any] = Field(
        default_factory=dict,
        description="What training makes of the rows, or why that is not known.",
    )

    @classmethod
    def read(cls, folder: str | Path) -> Manifest:
        """Read `manifest.json` of an output folder.

        Raises:
            FileNotFoundError: the folder has no manifest, so it is missing or incomplete.
            ValueError: the manifest is not one of ours, or of another version.
        """
        path = Path(folder) / MANIFEST_FILE
        return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
