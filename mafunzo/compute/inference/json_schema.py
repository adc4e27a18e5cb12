"""JSON schemas as replies are held to them: an object has the properties that its schema lists, and no others.

JSON Schema allows further properties wherever a schema doesn't forbid them, and a weak model that may write some goes on and
on. Most client libraries send such schemas. xgrammar (as vLLM has it) and llama.cpp read them in the same way. The result
is narrower than the schema: what is valid by it is valid by the schema. Where schemas are combined (`allOf`, say), an
object's properties are listed in several places, so that none of them is narrowed.
"""

from collections.abc import Iterator, Mapping
from typing import Any

Schema = Mapping[str, Any]

_BY_NAME = ("properties", "$defs", "definitions")
_IN_LISTS = ("anyOf", "oneOf", "prefixItems")
_SINGLE = ("items", "additionalProperties")
_COMBINING = frozenset({"allOf", "not", "if", "then", "else", "dependentSchemas", "unevaluatedProperties"})
_CHOICES = frozenset({"$ref", "anyOf", "oneOf"})
_OF_OBJECTS = frozenset({"properties", "required", "additionalProperties", "patternProperties", "minProperties"})
_OPENING = frozenset({"additionalProperties", "patternProperties", "propertyNames"})
"""What says itself which further properties there may be."""


def closed(schema: Schema) -> Schema:
    """Return a schema whose objects have no properties but those that it lists, wherever that is all that it says of them."""
    return schema if any(map(_is_combined, _walk(schema))) else _close(schema)


def _close(schema: Any) -> Any:
    if not isinstance(schema, Mapping):
        return schema
    body = dict(schema)
    for name in _BY_NAME:
        if isinstance(body.get(name), Mapping):
            body[name] = {key: _close(part) for key, part in body[name].items()}
    for name in _IN_LISTS:
        if isinstance(body.get(name), list):
            body[name] = [_close(part) for part in body[name]]
    body |= {name: _close(body[name]) for name in _SINGLE if name in body}
    return body | {"additionalProperties": False} if _lists_all(body) else body


def _lists_all(schema: Schema) -> bool:
    """Whether the properties that are listed suffice, and nothing is said of others."""
    properties, required = schema.get("properties"), schema.get("required", [])
    least = schema.get("minProperties", 0)
    return (
        isinstance(properties, Mapping)
        and not _OPENING & schema.keys()
        and isinstance(required, list)
        and all(name in properties for name in required)
        and isinstance(least, int)
        and least <= len(properties)
    )


def _is_combined(schema: Schema) -> bool:
    """Whether an object has to be valid by more than one list of properties, or by exactly one of several."""
    is_choice = bool(_CHOICES & schema.keys())
    return (
        bool(_COMBINING & schema.keys())
        or (is_choice and bool(_OF_OBJECTS & schema.keys()))
        or len(_CHOICES & schema.keys()) > 1
        or ("oneOf" in schema and "discriminator" not in schema)
    )


def _walk(schema: Any) -> Iterator[Schema]:
    """Yield a schema and all within it."""
    if not isinstance(schema, Mapping):
        return
    yield schema
    for name in _BY_NAME:
        if isinstance(schema.get(name), Mapping):
            for part in schema[name].values():
                yield from _walk(part)
    for name in _IN_LISTS:
        if isinstance(schema.get(name), list):
            for part in schema[name]:
                yield from _walk(part)
    for name in _SINGLE:
        yield from _walk(schema.get(name))
