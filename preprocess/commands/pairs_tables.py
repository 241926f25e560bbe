"""What `pairs` writes: the pairs, all responses with their scores, the manifest and the card."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from axolotl_ual import columns
from axolotl_ual.columns import Manifest, ManifestFile
from axolotl_ual.data.fingerprint import file_digest

from ..data.prompt import CHAT, MESSAGES, message_array
from ..dimensions.base import Scores
from ..labels.pairs import Selection, rounded
from ..labels.stages import StageCodes
from ..output import card
from ..output.folder import ROWS_PER_GROUP, float_column
from ..sampling.responses import PROMPT_ID, ResponseSet, response_table

TRAIN_FILE: Final = "train.parquet"
RESPONSES_FILE: Final = "responses.parquet"
_MESSAGE: Final = pa.struct([("role", pa.string()), ("content", pa.string())])
_COLUMN_OF: Final = {
    "semantic": columns.SEMANTIC,
    "factual": columns.FACTUAL,
    "value": columns.VALUE,
}
_MEANING: Final = (
    (PROMPT_ID, "int64", "number of the prompt, as in the responses"),
    (MESSAGES, "list", "the dialogue up to the response: role and content"),
    ("chosen", "struct", "role and content of the most reliable response"),
    ("rejected", "struct", "role and content of a less reliable one"),
    (columns.UNCERTAINTY_CHOSEN, "float32", "uncertainty of the chosen response, in [0, 1]"),
    (columns.UNCERTAINTY_REJECTED, "float32", "uncertainty of the rejected response"),
    (columns.GAP, "float32", "the second less the first, to six decimals"),
    (columns.SMOOTHING, "float32", "flip probability in the preference loss; falls with the gap"),
    (columns.STAGE, "string", "stage of the curriculum: " + ", ".join(columns.STAGES)),
)


@dataclass(frozen=True, slots=True)
class Paired:
    """The pairs of a response set, with what training reads.

    Attributes:
        selection: which responses.
        uncertainty: total of each of N responses, NaN where there is none.
        smoothing: float32 of shape (M,).
        stages: codes of shape (M,).
    """

    selection: Selection
    uncertainty: npt.NDArray[np.float64]
    smoothing: npt.NDArray[np.float32]
    stages: StageCodes


def pairs_table(data: ResponseSet, paired: Paired) -> pa.Table:
    """One row a pair, in the shape that Axolotl's `chat_template.default` reads."""
    selection = paired.selection
    prompt_of, texts = data.prompt_of(), [response.text for response in data.flat()]
    prompt = prompt_of[selection.chosen]
    used = np.unique(prompt)
    messages = message_array([data.prompts[place] for place in used])
    values = rounded(paired.uncertainty)

    def answers(places: npt.NDArray[np.int64]) -> pa.Array:
        content = pa.array([texts[place] for place in places], type=pa.string())
        role = pa.array(np.full(len(places), "assistant", dtype=object), type=pa.string())
        return pa.StructArray.from_arrays([role, content], fields=list(_MESSAGE))

    return pa.table(
        {
            PROMPT_ID: pa.array(prompt),
            MESSAGES: messages.take(pa.array(np.searchsorted(used, prompt))),
            **_chats(data, selection),
            "chosen": answers(selection.chosen),
            "rejected": answers(selection.rejected),
            columns.UNCERTAINTY_CHOSEN: float_column(values[selection.chosen]),
            columns.UNCERTAINTY_REJECTED: float_column(values[selection.rejected]),
            columns.GAP: float_column(selection.gap),
            columns.SMOOTHING: float_column(paired.smoothing),
            columns.STAGE: pa.array(np.array(columns.STAGES)[paired.stages]),
        }
    )


def _chats(data: ResponseSet, selection: Selection) -> dict[str, pa.Array]:
    """The dialogues that have more than roles and texts, with the answers that call tools."""
    flat, prompt_of = data.flat(), data.prompt_of()
    found = []
    for chosen, rejected in zip(selection.chosen, selection.rejected, strict=True):
        prompt = data.prompts[prompt_of[chosen]]
        answers = {"chosen": flat[chosen].chat, "rejected": flat[rejected].chat}
        called = {name: json.loads(chat) for name, chat in answers.items() if chat}
        dialogue = json.loads(prompt.chat) if prompt.chat else {"messages": prompt.texts()}
        chat = {**dialogue, **called} if prompt.chat or called else None
        found.append(chat and json.dumps(chat, ensure_ascii=False))
    return {CHAT: pa.array(found, type=pa.string())} if any(found) else {}


def scored_table(data: ResponseSet, scores: Scores, paired: Paired) -> pa.Table:
    """One row a response, with every score."""
    prompt_of = data.prompt_of()
    role = np.full(len(prompt_of), None, dtype=object)
    role[paired.selection.chosen] = "chosen"
    role[paired.selection.rejected] = "rejected"
    clusters = scores.clusters
    extra = {
        "cluster": pa.array(clusters, mask=clusters < 0, type=pa.int32()),
        "semantic_entropy": float_column(scores.entropy[prompt_of]),
        "semantic_entropy_weighted": float_column(scores.weighted_entropy[prompt_of]),
        **{_COLUMN_OF[name]: float_column(found) for name, found in scores.dimensions.items()},
        **{name: float_column(found) for name, found in scores.columns.items()},
        columns.UNCERTAINTY: float_column(rounded(paired.uncertainty)),
        "used_as": pa.array(role, type=pa.string()),
    }
    return response_table(data, extra)


def write_table(path: Path, table: pa.Table) -> ManifestFile:
    """Write a table as Parquet."""
    pq.write_table(table, path, compression="zstd", row_group_size=ROWS_PER_GROUP)
    return ManifestFile(path=path.name, rows=table.num_rows, sha256=file_digest(path))


def render_card(manifest: Manifest, folder: Path) -> str:
    """The dataset card of pairs."""
    return card.fill(
        "pairs-card.md.jinja",
        manifest,
        folder,
        train=manifest.sources[0].file,
        responses=manifest.files[0],
        columns=_MEANING,
    )
