"""The cloud's metadata, and tokens of the managed identity endpoint."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mafunzo.entities.job import StepStatus
from mafunzo.entrypoints.azure.wire.envelope import BLOB_ROOT
from mafunzo.entrypoints.http.identity import OPERATOR_AUDIENCE, Attempt, step_caller
from tests.support.azure_bench import BASE, Bench, Client, azure_bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        yield opened


def test_the_cloud_is_described_to_everybody(bench: Bench) -> None:
    (cloud,) = bench.stranger.get("/metadata/endpoints")
    assert (cloud["resourceManager"], cloud["authentication"]["audiences"]) == (BASE, [BASE])
    assert bench.stranger.get("/discovery")["history"] == BASE


def test_a_token_is_given_for_the_home_s_secret(bench: Bench) -> None:
    http = bench.stranger.http
    secret = {"x-identity-header": bench.identity.header}
    answer = http.get(f"/msi/token?resource={BASE}", headers=secret).json()
    assert (answer["resource"], answer["token_type"]) == (BASE, "Bearer")
    assert bench.identity.check_token(answer["access_token"], frozenset({BASE})) == bench.identity.owner
    assert http.get("/msi/token", headers=secret).status_code == 400
    assert http.get(f"/msi/token?resource={BASE}", headers={"x-identity-header": "wrong"}).status_code == 401


def test_a_step_logs_in_with_the_identity_of_its_job_for_as_long_as_it_runs(bench: Bench) -> None:
    attempt = Attempt("job1", "train", 1)
    headers = {"x-identity-header": bench.identity.step_token(OPERATOR_AUDIENCE, attempt, "amina")}
    http = bench.stranger.http
    assert http.get(f"/msi/token?resource={BASE}", headers=headers).status_code == 401
    bench.running.add(attempt)
    token = http.get(f"/msi/token?resource={BASE}", headers=headers).json()["access_token"]
    step = Client(bench.app, token)
    assert bench.identity.check_token(token, frozenset({BASE})) == step_caller(attempt, "amina")
    body = {"properties": {"jobType": "Command", "command": "echo hi"}}
    assert step.ask("PUT", "jobs/inner", body).status_code == 201
    assert bench.workspace.jobs.get("inner").job.created_by == "amina"
    bench.running.clear()
    assert step.refusal("GET", "jobs/inner")[0] == 401


def test_what_a_step_uploads_is_signed_with_a_key_of_its_own(bench: Bench) -> None:
    bench.owner.ask("PUT", "jobs/outer", {"properties": {"jobType": "Command", "command": "echo hi"}})
    (step,) = bench.workspace.jobs.get("outer").steps
    bench.workspace.records.steps.update(replace(step, status=StepStatus.RUNNING, attempt=1))
    caller = step_caller(Attempt("outer", "command", 1), bench.workspace.jobs.get("outer").job.created_by)
    bench.running.add(Attempt("outer", "command", 1))
    asked = {"expirableSecret": True}
    answer = bench.client(caller).ask("POST", "datastores/workspaceblobstore/listSecrets", asked).json()
    bench.workspace.blobs.ensure_container("azureml-blobstore")
    path = f"{BLOB_ROOT}/azureml-blobstore/a.txt?{answer['sasToken']}"
    headers = {"x-ms-blob-type": "BlockBlob", "x-ms-version": "2023-11-03"}
    assert bench.stranger.http.put(path, content=b"a", headers=headers).status_code == 201


def test_no_other_token_is_taken_for_a_steps(bench: Bench) -> None:
    for token in (bench.identity.token(OPERATOR_AUDIENCE, bench.identity.owner)[0], "a.b.c"):
        answer = bench.stranger.http.get(f"/msi/token?resource={BASE}", headers={"x-identity-header": token})
        assert answer.status_code == 401
