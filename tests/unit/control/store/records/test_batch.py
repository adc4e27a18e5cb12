from dataclasses import replace

import pytest

from mafunzo.control.store.records import Records
from mafunzo.entities.batch import BatchDeployment, BatchEndpoint
from mafunzo.errors import NotFound
from tests.unit.control.store.records.sample import NOON


def test_a_batch_endpoint_and_its_deployments_come_back_as_they_were(records: Records) -> None:
    endpoint = BatchEndpoint("rows", tags={"a": "b"}, created_by="me", created_at=NOON, echoes={"azure": {"x": 1}})
    deployment = BatchDeployment("rows", "blue", "m:1", {"temperature": 0.5}, created_by="me", created_at=NOON)
    assert records.batch_endpoints.put(endpoint) == endpoint
    assert records.batch_deployments.put(deployment) == deployment
    assert (records.batch_endpoints.get("rows"), records.batch_endpoints.list()) == (endpoint, [endpoint])
    assert records.batch_deployments.get("rows", "blue") == deployment
    assert records.batch_deployments.page("rows", 1, "blue") == []
    changed = records.batch_endpoints.put(replace(endpoint, default_deployment="blue", created_by="other"))
    assert changed == replace(endpoint, default_deployment="blue")  # its deployments, and its maker, stay
    assert records.batch_deployments.put(replace(deployment, model="m:2", created_by="other")).created_by == "me"
    assert [one.model for one in records.batch_deployments.page("rows")] == ["m:2"]


def test_a_default_deployment_has_to_be_there_and_goes_with_it(records: Records) -> None:
    with pytest.raises(NotFound, match="Batch endpoint rows has no deployment 'blue'"):
        records.batch_endpoints.put(BatchEndpoint("rows", "blue"))
    records.batch_endpoints.put(BatchEndpoint("rows"))
    with pytest.raises(NotFound, match=r"No batch endpoint 'row'\. Did you mean rows\?"):
        records.batch_deployments.put(BatchDeployment("row", "blue", "m:1"))
    records.batch_deployments.put(BatchDeployment("rows", "blue", "m:1"))
    records.batch_endpoints.put(BatchEndpoint("rows", "blue"))
    records.batch_deployments.delete("rows", "blue")
    assert records.batch_endpoints.get("rows").default_deployment == ""
    records.batch_deployments.put(BatchDeployment("rows", "blue", "m:1"))
    records.batch_endpoints.delete("rows")
    records.batch_endpoints.put(BatchEndpoint("rows"))
    assert records.batch_deployments.page("rows") == []
