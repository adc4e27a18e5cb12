"""Components of version 4, literally, and what the product of today makes of them."""

import pytest

from mafunzo.control.store.codec import decode, encode
from mafunzo.control.store.migration_5.asset import asset_body
from mafunzo.control.store.migration_5.component import component_of, source_of
from mafunzo.entities.component import Component, Source
from tests.support.component_of_0_1_0 import COMMAND, PIPELINE


@pytest.mark.parametrize("spec", [COMMAND, PIPELINE], ids=["command", "pipeline"])
def test_what_a_component_becomes_is_whole(spec):
    component = component_of(spec)
    assert encode(decode(Component, component)) == component
    assert decode(Source, source_of(spec))


def test_a_components_row_keeps_its_specification_as_the_echo():
    properties = {"spec": COMMAND, "properties": {"mine": "1"}}
    row = asset_body("component", "c", "1", {"description": "d", "properties": properties})
    assert row["echoes"] == {"azure": {"componentSpec": COMMAND}}
    assert row["description"] == "d" and set(row["properties"]) == {"component", "source", "user_properties"}
    assert row["properties"]["user_properties"] == {"mine": "1"}
