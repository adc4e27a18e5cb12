import secrets
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mafunzo.control.store.records import Records
from mafunzo.entities.asset import REGISTRY_SCOPE, WORKSPACE_SCOPE, Asset, AssetKey, AssetType, FolderType
from mafunzo.entities.scan import Scan
from mafunzo.errors import Conflict, NotFound
from tests.unit.control.store.records.sample import NOON, artifact_hash, model

numbers = st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


def test_an_asset_comes_back_as_it_was_added(records: Records) -> None:
    asset = model(
        description="Ünï",
        tags={"b": "2", "a": "1"},
        properties={"rows": 400, "loss": 1.0, "nested": {"list": [1, None, True, "\u0000"]}},
        created_by="me",
        created_at=NOON,
    )
    assert records.assets.add(asset) == asset
    back = records.assets.get(asset.key)
    assert back == asset
    assert (type(back.folder_type), type(back.key.type), type(back.properties["loss"])) == (
        FolderType,
        AssetType,
        float,
    )


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_any_properties_come_back_as_they_were(records: Records, properties: dict[str, object]) -> None:
    asset = records.assets.add(model(version=secrets.token_hex(8), properties=properties))
    assert records.assets.get(asset.key).properties == properties


def test_an_asset_without_a_moment_gets_one(records: Records) -> None:
    added = records.assets.add(model())
    assert added.created_at is not None and added == records.assets.get(added.key)


def test_a_version_is_never_added_twice(records: Records) -> None:
    records.assets.add(model())
    with pytest.raises(Conflict, match="Model chat:1 exists already"):
        records.assets.add(model(description="other"))
    assert records.assets.get(model().key).description == ""


def test_the_same_name_may_stand_in_another_scope_and_type(records: Records) -> None:
    keys = [
        AssetKey(scope, type, "chat", "1")
        for scope in (WORKSPACE_SCOPE, REGISTRY_SCOPE)
        for type in (AssetType.MODEL, AssetType.DATA)
    ]
    for key in keys:
        records.assets.add(Asset(key, FolderType.URI_FOLDER))
    assert {asset.key for asset in records.assets.list()} == set(keys)
    assert [asset.key for asset in records.assets.list(scope=REGISTRY_SCOPE, type=AssetType.DATA)] == [keys[3]]


@pytest.mark.parametrize(
    ("name", "version", "said"),
    [
        pytest.param("chat", "3", r"No model 'chat:3' in workspace\. Versions of chat: 1, 2\.", id="another version"),
        pytest.param("chatt", "1", r"No model 'chatt:1' in workspace\. Did you mean chat\?", id="a typing error"),
        pytest.param("zebra", "1", r"No model 'zebra:1' in workspace\.$", id="nothing like it"),
    ],
)
def test_a_missing_asset_names_what_is_near(records: Records, name: str, version: str, said: str) -> None:
    records.assets.add(model())
    records.assets.add(model(version="2"))
    with pytest.raises(NotFound, match=said):
        records.assets.get(AssetKey(WORKSPACE_SCOPE, AssetType.MODEL, name, version))


def test_the_latest_version_is_the_one_added_last_that_is_not_archived(records: Records) -> None:
    for version in ("10", "9", "11"):
        records.assets.add(model(version=version))
    records.assets.update(model(version="11", is_archived=True))
    assert records.assets.latest(WORKSPACE_SCOPE, AssetType.MODEL, "chat").version == "9"
    with pytest.raises(NotFound, match="No model 'cat:latest'"):
        records.assets.latest(WORKSPACE_SCOPE, AssetType.MODEL, "cat")


def test_assets_are_listed_newest_first_without_archived_ones(records: Records) -> None:
    for name, version in (("a", "1"), ("b", "1"), ("a", "2")):
        records.assets.add(model(name, version))
    records.assets.update(model("b", is_archived=True))
    assert [str(asset.key) for asset in records.assets.list()] == ["a:2", "a:1"]
    assert [str(asset.key) for asset in records.assets.list(with_archived=True)] == ["a:2", "b:1", "a:1"]
    assert [str(asset.key) for asset in records.assets.list(name="a")] == ["a:2", "a:1"]


def test_an_update_changes_what_is_said_of_an_asset_but_never_its_bytes(records: Records) -> None:
    added = records.assets.add(model())
    records.assets.update(replace(added, tags={"good": "yes"}, created_at=None))
    assert records.assets.get(added.key) == replace(added, tags={"good": "yes"})
    with pytest.raises(Conflict, match=r"Model chat:1 has other bytes already"):
        records.assets.update(replace(added, artifact=artifact_hash("b")))
    with pytest.raises(NotFound, match="chat:2"):
        records.assets.update(model(version="2"))


def test_an_asset_on_offer_can_get_its_bytes_later(records: Records) -> None:
    offered = records.assets.add(model(artifact=None))
    records.assets.update(replace(offered, artifact=artifact_hash("f")))
    assert records.assets.get(offered.key).artifact == artifact_hash("f")


def test_a_deleted_asset_is_gone(records: Records) -> None:
    records.assets.add(model())
    records.assets.delete(model().key)
    assert records.assets.list() == []
    with pytest.raises(NotFound):
        records.assets.delete(model().key)


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


def test_a_long_list_is_read_in_pages_whatever_is_added_and_deleted_meanwhile(records: Records) -> None:
    for number in range(1, 8):
        records.assets.add(model(version=str(number)))
    pages = records.assets.scan(Scan(size=2), WORKSPACE_SCOPE, AssetType.MODEL)
    first = [next(pages), next(pages)]
    records.assets.delete(first[1][1].key)
    records.assets.add(model(version="8"))
    versions = [asset.version for _, asset in [*first, *pages]]
    assert versions == ["7", "6", "5", "4", "3", "2", "1"]
    rest = records.assets.scan(Scan(after=first[1][0], size=2), WORKSPACE_SCOPE, AssetType.MODEL)
    assert [asset.version for _, asset in rest] == ["5", "4", "3", "2", "1"]
    oldest = records.assets.scan(Scan(size=2, is_oldest_first=True), WORKSPACE_SCOPE, AssetType.MODEL)
    assert [asset.version for _, asset in oldest] == ["1", "2", "3", "4", "5", "7", "8"]


def test_names_are_read_in_pages_each_once_by_their_newest_version(records: Records) -> None:
    for name, version in (("a", "1"), ("b", "1"), ("c", "1"), ("a", "2"), ("d", "1"), ("b", "2")):
        records.assets.add(model(name, version))
    records.assets.add(model("e", is_archived=True))
    records.assets.add(model("f", is_anonymous=True))

    def names(scan: Scan, **more: bool) -> list[str]:
        return [name for _, name in records.assets.scan_names(scan, WORKSPACE_SCOPE, AssetType.MODEL, **more)]

    shown = {"is_archived": False, "with_anonymous": False}
    assert names(Scan(size=2), **shown) == ["b", "d", "a", "c"]
    assert names(Scan(size=3, is_oldest_first=True), **shown) == ["a", "b", "c", "d"]
    assert names(Scan(), is_archived=True) == ["e"]
    position = next(records.assets.scan_names(Scan(), WORKSPACE_SCOPE, AssetType.MODEL, **shown))[0]
    assert names(Scan(after=position), **shown) == ["d", "a", "c"]


def test_assets_are_listed_by_the_facts_of_them(records: Records) -> None:
    records.assets.add(model(version="1", properties={"job": "one", "output": "model"}))
    records.assets.add(model(version="2", properties={"job": "two", "output": "model"}))
    assert [asset.version for asset in records.assets.list(facts={"job": "two", "output": "model"})] == ["2"]
    assert records.assets.list(facts={"job": "two", "output": "other"}) == []
    assert records.assets.versions(WORKSPACE_SCOPE, AssetType.MODEL, "chat") == ["2", "1"]
