"""MLflow on the https port: who may ask it, and addresses that its client can read."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from mafunzo.entities.user import Role
from mafunzo.entrypoints.azure.wire.envelope import workspace_id
from mafunzo.entrypoints.http.identity import Caller
from tests.support.azure_bench import Bench, azure_bench

RUN = f"/mlflow/v2.0{workspace_id()}/api/2.0/mlflow/runs/get"


class Dialect:
    """Answers with whoever asks for what."""

    artifact_root = b'"mlflow-artifacts:/'

    def role_of(self, method: str, path: str) -> Role:
        return Role.READER

    async def answer(self, request: Request, caller: Caller, path: str) -> Response:
        if path.endswith("text"):
            return PlainTextResponse('"mlflow-artifacts:/1"')
        if path.endswith("stream"):
            return StreamingResponse(iter([b'{"uri": "mlflow-', b'artifacts:/1"}']), media_type="application/json")
        return JSONResponse({"user": caller.user, "path": path, "uri": "mlflow-artifacts:/1"}, 201)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with azure_bench(tmp_path) as opened:
        opened.app.state.context = replace(opened.app.state.context, mlflow=Dialect())
        yield opened


def test_an_answer_names_files_by_addresses_that_stock_mlflow_reads_and_no_key_is_in_them(bench: Bench) -> None:
    answer = bench.owner.ask("GET", RUN)
    assert (answer.status_code, answer.json()["path"]) == (201, "api/2.0/mlflow/runs/get")
    assert answer.json()["user"] == bench.identity.owner.user
    assert answer.json()["uri"] == "http://127.0.0.1:8080/mlflow/api/2.0/mlflow-artifacts/artifacts/1"
    assert bench.owner.ask("GET", f"{RUN}/stream").json()["uri"].endswith("/mlflow-artifacts/artifacts/1")


def test_what_is_no_json_is_passed_on_as_it_is(bench: Bench) -> None:
    assert bench.owner.ask("GET", f"{RUN}/text").text == '"mlflow-artifacts:/1"'


def test_a_stranger_is_refused(bench: Bench) -> None:
    assert bench.stranger.refusal("GET", RUN)[0] == 401


def test_a_server_without_mlflow_says_so(bench: Bench) -> None:
    bench.app.state.context = replace(bench.app.state.context, mlflow=None)
    assert bench.owner.refusal("GET", RUN) == (404, "This server has no MLflow.")
