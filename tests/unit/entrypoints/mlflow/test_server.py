"""Tests of `mafunzo.entrypoints.mlflow.server`: who and what gets past the gate of MLflow's own process."""

import asyncio

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp

from mafunzo.entrypoints.mlflow.server import Gate

ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/1"


def shut(run_id: str) -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import PERMISSION_DENIED

    if run_id == "job1":
        raise MlflowException("Run job1 shows a job", PERMISSION_DENIED)


def ask(method: str, path: str, key: str = "token", token: str | None = "token") -> httpx.Response:
    gate: ASGIApp = Gate(PlainTextResponse("MLflow"), token, shut)

    async def work() -> httpx.Response:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(gate), base_url="http://127.0.0.1") as client:
            return await client.request(method, path, headers={"authorization": f"Bearer {key}"})

    return asyncio.run(work())


def test_whoever_has_the_token_reaches_mlflow() -> None:
    assert ask("GET", "/api/2.0/mlflow/runs/get").text == "MLflow"


def test_another_token_is_refused() -> None:
    answer = ask("GET", "/", key="wrong")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json() == {"message": "The token is missing or wrong."}


def test_without_a_token_of_its_own_the_process_asks_for_none() -> None:
    assert ask("GET", "/", key="any", token=None).text == "MLflow"


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/ajax-api/3.0/mlflow/assistant/message", id="the assistant, which has a shell"),
        pytest.param("/ajax-api/3.0/jobs", id="jobs of MLflow's own"),
        pytest.param("/gateway/x", id="the gateway"),
        pytest.param("/ajax-api/2.0/mlflow/gateway-proxy", id="its proxy"),
        pytest.param(f"{ARTIFACTS}/job1%252Fartifacts/x", id="a job's run, encoded twice"),
        pytest.param(f"{ARTIFACTS}/%2e/job1/artifacts/x", id="a job's run, by another way"),
    ],
)
def test_what_of_mlflow_runs_programs_or_asks_other_servers_is_off(path: str) -> None:
    answer = ask("POST", path)
    assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")


def test_a_name_that_only_begins_like_one_that_is_off_is_on() -> None:
    assert ask("POST", "/gateways").text == "MLflow"


def test_files_are_not_written_into_a_run_that_shows_a_job_but_are_read() -> None:
    for method in ("PUT", "DELETE"):
        answer = ask(method, f"{ARTIFACTS}/job1/artifacts/model/MLmodel")
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert ask("POST", "/api/2.0/mlflow-artifacts/mpu/create/1/job1/artifacts/x").status_code == 403
    assert ask("GET", f"{ARTIFACTS}/job1/artifacts/model/MLmodel").text == "MLflow"


def test_files_are_written_into_a_users_own_run() -> None:
    assert ask("PUT", f"{ARTIFACTS}/mine/artifacts/model/MLmodel").text == "MLflow"
