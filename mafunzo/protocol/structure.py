"""What a request asks of its answers' structure: `response_format` and `tool_choice`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.field import Fields, shown


@dataclass(frozen=True)
class ToolChoice:
    """Whether tools may be called, and of which one must be called (none: the model decides).

    is_named: by a function's name, which asks for one call of it, as at OpenAI; clients count on that."""

    may_call: bool = True
    forced: tuple[Mapping[str, Any], ...] = ()
    is_named: bool = False


def read_answer_schema(fields: Fields) -> Mapping[str, Any] | None:
    """Return the JSON schema of an answer, None for plain text."""
    response_format = fields.raw("response_format")
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    if response_format is None or response_format == {"type": "text"}:
        return None
    if kind == "json_object":
        _check_names(fields, response_format, "response_format", "type")
        return {"type": "object"}
    if kind != "json_schema":
        expected = "'text', 'json_object' or 'json_schema'"
        fields.fault("response_format", f"response_format is {shown(response_format)}, expected the type {expected}.")
        return None
    _check_names(fields, response_format, "response_format", "type", "json_schema")
    body = response_format.get("json_schema")
    schema = body.get("schema", {}) if isinstance(body, Mapping) else None
    if not isinstance(body, Mapping) or not isinstance(schema, Mapping):
        name = "response_format.json_schema"
        fields.fault(name, f"{name} is {shown(body)}, expected an object with a schema that is an object.")
        return None
    _check_names(fields, body, "response_format.json_schema", "name", "schema", "strict", "description")
    return schema


def read_tool_choice(fields: Fields, tools: Sequence[Mapping[str, Any]]) -> ToolChoice:
    """Return whether tools may or must be called."""
    choice = fields.raw("tool_choice")
    if choice in (None, "auto"):
        return ToolChoice()
    if choice == "none":
        return ToolChoice(may_call=False)
    if choice == "required":
        if not tools:
            fields.fault("tool_choice", "tool_choice is 'required', but there are no tools to call.")
        return ToolChoice(forced=tuple(tools))
    function = choice.get("function") if isinstance(choice, Mapping) and choice.get("type") == "function" else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        expected = (
            "'auto', 'none', 'required', or the name of a function as {'type': 'function', 'function': {'name': ...}}"
        )
        fields.fault("tool_choice", f"tool_choice is {shown(choice)}, expected {expected}.")
        return ToolChoice()
    forced = tuple(tool for tool in tools if tool["function"].get("name") == name)
    if not forced:
        fields.fault("tool_choice", f"tool_choice names the function {shown(name)}, which isn't among the tools.")
    return ToolChoice(forced=forced[:1], is_named=True)


def _check_names(fields: Fields, body: Mapping[str, Any], prefix: str, *names: str) -> None:
    """Record unknown fields of an object within the request."""
    inner = Fields(body, prefix)
    inner.ignore(*names)
    try:
        inner.check()
    except InvalidParameter as error:
        fields.fault(error.param or prefix, error.message)
