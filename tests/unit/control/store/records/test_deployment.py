from dataclasses import replace

import pytest

from mafunzo.control.store.records import Records
from mafunzo.entities.endpoint import Deployment, DeploymentStatus, Endpoint
from mafunzo.errors import Conflict, NotFound
from tests.unit.control.store.records.sample import artifact_hash


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
