"""Which objects of a schema are closed, and that nothing becomes valid that wasn't."""

from typing import Any

import pytest

from mafunzo.compute.inference.json_schema import closed

A: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
SHUT = {**A, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "narrowed"),
    [
        pytest.param(A, SHUT, id="an object"),
        pytest.param(
            {"properties": {}}, {"properties": {}, "additionalProperties": False}, id="one without properties"
        ),
        pytest.param({"properties": {"b": A}}, {"properties": {"b": SHUT}, "additionalProperties": False}, id="nested"),
        pytest.param({"items": A}, {"items": SHUT}, id="items"),
        pytest.param({"prefixItems": [A, True]}, {"prefixItems": [SHUT, True]}, id="the first items"),
        pytest.param({"anyOf": [A, {"type": "null"}]}, {"anyOf": [SHUT, {"type": "null"}]}, id="an optional one"),
        pytest.param(
            {"$ref": "#/$defs/A", "description": "d", "$defs": {"A": A}},
            {"$ref": "#/$defs/A", "description": "d", "$defs": {"A": SHUT}},
            id="a definition",
        ),
        pytest.param(
            {"oneOf": [A], "discriminator": {"propertyName": "a"}},
            {"oneOf": [SHUT], "discriminator": {"propertyName": "a"}},
            id="a tagged choice",
        ),
        pytest.param({"additionalProperties": A}, {"additionalProperties": SHUT}, id="the values of any names"),
    ],
)
def test_an_object_that_lists_its_properties_has_no_others(schema: dict[str, Any], narrowed: dict[str, Any]) -> None:
    assert closed(schema) == narrowed


@pytest.mark.parametrize(
    "schema",
    [
        pytest.param({"type": "object"}, id="any object"),
        pytest.param({**A, "additionalProperties": True}, id="others are allowed"),
        pytest.param({**A, "additionalProperties": {"type": "null"}}, id="others have a type"),
        pytest.param({**A, "patternProperties": {"^x": {}}}, id="others have a pattern"),
        pytest.param({**A, "required": ["a", "b"]}, id="another is required"),
        pytest.param({**A, "minProperties": 2}, id="more are required"),
        pytest.param({"allOf": [A, {"properties": {"b": {}}}]}, id="combined"),
        pytest.param({"items": {"allOf": [{"$ref": "#/$defs/A"}]}, "$defs": {"A": A}}, id="combined by name"),
        pytest.param({"$ref": "#/$defs/A", "properties": {"b": {}}, "$defs": {"A": A}}, id="a reference and more"),
        pytest.param({**A, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, id="a choice beside properties"),
        pytest.param({"oneOf": [A, {"properties": {"b": {}}}]}, id="exactly one of several"),
        pytest.param({"enum": [A], "default": A}, id="values that look like schemas"),
    ],
)
def test_what_says_something_of_others_stays(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_names_of_properties_are_no_keywords() -> None:
    schema = {"properties": {"allOf": A, "properties": A}}
    assert closed(schema) == {"properties": {"allOf": SHUT, "properties": SHUT}, "additionalProperties": False}
