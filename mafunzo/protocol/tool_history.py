"""Tool calls in the messages of a request: what the assistant has called before, checked field by field."""

from collections.abc import Mapping
from typing import Any

from mafunzo.protocol.field import Fields, shown


def read_tool_calls(fields: Fields, at: str, message: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the tool calls of the message `at`, records their faults; null and an empty list mean none.

    Arguments that aren't JSON are no fault: a model wrote them, and the conversation must be able to go on.
    """
    calls = message.get("tool_calls")
    if calls is None or calls == []:
        return []
    at = f"{at}.tool_calls"
    if not isinstance(calls, list):
        fields.fault(at, f"{at} is {shown(calls)}, expected a list of calls.")
        return []
    if message.get("role") != "assistant":
        fields.fault(at, f"{at}: only an assistant calls tools, and this message's role is '{message.get('role')}'.")
        return []
    return [_read_call(fields, f"{at}[{i}]", call) for i, call in enumerate(calls)]


def _read_call(fields: Fields, at: str, call: object) -> dict[str, Any]:
    if not isinstance(call, Mapping):
        fields.fault(at, f"{at} is {shown(call)}, expected a JSON object.")
        return {}
    if call.get("type", "function") not in ("function", None):
        fields.fault(f"{at}.type", f"{at}.type is {shown(call['type'])}, expected 'function'.")
    if not isinstance(call.get("id"), str | None):
        fields.fault(f"{at}.id", f"{at}.id is {shown(call['id'])}, expected a string.")
    function = call.get("function")
    if not isinstance(function, Mapping):
        fields.fault(
            f"{at}.function", f"{at}.function is {shown(function)}, expected an object with name and arguments."
        )
        return {}
    if not isinstance(function.get("name"), str) or not function["name"].strip():
        fields.fault(f"{at}.function.name", f"{at}.function.name is {shown(function.get('name'))}, expected a name.")
    arguments = function.get("arguments")
    if not isinstance(arguments, str | Mapping | None):
        fields.fault(
            f"{at}.function.arguments",
            f"{at}.function.arguments is {shown(arguments)}, expected a JSON object written as a string.",
        )
    return {**call, "function": {**function, "arguments": "{}" if arguments is None else arguments}}
