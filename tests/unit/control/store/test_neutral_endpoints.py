"""Rows of the version before, as they lay in the database, and what migration 5 makes of them."""

from typing import Any

import pytest
import sqlalchemy as sa

from mafunzo.control.store.codec import decode
from mafunzo.control.store.database import Database
from mafunzo.control.store.neutral_endpoints import apply, neutral_compute, neutral_deployment, neutral_endpoint
from mafunzo.control.store.records import Records
from mafunzo.entities.compute import Compute
from mafunzo.entities.endpoint import Deployment, Endpoint, Supervision

BODY: dict[str, Any] = {
    "location": "local",
    "tags": {"a": "b"},
    "properties": {"description": "d", "properties": {"x": "1"}},
}
REMEMBERED = {
    "started_at": 1.5,
    "healthy_at": 2.5,
    "was_healthy": True,
    "crashes": 1,
    "retry_at": 0.0,
    "reason": "",
}
ENDPOINT: dict[str, Any] = {
    "traffic_percent": {"blue": 100},
    "auth_mode": "key",
    "tags": {"team": "a"},
    "created_by": "amina",
    "properties": {"azureml_body": BODY},
}
DEPLOYMENT: dict[str, Any] = {
    "model": "chat:1",
    "artifact": "sha256:0",
    "port": 4000,
    "attempt": 1,
    "initial_delay_s": 600.0,
    "request_timeout_s": 2.5,
    "verification": {"result": "equal"},
    "error": None,
    "created_by": "amina",
    "properties": {"azureml_body": BODY, "base_artifact": "sha256:1", "supervision": REMEMBERED},
}
COMPUTE: dict[str, Any] = {
    "size": "Standard_NC6",
    "tier": "low_priority",
    "min_instances": 0,
    "max_instances": 2,
    "idle_s": 120,
    "tags": {},
    "properties": {"body": BODY},
    "created_by": "amina",
}


def test_an_endpoint_keeps_azure_s_body_as_its_echo_only() -> None:
    endpoint = decode(Endpoint, neutral_endpoint(ENDPOINT) | {"name": "chat"})
    assert endpoint == Endpoint("chat", {"blue": 100}, tags={"team": "a"}, created_by="amina", echoes={"azure": BODY})


def test_a_deployment_has_fields_for_what_the_core_reads() -> None:
    deployment = decode(Deployment, neutral_deployment(DEPLOYMENT) | {"endpoint": "chat", "name": "blue"})
    assert (deployment.base_artifact, deployment.supervision) == ("sha256:1", Supervision(**REMEMBERED))
    assert (deployment.echoes, deployment.request_timeout_s, deployment.port) == ({"azure": BODY}, 2.5, 4000)


def test_a_compute_keeps_azure_s_body_as_its_echo_only() -> None:
    compute = decode(Compute, neutral_compute(COMPUTE) | {"name": "big"})
    expected = Compute(
        "big", "Standard_NC6", "low_priority", max_instances=2, created_by="amina", echoes={"azure": BODY}
    )
    assert compute == expected


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"base_artifact": None}, id="no base, and no worker yet"),
        pytest.param(None, id="no properties"),
    ],
)
def test_what_azure_did_not_make_has_no_echo(properties: dict[str, Any] | None) -> None:
    body = DEPLOYMENT | {"properties": properties}
    deployment = decode(Deployment, neutral_deployment(body) | {"endpoint": "chat", "name": "blue"})
    assert (deployment.echoes, deployment.base_artifact, deployment.supervision) == ({}, None, Supervision())


def test_what_is_neutral_already_stays() -> None:
    once = neutral_deployment(DEPLOYMENT)
    assert neutral_deployment(once) == once


def test_rows_are_rewritten_in_the_database(database: Database) -> None:
    records = Records(database)
    records.endpoints.add(Endpoint("chat"), ("one", "two"))
    records.deployments.add(Deployment("chat", "blue", "chat:1", "sha256:0"))
    records.computes.put(Compute("big", "local"))
    with database.transaction() as connection:
        for name, body in (("endpoint", ENDPOINT), ("deployment", DEPLOYMENT), ("compute", COMPUTE)):
            connection.execute(sa.update(sa.table(name, sa.column("body", sa.JSON))).values(body=body))
        apply(connection)
    assert records.endpoints.get("chat").echoes == {"azure": BODY}
    assert records.endpoints.keys("chat") == ("one", "two")
    assert records.deployments.get("chat", "blue").supervision.was_healthy
    assert records.computes.get("big").max_instances == 2
