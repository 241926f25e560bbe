"""The options of a `chat_template` entry that decide what a row says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from axolotl_ual.errors import ConfigError
from axolotl_ual.settings.images import Detail, Images

_ROLES: Final = {
    "user": ["human", "user"],
    "assistant": ["gpt", "assistant"],
    "system": ["system"],
    "tool": ["tool"],
}
_MAPPED: Final = ("tool_calls", "tool_call_id", "name")
"""Keys of a message beside role, content and reasoning that a mapping may spell otherwise."""


@dataclass(frozen=True, slots=True)
class ChatFields:
    """Where a conversation lies in a row, and what of it is trained.

    Attributes:
        messages: the column of conversations.
        tools: the column with definitions of tools.
        role: of a message, its key for the role.
        content: likewise for the text.
        reasoning: likewise for the reasoning before the text.
        others: likewise for tool_calls, tool_call_id and name.
        training: likewise for the flag that says whether the message is trained, or None.
        training_detail: likewise for trained spans of the text, or None.
        roles: the role that each spelling stands for; others stand for themselves.
        roles_to_train: roles whose messages are trained.
        drop_system_message: leave out a system message at the beginning.
        train_on_inputs: the recipe's.
        images: omit: read the text of rows with images; send: read the images too; error: such a
            row cannot be read.
        image_detail: at which images that are read are to be looked at.
        image_columns: columns that may hold images beside the messages.
    """

    messages: str = "messages"
    tools: str = "tools"
    role: str = "role"
    content: str = "content"
    reasoning: str = "reasoning_content"
    others: dict[str, str] = field(default_factory=lambda: {name: name for name in _MAPPED})
    training: str | None = None
    training_detail: str | None = None
    roles: dict[str, str] = field(default_factory=dict)
    roles_to_train: frozenset[str] = frozenset({"assistant"})
    drop_system_message: bool = False
    train_on_inputs: bool = False
    images: Images = "error"
    image_detail: Detail = "auto"
    image_columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, entry: Mapping[str, Any], train_on_inputs: bool, where: str) -> ChatFields:
        """Read the options of an entry.

        Raises:
            ConfigError: an option has the wrong shape, or two contradict each other.
        """
        given = {key: value for key, value in entry.items() if value is not None}
        mapping = _mapping(given, where)
        roles = _roles(given.get("roles") or _ROLES, where)
        to_train = given.get("roles_to_train", ["assistant"])
        if not isinstance(to_train, list):
            raise ConfigError(f"{where}.roles_to_train: must be a list, not {to_train!r}")
        thinking = given.get("template_thinking_key", "reasoning_content")
        return cls(
            messages=given.get("field_messages", "messages"),
            tools=given.get("field_tools", "tools"),
            role=mapping["role"],
            content=mapping["content"],
            reasoning=mapping.get(thinking) or thinking,
            others={name: mapping.get(name) or name for name in _MAPPED},
            training=given.get("message_field_training"),
            training_detail=given.get("message_field_training_detail"),
            roles=roles,
            roles_to_train=frozenset(roles.get(str(role), str(role)) for role in to_train),
            drop_system_message=bool(given.get("drop_system_message")),
            train_on_inputs=train_on_inputs,
        )


def _roles(spelled: Any, where: str) -> dict[str, str]:
    """The role of each name that messages use."""
    if not isinstance(spelled, Mapping) or not all(isinstance(v, list) for v in spelled.values()):
        raise ConfigError(
            f"{where}.roles: must map each role to a list of names, not {spelled!r}",
            "write for example `roles: {user: [human], assistant: [gpt]}`",
        )
    return {str(name): str(role) for role, names in spelled.items() for name in names}


def _mapping(given: Mapping[str, Any], where: str) -> dict[str, str]:
    """`message_property_mappings` with the deprecated spelling of its two main keys taken in."""
    mapping = given.get("message_property_mappings", {})
    if not isinstance(mapping, Mapping):
        raise ConfigError(f"{where}.message_property_mappings: must be a mapping, not {mapping!r}")
    mapping = dict(mapping)
    for key in ("role", "content"):
        old = given.get(f"message_field_{key}")
        if old is not None and mapping.get(key, old) != old:
            raise ConfigError(
                f"{where}.message_field_{key}: {old!r} contradicts "
                f"message_property_mappings.{key}: {mapping[key]!r}",
                f"take the deprecated message_field_{key} out",
            )
        mapping.setdefault(key, old or key)
    return mapping
