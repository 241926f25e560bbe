"""Readers of single-exchange types: the alpaca family, custom types, input_output, completion.

The constant preamble that Axolotl puts before every alpaca prompt is no part of a sample: it is
the same for all rows and tells a judge nothing about any of them. A custom type is the other way
round: its `format` is the user's own prompt, so the sample holds it as rendered.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from axolotl_ual.errors import ConfigError

from .sample import BadRow, Reader, Row, Sample, Turn, kind_of, make_sample, shorten, text_of


@dataclass(frozen=True, slots=True)
class AlpacaFields:
    """The columns of an alpaca-like type; None where it has no such column."""

    instruction: str = "instruction"
    input: str | None = "input"
    output: str = "output"
    system: str | None = None


def alpaca_reader(fields: AlpacaFields) -> Reader[Sample]:
    """A reader of instruction, optional input, and output."""

    def read(row: Row) -> Sample:
        instruction = formatted(row.get(fields.instruction), fields.instruction)
        given = row.get(fields.input) if fields.input else None
        if given:
            instruction = f"{instruction}\n\n{formatted(given, str(fields.input))}"
        system = row.get(fields.system) if fields.system else None
        turns = [Turn("user", instruction, False)]
        if system:
            turns.insert(0, Turn("system", formatted(system, str(fields.system)), False))
        turns.append(Turn("assistant", text_of(row.get(fields.output), fields.output), True))
        return make_sample(turns, fields.output)

    needed = [fields.instruction, fields.output, *([fields.system] if fields.system else [])]
    optional = (fields.input,) if fields.input else ()
    return Reader(
        read,
        tuple(needed),
        optional,
        "rename the columns, or give `type:` a mapping with `field_instruction`, `field_input`, "
        "`field_output` and `format`",
    )


def custom_reader(spec: Mapping[str, Any], where: str) -> Reader[Sample]:
    """A reader of a type that the recipe defines itself.

    Args:
        spec: `type:` of the entry.
        where: what error messages call it.

    Raises:
        ConfigError: a format has a placeholder that is never filled, or is not a text.
    """
    values = {key: _setting(spec, key, default, where) for key, default in _CUSTOM.items()}
    for key, names in _PLACEHOLDERS.items():
        _check_format(values[key], names, f"{where}.{key}")
    instruction_key, input_key = values["field_instruction"], values["field_input"]
    output_key, system_key = values["field_output"], values["field_system"]

    def read(row: Row) -> Sample:
        instruction = formatted(row.get(instruction_key), instruction_key)
        system = row[system_key] if system_key in row else values["system_prompt"]
        rendered = ""
        if system and values["system_format"]:
            rendered = values["system_format"].format(system=formatted(system, system_key))
        given = row.get(input_key)
        if given:
            given = formatted(given, input_key)
            rendered += values["format"].format(instruction=instruction, input=given)
        else:
            rendered += values["no_input_format"].format(instruction=instruction)
        output = text_of(row.get(output_key), output_key)
        return make_sample([Turn(None, rendered, False), Turn(None, output, True)], output_key)

    return Reader(
        read,
        (instruction_key, output_key),
        (input_key, system_key),
        f"set `field_instruction`, `field_input`, `field_output` of {where} to the columns",
    )


_CUSTOM = {
    "system_prompt": "",
    "field_system": "system",
    "field_instruction": "instruction",
    "field_input": "input",
    "field_output": "output",
    "format": "{instruction} {input} ",
    "no_input_format": "{instruction} ",
    "system_format": "{system}",
}
"""Keys of a custom type and what Axolotl takes where they are left out."""

_PLACEHOLDERS = {
    "format": ("instruction", "input"),
    "no_input_format": ("instruction",),
    "system_format": ("system",),
}


def _setting(spec: Mapping[str, Any], key: str, default: str, where: str) -> str:
    value = spec.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise ConfigError(f"{where}.{key}: must be a text, not {value!r}")
    return value


def _check_format(text: str, names: tuple[str, ...], where: str) -> None:
    allowed = ", ".join(f"{{{name}}}" for name in names)
    try:
        text.format(**dict.fromkeys(names, ""))
    except (KeyError, IndexError, ValueError, AttributeError) as error:
        raise ConfigError(
            f"{where}: {text!r} cannot be filled in: {error!r}",
            f"it may hold {allowed}; a brace that is meant as such is written twice",
        ) from None


def input_output_reader(train_on_inputs: bool) -> Reader[Sample]:
    """A reader of `segments`: texts, each with a label that says whether it is trained."""

    def read(row: Row) -> Sample:
        segments = row.get("segments")
        if not isinstance(segments, list):
            raise BadRow("segments", f"is {kind_of(segments)} and not a list of segments")
        turns = [_segment(segment, f"segments[{i}]") for i, segment in enumerate(segments)]
        if train_on_inputs and not any(turn.trained for turn in turns):
            turns = [Turn(None, turn.text, True) for turn in turns]
        return make_sample(turns, "segments")

    return Reader(read, ("segments",), hint="rename the column, or choose another `type:`")


def _segment(segment: Any, key: str) -> Turn:
    if not isinstance(segment, Mapping):
        raise BadRow(key, f"is {kind_of(segment)} and not an object with `label` and `text`")
    label = segment.get("label")
    if not isinstance(label, int):
        raise BadRow(f"{key}.label", f"is {kind_of(label)} and not true or false: {shorten(label)}")
    return Turn(None, text_of(segment.get("text"), f"{key}.text"), bool(label))


def completion_reader(field: str) -> Reader[Sample]:
    """A reader of plain text, all of which is trained."""

    def read(row: Row) -> Sample:
        return make_sample([Turn(None, text_of(row.get(field), field), True)], field)

    return Reader(read, (field,), hint="set `field:` of this dataset to the column with the text")


def formatted(value: Any, key: str) -> str:
    """A text, or a number as Axolotl's prompt formats write it."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    return text_of(value, key)
