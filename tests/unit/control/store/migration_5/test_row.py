"""Rows of the version before, as they lay in the database, and what migration 5 makes of them."""

from importlib.util import find_spec
from typing import Any

import pytest
import sqlalchemy as sa

from mafunzo.control.store.codec import decode
from mafunzo.control.store.database import Database
from mafunzo.control.store.migration_5 import apply
from mafunzo.control.store.migration_5.row import NEW, compute_body, deployment_body, endpoint_body, job_body, step_body
from mafunzo.control.store.records import Records
from mafunzo.entities.compute import Compute
from mafunzo.entities.endpoint import Deployment, Endpoint, Supervision
from mafunzo.entities.job import Job

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
    endpoint = decode(Endpoint, endpoint_body(ENDPOINT) | {"name": "chat"})
    assert endpoint == Endpoint("chat", {"blue": 100}, tags={"team": "a"}, created_by="amina", echoes={"azure": BODY})


def test_a_deployment_has_fields_for_what_the_core_reads() -> None:
    deployment = decode(Deployment, deployment_body(DEPLOYMENT) | {"endpoint": "chat", "name": "blue"})
    assert (deployment.base_artifact, deployment.supervision) == ("sha256:1", Supervision(**REMEMBERED))
    assert (deployment.echoes, deployment.request_timeout_s, deployment.port) == ({"azure": BODY}, 2.5, 4000)


def test_a_compute_keeps_azure_s_body_as_its_echo_only() -> None:
    compute = decode(Compute, compute_body(COMPUTE) | {"name": "big"})
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
    deployment = decode(Deployment, deployment_body(body) | {"endpoint": "chat", "name": "blue"})
    assert (deployment.echoes, deployment.base_artifact, deployment.supervision) == ({}, None, Supervision())


def test_what_is_neutral_already_stays() -> None:
    once = deployment_body(DEPLOYMENT)
    assert deployment_body(once) == once


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
    row = job_body({**BASE, "properties": properties})
    assert decode(Job, {"name": "j", **row}) == expected


NAMES = ("import_model", "prepare_data", "finetune", "evaluate", "package_model", "preview_data")


@pytest.mark.parametrize("name", NAMES)
def test_the_command_of_a_component_that_ships_names_its_module_of_today(name: str) -> None:
    command = f"python -m mafunzo.components.{name} --model '${{{{inputs.model}}}}'"
    body = {"job": "j", "cache_key": "k", "spec": {"command": command, "code": "sha256:1", "is_trusted": True}}
    moved = f"python -m mafunzo.compute.components.{name} --model '${{{{inputs.model}}}}'"
    assert step_body(body) == {**body, "spec": {**body["spec"], "command": moved}}
    assert find_spec(f"{NEW.removeprefix('python -m ')}{name}") is not None


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param({"command": "python -m mafunzo.components.finetune", "is_trusted": False}, id="a user's own"),
        pytest.param({"command": "python train.py"}, id="a user's, of a row without the field"),
        pytest.param({"command": "python -m mafunzo.compute.components.finetune", "is_trusted": True}, id="moved"),
    ],
)
def test_any_other_command_stays_as_it_is(spec: dict[str, object]) -> None:
    assert step_body({"spec": spec}) == {"spec": spec}
