"""A conversation: messages in order, and the tools that the assistant may call. OpenAI's field names."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

JsonObject = Mapping[str, Any]
ROLES = ("system", "developer", "user", "assistant", "tool")
TRAINING_FIELDS = ("weight", "loss", "train", "training")
"""Fields that exclude a turn of the assistant from the loss where one is 0 or false; a chat template never sees them."""


@dataclass(frozen=True)
class Message:
    """One turn. `content` may be None only where `tool_calls` stand; extra fields are what a template may ask for."""

    role: str
    content: str | None = None
    tool_calls: tuple[JsonObject, ...] = ()
    name: str | None = None
    tool_call_id: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_trained(self) -> bool:
        """Whether the loss counts this turn: one of the assistant that no field excludes."""
        return self.role == "assistant" and all(self.extra.get(name, True) for name in TRAINING_FIELDS)

    def as_dict(self) -> dict[str, Any]:
        """Return OpenAI's JSON object, without the keys that aren't set."""
        fields = {
            "role": self.role,
            "content": self.content,
            "tool_calls": [dict(call) for call in self.tool_calls] or None,
            "name": self.name,
            "tool_call_id": self.tool_call_id,
        }
        return {key: value for key, value in fields.items() if value is not None} | dict(self.extra)


@dataclass(frozen=True)
class Conversation:
    """Messages, oldest first, and tool definitions as JSON schemas."""

    messages: tuple[Message, ...]
    tools: tuple[JsonObject, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return `{"messages": [...]}`, with `tools` where there are any."""
        body = {"messages": [message.as_dict() for message in self.messages]}
        return body | ({"tools": [dict(tool) for tool in self.tools]} if self.tools else {})


def call_arguments(arguments: Any) -> Any:
    """Return the arguments of a tool call as an object: OpenAI writes them as JSON in a string.

    A call without arguments (missing, null, an empty text or list, any of them as JSON) has `{}`. Raises `ValueError` for a
    text that isn't JSON; what is neither text nor object is returned as it is.
    """
    if isinstance(arguments, str):
        arguments = json.loads(arguments) if arguments.strip() else None
    return {} if arguments is None or arguments == [] else arguments


def message_from_dict(body: Mapping[str, Any]) -> Message:
    """Build a message from OpenAI's JSON object; null-valued keys count as absent."""
    known = {"role", "content", "tool_calls", "name", "tool_call_id"}
    return Message(
        role=str(body["role"]),
        content=body.get("content"),
        tool_calls=tuple(body.get("tool_calls") or ()),
        name=body.get("name"),
        tool_call_id=body.get("tool_call_id"),
        extra={key: value for key, value in body.items() if key not in known and value is not None},
    )


def conversation_from_dict(body: Mapping[str, Any]) -> Conversation:
    """Build a conversation from `{"messages": [...], "tools": [...]}`."""
    return Conversation(tuple(message_from_dict(m) for m in body["messages"]), tuple(body.get("tools") or ()))
