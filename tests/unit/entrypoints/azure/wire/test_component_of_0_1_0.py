"""What the store makes of a component that version 0.1.0 kept is what Azure's translation reads of it."""

import pytest

from mafunzo.control.store.codec import decode, encode
from mafunzo.control.store.migration_5 import component as migrated
from mafunzo.entities.component import Component, Source
from mafunzo.entrypoints.azure.wire.component import component_from_spec, source_of
from tests.support.component_of_0_1_0 import COMMAND, PIPELINE


@pytest.mark.parametrize("spec", [COMMAND, PIPELINE], ids=["command", "pipeline"])
def test_a_component_is_what_it_was(spec):
    component, source = component_from_spec(spec, "x"), source_of(spec)
    assert migrated.component_of(spec) == encode(component)
    assert decode(Component, migrated.component_of(spec)) == component
    assert decode(Source, migrated.source_of(spec)) == source
