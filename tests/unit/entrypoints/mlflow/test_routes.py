"""Tests of `mafunzo.entrypoints.mlflow.routes`: who is let in, what we answer, and how the rest goes to MLflow and back.

MLflow's own process is a web application of this process, which tells what has come to it.
"""

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from urllib.parse import quote, unquote

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import FastAPI

from mafunzo import Workspace
from mafunzo.entrypoints.http.context import Context
from mafunzo.entrypoints.http.identity import Identity
from mafunzo.entrypoints.http.limits import Limits
from mafunzo.entrypoints.mlflow import routes
from mafunzo.entrypoints.mlflow.registry import Registry

TestServer.__test__ = False  # type: ignore[attr-defined]
API = "/mlflow/api/2.0/mlflow"
FILES = "/mlflow/api/2.0/mlflow-artifacts/artifacts"
BASE = "http://127.0.0.1:8080"
OWNER = {"authorization": "Bearer operators"}
LOGGED = {"models": [{"info": {"model_id": "m-7"}}]}


class Bench:
    """The http port's part of MLflow over one home."""

    def __init__(self, workspace: Workspace, artifacts: Path) -> None:
        self.requests: list[dict[str, Any]] = []
        self.facts_written = 0
        self._address = ""
        child = cast(Any, SimpleNamespace(address=lambda: (self._address, "childs"), write_new_facts=self._write_facts))
        parts = {"operator_key": "operators", "identity": Identity(b"secret", "baraka"), "users": workspace.users}
        serving = cast(Context, SimpleNamespace(limits=Limits(mlflow_body_bytes=1000), **parts))
        self.app = FastAPI()
        self.app.include_router(routes.router)
        self.app.state.mlflow = routes.Mlflow(child, Registry(workspace, artifacts), serving)

    def _write_facts(self) -> None:
        self.facts_written += 1

    async def _mlflow(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(
            {
                "target": request.path_qs,
                "method": request.method,
                "headers": {name.lower(): value for name, value in request.headers.items()},
                "body": await request.text(),
            }
        )
        if request.path.endswith("/runs/get") and request.query.get("run_id") == "run7":
            return web.json_response({"run": {"info": {"experiment_id": "1"}}})
        if request.path.endswith("/logged-models/search"):
            return web.json_response(LOGGED)
        return web.json_response({"of": "MLflow"}, status=418, headers={"x-of": "mlflow", "set-cookie": "a=b"})

    def run(self, work: Callable[[httpx.AsyncClient], Awaitable[None]]) -> None:
        """Do `work` with a client of the http port, while MLflow answers."""

        async def around() -> None:
            mlflow = web.Application()
            mlflow.router.add_route("*", "/{path:.*}", self._mlflow)
            transport = httpx.ASGITransport(self.app)
            async with TestServer(mlflow) as server, httpx.AsyncClient(transport=transport, base_url=BASE) as client:
                self._address = str(server.make_url("")).rstrip("/")
                await work(client)

        asyncio.run(around())

    def ask(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Ask once, as the operator unless `headers` say another."""
        answers: list[httpx.Response] = []

        async def work(client: httpx.AsyncClient) -> None:
            answers.append(await client.request(method, path, **{"headers": OWNER, **options}))

        self.run(work)
        return answers[0]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    (logged := tmp_path_factory.mktemp("logged") / "1" / "models" / "m-7" / "artifacts").mkdir(parents=True)
    (logged / "MLmodel").write_text("flavors: {}")
    return logged.parents[3]


@pytest.fixture(scope="module")
def workspace(artifacts: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with Workspace(tmp_path_factory.mktemp("routes") / "home", port=0) as opened:
        opened.models.register(artifacts / "1" / "models" / "m-7" / "artifacts", name="chat")
        yield opened


@pytest.fixture
def bench(workspace: Workspace, artifacts: Path) -> Bench:
    return Bench(workspace, artifacts)


def bearer_of(workspace: Workspace, name: str, role: str) -> dict[str, str]:
    return {"authorization": f"Bearer {workspace.users.create(name, role)[1]}"}


def basic(password: str) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"x:{password}".encode()).decode()}


def test_what_is_mlflows_own_goes_there_and_back_with_another_token(bench: Bench) -> None:
    headers = {**OWNER, "cookie": "a=b", "x-mine": "1"}
    answer = bench.ask("POST", f"{API}/experiments/search?a=1&a=2", headers=headers, content=b"any bytes")
    assert (answer.status_code, answer.json(), answer.headers["x-of"]) == (418, {"of": "MLflow"}, "mlflow")
    [request] = bench.requests
    assert (request["target"], request["body"]) == ("/api/2.0/mlflow/experiments/search?a=1&a=2", "any bytes")
    assert (request["headers"]["authorization"], request["headers"]["x-mine"]) == ("Bearer childs", "1")
    assert "cookie" not in request["headers"], "MLflow never sees what lets a browser in here"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="no key"),
        pytest.param({"authorization": "Bearer wrong"}, id="a wrong key"),
        pytest.param({"authorization": "Basic %%%"}, id="no HTTP basic authentication"),
        pytest.param({"cookie": "mafunzo-mlflow-8080=wrong"}, id="a wrong cookie"),
    ],
)
def test_whoever_has_no_key_is_told_how_to_get_one(headers: dict[str, str], bench: Bench) -> None:
    answer = bench.ask("GET", f"{API}/experiments/search", headers=headers)
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic realm=")
    assert "`mafunzo mlflow` prints" in answer.text
    assert bench.requests == []


def test_a_browser_sends_the_key_as_its_password(bench: Bench) -> None:
    assert bench.ask("GET", "/mlflow/static-files/app.js", headers=basic("operators")).status_code == 418


def test_a_browser_is_led_to_an_address_without_the_key_and_let_in_there_by_a_cookie(bench: Bench) -> None:
    async def work(client: httpx.AsyncClient) -> None:
        led = await client.get("/mlflow/", headers={**basic("operators"), "accept": "text/html"})
        assert (led.status_code, led.headers["location"]) == (303, f"{BASE}/mlflow/?in")
        assert "operators" not in led.headers["set-cookie"], "other servers of this machine get the cookie too"
        page = await client.get("/mlflow/?in", headers={"accept": "text/html"})
        assert page.status_code == 418

    bench.run(work)
    assert [request["target"] for request in bench.requests] == ["/?in="]


def test_the_address_without_a_slash_leads_to_the_pages(bench: Bench) -> None:
    answer = bench.ask("GET", "/mlflow")
    assert (answer.status_code, answer.headers["location"]) == (307, "/mlflow/")


def test_a_page_of_another_site_is_refused(bench: Bench) -> None:
    for origin, status in ((BASE, 418), ("http://evil.example", 403)):
        assert bench.ask("POST", f"{API}/runs/search", headers={**OWNER, "origin": origin}).status_code == status


def test_a_reader_looks_and_changes_nothing(bench: Bench, workspace: Workspace) -> None:
    headers = bearer_of(workspace, "looks", "reader")
    assert bench.ask("POST", f"{API}/runs/search", headers=headers).status_code == 418
    answer = bench.ask("POST", f"{API}/registered-models/create", headers=headers, json={"name": "x"})
    assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert "may not change or delete what MLflow shows: it needs the role contributor" in answer.json()["message"]


def test_a_run_is_its_callers_whatever_the_client_says(bench: Bench, workspace: Workspace) -> None:
    tags = [{"key": "mlflow.user", "value": "root"}, {"key": "a", "value": "b"}]
    run = {"experiment_id": "1", "user_id": "root", "tags": tags}
    headers = bearer_of(workspace, "makes", "contributor")
    assert bench.ask("POST", f"{API}/runs/create", headers=headers, json=run).status_code == 418
    mine = [{"key": "a", "value": "b"}, {"key": "mlflow.user", "value": "makes"}]
    assert json.loads(bench.requests[0]["body"]) == {"experiment_id": "1", "user_id": "makes", "tags": mine}
    bench.ask("POST", f"{API}/runs/create", json=run)
    assert json.loads(bench.requests[1]["body"]) == run, "the home's own user may be anybody"


def test_before_a_run_is_shown_the_jobs_are_written_down(bench: Bench) -> None:
    bench.ask("GET", f"{API}/runs/get?run_id=run7")
    assert bench.facts_written == 1


def test_a_model_of_ours_is_answered_here_and_another_name_by_mlflow(bench: Bench) -> None:
    ours = bench.ask("GET", f"{API}/registered-models/get?name=chat")
    assert ours.json()["registered_model"]["name"] == "chat"
    assert bench.requests == []
    assert bench.ask("GET", f"{API}/registered-models/get?name=greeting").status_code == 418
    request = {"name": "greeting", "stages": ["None"]}
    assert bench.ask("POST", f"{API}/registered-models/get-latest-versions", json=request).status_code == 418
    assert json.loads(bench.requests[1]["body"]) == request


def test_a_model_that_a_run_has_logged_is_registered_by_its_own_address(bench: Bench, workspace: Workspace) -> None:
    request = {"name": "chat", "source": "runs:/run7/model"}
    version = bench.ask("POST", f"{API}/model-versions/create", json=request).json()["model_version"]
    assert (version["source"], version["run_id"]) == ("models:/m-7", "run7")
    search = json.loads(bench.requests[1]["body"])
    assert search == {"experiment_ids": ["1"], "filter": "source_run_id = 'run7' AND name = 'model'"}
    unknown = bench.ask("POST", f"{API}/model-versions/create", json={"name": "chat", "source": "runs:/none/model"})
    assert (unknown.status_code, unknown.json()["error_code"]) == (404, "RESOURCE_DOES_NOT_EXIST")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        pytest.param(b"{", "The request's body isn't JSON.", id="no JSON"),
        pytest.param(b"[]", "The request's body isn't a JSON object.", id="no object"),
        pytest.param(b'"' + b"x" * 1000 + b'"', "The request's body is larger than 1000 bytes.", id="too large"),
    ],
)
def test_a_body_that_cannot_be_taken_is_refused_in_mlflows_way(body: bytes, text: str, bench: Bench) -> None:
    answer = bench.ask("POST", f"{API}/registered-models/create", content=body)
    assert answer.status_code == 400
    assert answer.json() == {"error_code": "INVALID_PARAMETER_VALUE", "message": text}


def test_the_files_of_a_version_are_listed_and_read_here(bench: Bench) -> None:
    listing = bench.ask("GET", f"{FILES}?path=registered-models/chat/1")
    assert listing.json() == {"files": [{"path": "MLmodel", "is_dir": False, "file_size": 11}]}
    page = "/mlflow/model-versions/get-artifact?name=chat&version=1&path=MLmodel"
    for address in (f"{FILES}/registered-models/chat/1/MLmodel", page):
        assert bench.ask("GET", address).text == "flavors: {}"
    assert bench.requests == []


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_the_files_of_a_version_never_change(method: str, bench: Bench) -> None:
    answer = bench.ask(method, f"{FILES}/registered-models/chat/1/MLmodel")
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")


def test_files_of_runs_are_mlflows(bench: Bench) -> None:
    assert bench.ask("GET", f"{FILES}/1/run7/artifacts/x").status_code == 418


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(f"{API}/experiments/create%3Fx/search", id="a query in the path"),
        pytest.param(f"{API}/experiments/create%23/search", id="a fragment in the path"),
        pytest.param(f"{API}/experiments/create%2F%3F/search", id="a query behind a slash"),
        pytest.param(f"{API}/experiments/create/%2e%2e/search", id="a way up"),
        pytest.param(f"{API}/experiments/create%253F/search", id="a query, encoded twice"),
        pytest.param(f"{API}//experiments/search", id="an empty part"),
        pytest.param(f"{API}/webhooks", id="MLflow's webhooks"),
        pytest.param(f"{API}/upload-artifact", id="a file into any run"),
        pytest.param(f"{API}/of-a-later-version/search", id="what isn't known here"),
    ],
)
@pytest.mark.parametrize("role", ["reader", "owner"])
def test_what_is_not_on_the_list_is_refused_and_never_reaches_mlflow(
    path: str, role: str, bench: Bench, workspace: Workspace
) -> None:
    headers = bearer_of(workspace, f"{role}-{abs(hash(path))}", role)
    answer = bench.ask("POST", path, headers=headers, json={"name": "x"})
    assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
    assert bench.requests == []


@pytest.mark.parametrize(
    "name", ["a b.txt", "what?.txt", "50%.txt", "a#b.txt", "a;b.txt", "naïve.txt", "a+b.txt", "a&b=c.txt"]
)
def test_a_file_s_name_goes_on_as_it_was_judged(name: str, bench: Bench) -> None:
    assert bench.ask("PUT", f"{FILES}/1/run7/artifacts/{quote(name)}", content=b"x").status_code == 418
    target = bench.requests[0]["target"]
    assert unquote(target) == f"/api/2.0/mlflow-artifacts/artifacts/1/run7/artifacts/{name}"
    assert "?" not in target
