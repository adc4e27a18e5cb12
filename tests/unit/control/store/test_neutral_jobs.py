"""Tests of `mafunzo.control.store.neutral_jobs`: rows of version 4, literally, and what the product of today makes of them."""

from typing import Any

import pytest

from mafunzo.control.store.codec import decode, encode
from mafunzo.control.store.neutral_jobs import neutral_asset, neutral_component, neutral_job, neutral_source
from mafunzo.entities.component import Component, Source
from mafunzo.entities.job import Job
from tests.support.component_of_0_1_0 import COMMAND, PIPELINE


@pytest.mark.parametrize("spec", [COMMAND, PIPELINE], ids=["command", "pipeline"])
def test_what_a_component_becomes_is_whole(spec):
    component = neutral_component(spec)
    assert encode(decode(Component, component)) == component
    assert decode(Source, neutral_source(spec))


def test_a_components_row_keeps_its_specification_as_the_echo():
    properties = {"spec": COMMAND, "properties": {"mine": "1"}}
    row = neutral_asset({"description": "d", "properties": properties})
    assert row["echoes"] == {"azure": {"componentSpec": COMMAND}}
    assert row["description"] == "d" and set(row["properties"]) == {"component", "source", "user_properties"}
    assert row["properties"]["user_properties"] == {"mine": "1"}


BASE: dict[str, Any] = {"display_name": "j", "experiment": "e", "component": "c:1", "inputs": {}}
SENT: dict[str, Any] = {
    "properties": {"jobType": "Command", "description": "about", "properties": {"mine": "1"}, "command": "true"}
}


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        pytest.param(
            {"azureml_body": SENT, "is_archived": True, "best_trial": "t"},
            Job("j", "j", "e", "c:1", properties={"best_trial": "t"}, description="about", user_properties={"mine": "1"},
                is_archived=True, echoes={"azure": SENT}),
            id="a job that came over the wire",
        ),
        pytest.param({}, Job("j", "j", "e", "c:1"), id="a job of the command line"),
        pytest.param(
            {"azureml_body": {"properties": {"description": "about"}}},
            Job("j", "j", "e", "c:1", description="about"),
            id="a job of the command line of which a client changed the description",
        ),
    ],
)  # fmt: skip
def test_a_jobs_row_has_its_body_as_the_echo(properties, expected):
    row = neutral_job({**BASE, "properties": properties})
    assert decode(Job, {"name": "j", **row}) == expected
