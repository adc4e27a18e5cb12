"""Tests of `mafunzo.protocol.field`: each field is checked, all faults are told at once, and `param` names the first."""

from collections.abc import Callable
from typing import Any

import pytest

from mafunzo.errors import InvalidParameter
from mafunzo.protocol.field import Fields


@pytest.mark.parametrize(
    ("value", "read", "expected"),
    [
        pytest.param(None, lambda fields: fields.number("x", 0, 2, 1.0), 1.0, id="no number: the default"),
        pytest.param(2, lambda fields: fields.number("x", 0, 2, 1.0), 2.0, id="a whole number at the limit"),
        pytest.param(None, lambda fields: fields.integer("x"), None, id="no integer"),
        pytest.param(7, lambda fields: fields.integer("x", 0), 7, id="an integer"),
        pytest.param(None, lambda fields: fields.boolean("x", True), True, id="no boolean: the default"),
        pytest.param(False, lambda fields: fields.boolean("x", True), False, id="a boolean"),
        pytest.param(None, lambda fields: fields.strings("x", 2), (), id="no strings"),
        pytest.param("a", lambda fields: fields.strings("x", 2), ("a",), id="one string"),
        pytest.param("", lambda fields: fields.strings("x", 2), ("",), id="an empty one"),
        pytest.param([], lambda fields: fields.strings("x", 2), (), id="an empty list"),
        pytest.param(["a", "b"], lambda fields: fields.strings("x", 2), ("a", "b"), id="a list of them"),
    ],
)
def test_a_field_is_read(value: object, read: Callable[[Fields], Any], expected: object) -> None:
    fields = Fields({"x": value})
    assert read(fields) == expected
    fields.check()


@pytest.mark.parametrize(
    ("value", "read", "message"),
    [
        pytest.param("1", lambda f: f.number("x", 0, 2, 1.0), "x is '1', expected a number.", id="text, no number"),
        pytest.param(True, lambda f: f.number("x", 0, 2, 1.0), "x is True, expected a number.", id="true is no number"),
        pytest.param(3, lambda f: f.number("x", 0, 2, 1.0), "x is 3, expected 0 to 2.", id="too much"),
        pytest.param(True, lambda f: f.integer("x"), "x is True, expected an integer.", id="true is no integer"),
        pytest.param(1.5, lambda f: f.integer("x"), "x is 1.5, expected an integer.", id="a fraction"),
        pytest.param(0, lambda f: f.integer("x", 1), "x is 0, expected at least 1.", id="too little"),
        pytest.param(9, lambda f: f.integer("x", 1, 8), "x is 9, expected 1 to 8.", id="out of a range"),
        pytest.param(1, lambda f: f.boolean("x"), "x is 1, expected true or false.", id="one isn't true"),
        pytest.param([1], lambda f: f.strings("x", 2), "x is [1], expected a string or a list of strings.", id="ids"),
        pytest.param(
            list("abc"), lambda f: f.strings("x", 2), "x is 'a list of 3', expected at most 2 strings.", id="3"
        ),
        pytest.param(2, lambda f: f.refuse({"x": ((1,), "one only.")}), "x is 2: one only.", id="what isn't honoured"),
        pytest.param("y" * 99, lambda f: f.integer("x"), f"x is '{'y' * 56}..., expected an integer.", id="cut short"),
    ],
)
def test_a_fault_names_the_field_its_value_and_what_was_expected(
    value: object, read: Callable[[Fields], Any], message: str
) -> None:
    fields = Fields({"x": value})
    read(fields)
    with pytest.raises(InvalidParameter) as refusal:
        fields.check()
    assert (refusal.value.message, refusal.value.param) == (message, "x")


def test_all_faults_are_told_at_once_and_the_first_is_named() -> None:
    fields = Fields({"b": "x", "a": "y", "typo": 1})
    fields.integer("b")
    fields.integer("a")
    with pytest.raises(InvalidParameter) as refusal:
        fields.check()
    assert refusal.value.param == "b"
    assert refusal.value.message == (
        "b is 'x', expected an integer. a is 'y', expected an integer. Unrecognized request argument supplied: typo."
    )


def test_fields_of_a_part_are_named_with_it() -> None:
    fields = Fields({"x": 1}, "stream_options")
    with pytest.raises(InvalidParameter, match=r"supplied: stream_options\.x") as refusal:
        fields.check()
    assert refusal.value.param == "stream_options.x"


@pytest.mark.parametrize(("prefix", "what"), [("", "The body"), ("stream_options", "stream_options")])
def test_what_is_no_object_has_no_fields(prefix: str, what: str) -> None:
    with pytest.raises(InvalidParameter, match=f"{what} must be a JSON object"):
        Fields([], prefix)


def test_a_field_without_effect_may_be_there() -> None:
    fields = Fields({"user": "amina", "x": 1})
    fields.ignore("user")
    fields.refuse({"x": ((1,), "only one."), "y": ((), "it isn't supported.")})
    fields.check()


def test_texts_may_be_absent_or_have_to_be_there() -> None:
    fields = Fields({"a": "x", "b": 1, "c": " "})
    assert (fields.text("a"), fields.required_text("a"), fields.text("absent")) == ("x", "x", None)
    assert (fields.text("b"), fields.required_text("c")) == (None, "")
    with pytest.raises(InvalidParameter) as refusal:
        fields.check()
    assert refusal.value.message == "b is 1, expected a string. c is ' ', expected a string that isn't empty."


def test_the_faults_of_an_object_within_are_told_with_its_name() -> None:
    fields = Fields({"outer": {"x": 1, "y": 2}, "other": 1})
    assert fields.within("outer", fields.raw("outer"), lambda inner: inner.integer("x"), 7) == 7, "y is unknown"
    assert fields.within("other", fields.raw("other"), lambda inner: inner.integer("x"), 7) == 7
    with pytest.raises(InvalidParameter) as refusal:
        fields.check()
    assert refusal.value.message == ("Unrecognized request argument supplied: outer.y. other must be a JSON object.")
    assert refusal.value.param == "outer.y"
