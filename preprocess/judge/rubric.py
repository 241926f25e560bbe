"""What a judge is told: versioned templates, and the form that its answer is to have."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, cast

from jinja2 import StrictUndefined, TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from axolotl_ual.errors import ConfigError

from .frame import Fenced

Score = Literal["verbalized", "expected"]

TEMPLATES: Final = Path(__file__).parent / "templates"
TOP_LOGPROBS: Final = 20
"""The most that OpenAI gives; the ten digits fit with room for spellings such as " 7"."""

SCHEMA: Final[dict[str, Any]] = {
    "type": "json_schema",
    "json_schema": {
        "name": "uncertainty",
        "strict": True,
        "schema": {
            "type": "object",
            "properties": {"uncertainty": {"type": "integer", "minimum": 0, "maximum": 100}},
            "required": ["uncertainty"],
            "additionalProperties": False,
        },
    },
}
"""`response_format` of a verbalized score."""


class _Module(Protocol):
    def instructions(self, score: str) -> str: ...

    def sample(self, marker: str, parts: Sequence[Any]) -> str: ...


@dataclass(frozen=True)
class Rubric:
    """A versioned template: instructions that stay the same, and the frame of a sample.

    Attributes:
        name: of a file of ours without its ending, or the path of the user's own.
        sha256: of the template's source.
    """

    name: str
    sha256: str
    _module: _Module

    def instructions(self, score: Score) -> str:
        """What the judge is told: the same for every sample of a run."""
        return self._module.instructions(score)

    def sample(self, fenced: Fenced) -> str:
        """The sample in its frame."""
        return self._module.sample(fenced.marker, fenced.parts)


def load_rubric(name: str) -> Rubric:
    """Load a rubric by the name of one of ours or the path of a `.jinja` file.

    Raises:
        ConfigError: there is no such rubric, or it is not a valid template.
    """
    path = Path(name) if name.endswith(".jinja") else TEMPLATES / f"{name}.jinja"
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        ours = ", ".join(sorted(p.stem for p in TEMPLATES.glob("uncertainty-*.jinja")))
        raise ConfigError(
            f"ual.annotate.judge.rubric: cannot read {name!r} ({error})",
            f"name one of {ours}, or the path of a .jinja file",
        ) from None
    environment = ImmutableSandboxedEnvironment(
        autoescape=False,
        keep_trailing_newline=False,
        lstrip_blocks=True,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    try:
        module = cast("_Module", environment.from_string(source).module)
        module.instructions("verbalized")
        module.sample("SAMPLE-0", [])
    except (AttributeError, TemplateError, TypeError) as error:
        raise ConfigError(
            f"ual.annotate.judge.rubric: {name}: {error}",
            "a rubric defines the macros instructions(score) and sample(marker, parts)",
        ) from None
    return Rubric(name, hashlib.sha256(source.encode()).hexdigest(), module)
