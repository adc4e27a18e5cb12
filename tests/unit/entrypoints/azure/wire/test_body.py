"""The outline of a body on Azure's wire."""

from typing import Any

import pytest

from mafunzo.entrypoints.azure.wire.body import DEPTH_LIMIT, check_body
from mafunzo.errors import InvalidParameter


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth > 1 else {}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        pytest.param({"properties": "x"}, "properties is 'x', expected an object", id="text for an object"),
        pytest.param({"properties": {"inputs": {"a": 1}}}, "properties.inputs.a is 1", id="number for an input"),
        pytest.param({"properties": {"jobs": {"a": {"inputs": []}}}}, r"jobs.a.inputs is \[\]", id="list for inputs"),
        pytest.param(
            {"properties": {"properties": {"scaleSettings": {"maxNodeCount": "2"}}}},
            "scaleSettings.maxNodeCount is '2', expected a number",
            id="text for a number",
        ),
        pytest.param({"properties": {"jobs": {"a": {"limits": [1]}}}}, r"jobs.a.limits is \[1\]", id="list for limits"),
        pytest.param({"properties": {"services": {"a": "b"}}}, "services.a is 'b'", id="text for a service"),
        pytest.param({"tags": {"a": "b\0"}}, "NUL or half a character", id="NUL"),
        pytest.param({"tags": {"\ud800": "b"}}, "NUL or half a character", id="half a character"),
        pytest.param(nested(DEPTH_LIMIT + 1), "more than 64 levels", id="too deep"),
    ],
)
def test_a_body_of_another_outline_is_refused(body: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidParameter, match=told):
        check_body(body)


@pytest.mark.parametrize(
    "body",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"properties": None, "tags": None}, id="no values"),
        pytest.param({"tags": {"inputs": "x", "properties": "y"}}, id="tags of such names"),
        pytest.param(
            {"properties": {"jobs": {"a": {"inputs": {"x": {"value": "1"}}}}, "traffic": {"a": 100}}}, id="a job"
        ),
        pytest.param(nested(DEPTH_LIMIT), id="deep"),
    ],
)
def test_a_body_of_the_right_outline_passes(body: dict[str, Any]) -> None:
    check_body(body)
