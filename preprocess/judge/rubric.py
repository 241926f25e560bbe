"""What a judge is told: versioned templates, and the form that its answer is to have.

A template defines the macros `instructions(score)` and `sample(marker, parts)`. It may bring the
schema of its answers as `schema`, a JSON Schema of an object. Every number in it that has bounds is
rated, and the uncertainty of a sample is

    u = 1 - prod_k (1 - (v_k - least_k) / (most_k - least_k))

that is, the number itself, put on the scale from 0 to 1, where there is one; and of openness and
wrongness u = o + w - o w: the response is one that a competent answerer gives if the instruction
leaves no room and the response is right. Macros that take `reason` can ask for a reason first.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
_REASON: Final = "reason"
_PERCENT: Final = {
    "type": "object",
    "properties": {"uncertainty": {"type": "integer", "minimum": 0, "maximum": 100}},
    "required": ["uncertainty"],
    "additionalProperties": False,
}
"""Of a template that brings none."""


class _Macro(Protocol):
    arguments: tuple[str, ...]

    def __call__(self, *values: Any) -> str: ...


class _Module(Protocol):
    instructions: _Macro
    sample: _Macro


class Scale(dict[str, tuple[int, int]]):
    """The numbers of an answer that are rated, with their bounds."""

    def uncertainty(self, values: Mapping[str, float]) -> float:
        """U in [0, 1] from a value for each number."""
        certain = [1 - (values[k] - least) / (most - least) for k, (least, most) in self.items()]
        # One number alone is itself: 1 - (1 - x) would round.
        if len(certain) == 1:
            ((key, (least, most)),) = self.items()
            return (values[key] - least) / (most - least)
        return 1 - math.prod(certain)

    @property
    def is_digits(self) -> bool:
        """Whether every number is one digit."""
        return all(least >= 0 and most <= 9 for least, most in self.values())


@dataclass(frozen=True)
class Rubric:
    """A versioned template: instructions that stay the same, and the frame of a sample.

    Attributes:
        name: of a file of ours without its ending, or the path of the user's own.
        sha256: of the template's source.
        schema: of an answer.
        scale: the numbers of it that are rated.
        brings_schema: whether both ways to score read an object of this schema.
        reason: whether a reason is asked for before the numbers.
    """

    name: str
    sha256: str
    schema: dict[str, Any]
    scale: Scale
    brings_schema: bool
    reason: bool
    _module: _Module = field(repr=False)

    def instructions(self, score: Score) -> str:
        """What the judge is told: the same for every sample of a run."""
        return self._module.instructions(score, *self._reason(self._module.instructions))

    def sample(self, fenced: Fenced) -> str:
        """The sample in its frame."""
        more = self._reason(self._module.sample)
        return self._module.sample(fenced.marker, fenced.parts, *more)

    def _reason(self, macro: _Macro) -> list[bool]:
        return [self.reason] if _REASON in macro.arguments else []

    @property
    def response_format(self) -> dict[str, Any]:
        """Of a request."""
        schema = self.schema
        if self.reason:
            properties = {_REASON: {"type": "string"}, **schema["properties"]}
            required = [_REASON, *schema.get("required", [])]
            schema = {**schema, "properties": properties, "required": required}
        described = {"name": "uncertainty", "strict": True, "schema": schema}
        return {"type": "json_schema", "json_schema": described}

    @property
    def form(self) -> str:
        """The form of an answer in words."""
        numbers = ", ".join(f'"{key}": N' for key in self.scale)
        bounds = sorted(set(self.scale.values()))
        of = " or ".join(f"{least} to {most}" for least, most in bounds)
        reason = '"reason": "...", ' if self.reason else ""
        return (
            f"Answer with one JSON object and nothing else: {{{reason}{numbers}}}, where N is a "
            f"whole number from {of}."
        )


def load_rubric(name: str, *, reason: bool = False, key: str = "ual.annotate.judge") -> Rubric:
    """Load a rubric by the name of one of ours or the path of a `.jinja` file.

    Args:
        name: of the rubric.
        reason: ask for a reason before the numbers.
        key: the YAML section that names it, for error messages.

    Raises:
        ConfigError: there is no such rubric, it is not a valid template, or it asks for no reason.
    """
    path = Path(name) if name.endswith(".jinja") else TEMPLATES / f"{name}.jinja"
    try:
        source = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        ours = ", ".join(sorted(p.stem for p in TEMPLATES.glob("uncertainty-*.jinja")))
        raise ConfigError(
            f"{key}.rubric: cannot read {name!r} ({error})",
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
        brought = getattr(module, "schema", None)
        schema = _PERCENT if brought is None else json.loads(str(brought))
        rubric = Rubric(
            name,
            hashlib.sha256(source.encode()).hexdigest(),
            schema,
            _scale(schema),
            brought is not None,
            reason,
            module,
        )
        rubric.instructions("verbalized")
        rubric.sample(Fenced("SAMPLE-0", (), 0, 0))
    except (AttributeError, KeyError, TemplateError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{key}.rubric: {name}: {error}",
            "a rubric defines the macros instructions(score) and sample(marker, parts), and may "
            "set `schema` to a JSON Schema with at least one number that has a minimum and a "
            "maximum",
        ) from None
    if reason and _REASON not in module.instructions.arguments:
        raise ConfigError(
            f"{key}.reason: the rubric {name} does not ask for a reason",
            "use `rubric: uncertainty-v2`, or a file whose macro is instructions(score, reason)",
        )
    return rubric


def _scale(schema: Mapping[str, Any]) -> Scale:
    """The bounded numbers of a schema.

    Raises:
        ValueError: there are none.
    """
    scale = Scale()
    for key, value in schema["properties"].items():
        bounds: Sequence[Any] = (value.get("minimum"), value.get("maximum"))
        if value.get("type") in ("integer", "number") and None not in bounds:
            if not bounds[0] < bounds[1]:
                raise ValueError(f"`{key}` has no room between its bounds")
            scale[key] = (int(bounds[0]), int(bounds[1]))
    if not scale:
        raise ValueError("`schema` has no number with a minimum and a maximum")
    return scale
