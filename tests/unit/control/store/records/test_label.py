import pytest

from mafunzo.control.store.records import Records
from mafunzo.entities.asset import WORKSPACE_SCOPE, AssetType
from mafunzo.errors import Conflict, NotFound
from tests.unit.control.store.records.sample import model


def test_a_label_is_on_one_version_at_a_time_and_goes_with_it(records: Records) -> None:
    first, second = records.assets.add(model()), records.assets.add(model(version="2"))
    of = (WORKSPACE_SCOPE, AssetType.MODEL, "chat")
    records.labels.set(first.key, "live")
    records.labels.set(second.key, "live")
    records.labels.set(first.key, "old")
    assert records.labels.get(*of, "live") == second
    assert records.labels.get(*of, "latest") == second
    records.assets.delete(second.key)
    with pytest.raises(NotFound, match=r"has the label 'live'\. Labels: latest, old\."):
        records.labels.get(*of, "live")
    with pytest.raises(Conflict, match="'latest' is always"):
        records.labels.set(first.key, "latest")
