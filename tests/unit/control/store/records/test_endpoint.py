from dataclasses import replace

import pytest
import sqlalchemy as sa

from mafunzo.control.store import table
from mafunzo.control.store.database import Database
from mafunzo.control.store.records import Records
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.errors import Conflict, NotFound
from tests.unit.control.store.records.sample import NOON, artifact_hash


def test_an_endpoint_and_its_deployments_come_back_as_they_were(records: Records) -> None:
    endpoint = Endpoint("chat", {"blue": 90, "green": 10}, tags={"a": "b"}, created_by="me", created_at=NOON)
    deployment = Deployment(
        "chat",
        "blue",
        "m:1",
        artifact_hash("a"),
        port=8001,
        verification={"tolerance": 0.1},
        created_at=NOON,
        request_timeout_s=5.0,
    )
    assert records.endpoints.add(endpoint, ("one", "two")) == endpoint
    assert records.deployments.add(deployment) == deployment
    assert (records.endpoints.get("chat"), records.endpoints.list()) == (endpoint, [endpoint])
    assert records.deployments.get("chat", "blue") == deployment
    assert (records.deployments.list("chat"), records.deployments.list("other")) == ([deployment], [])


def test_keys_rest_encrypted_and_can_be_replaced(records: Records, database: Database) -> None:
    records.endpoints.add(Endpoint("chat"), ("first-key", "second-key"))
    assert records.endpoints.keys("chat") == ("first-key", "second-key")
    with database.snapshot() as connection:
        assert "first-key" not in str(connection.execute(sa.select(table.endpoint)).all())
    records.endpoints.update(Endpoint("chat", {"blue": 100}))
    assert records.endpoints.keys("chat") == ("first-key", "second-key")
    records.endpoints.set_keys("chat", ("third", "fourth"))
    assert records.endpoints.keys("chat") == ("third", "fourth")


def test_an_endpoint_takes_its_deployments_with_it(records: Records) -> None:
    records.endpoints.add(Endpoint("chat"), ("1", "2"))
    records.deployments.add(Deployment("chat", "blue", "m:1", artifact_hash("a")))
    records.endpoints.delete("chat")
    assert (records.endpoints.list(), records.deployments.list()) == ([], [])
    records.endpoints.add(Endpoint("chat"), ("1", "2"))
    records.deployments.add(Deployment("chat", "blue", "m:1", artifact_hash("a")))
    records.deployments.delete("chat", "blue")
    assert records.deployments.list() == []
    with pytest.raises(NotFound):
        records.deployments.delete("chat", "blue")


def test_that_something_is_being_deleted_is_not_lost_to_a_state_read_before(records: Records) -> None:
    endpoint = records.endpoints.add(Endpoint("chat"), ("1", "2"))
    deployment = records.deployments.add(Deployment("chat", "blue", "m:1", artifact_hash("a")))
    records.deployments.update(replace(deployment, status=DeploymentStatus.DELETING))
    records.deployments.update(replace(deployment, status=DeploymentStatus.HEALTHY, port=8001))
    records.endpoints.update(replace(endpoint, is_deleting=True))
    records.endpoints.update(replace(endpoint, traffic_percent={"blue": 100}))
    assert records.deployments.get("chat", "blue").status is DeploymentStatus.DELETING
    assert records.deployments.get("chat", "blue").port == 8001
    assert records.endpoints.get("chat") == replace(endpoint, is_deleting=True, traffic_percent={"blue": 100})
    with pytest.raises(Conflict, match="is being deleted"):
        records.deployments.add(Deployment("chat", "green", "m:1", artifact_hash("a")))


def test_faults_of_endpoints_name_what_is_near(records: Records) -> None:
    records.endpoints.add(Endpoint("chat"), ("1", "2"))
    records.deployments.add(Deployment("chat", "blue", "m:1", artifact_hash("a")))
    with pytest.raises(Conflict, match="Endpoint chat exists already"):
        records.endpoints.add(Endpoint("chat"), ("1", "2"))
    with pytest.raises(Conflict, match="has a deployment 'blue' already"):
        records.deployments.add(Deployment("chat", "blue", "m:2", artifact_hash("a")))
    with pytest.raises(NotFound, match=r"No endpoint 'chta'\. Did you mean chat\?"):
        records.deployments.add(Deployment("chta", "blue", "m:1", artifact_hash("a")))
    with pytest.raises(NotFound, match=r"Endpoint chat has no deployment 'bleu'\. Did you mean blue\?"):
        records.deployments.get("chat", "bleu")


def test_endpoints_are_listed_in_pages_by_name(records: Records) -> None:
    for name in ("c", "a", "b"):
        records.endpoints.add(Endpoint(name), ("1", "2"))
    assert [one.name for one in records.endpoints.page(2)] == ["a", "b"]
    assert [one.name for one in records.endpoints.page(2, after="b")] == ["c"]
