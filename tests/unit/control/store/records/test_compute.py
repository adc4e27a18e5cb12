from mafunzo.control.store.records import Records
from mafunzo.entities.compute import Compute
from tests.unit.control.store.records.sample import NOON


def test_a_compute_that_is_changed_keeps_its_maker(records: Records) -> None:
    records.computes.put(Compute("big", "Standard_NC6", created_by="amina", created_at=NOON))
    changed = records.computes.put(Compute("big", "Standard_NC6", max_instances=4, created_by="juma"))
    assert (changed.created_by, changed.created_at, changed.max_instances) == ("amina", NOON, 4)
    assert records.computes.get("big") == changed
