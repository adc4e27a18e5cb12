"""The context of a request is made once, in the caller's name."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from fastapi import FastAPI
from starlette.requests import Request

from mafunzo.entities.job import Job, JobStatus, Step, StepSpec, StepStatus
from mafunzo.entities.user import Role
from mafunzo.entrypoints.azure.context import AzureContext, azure_context
from mafunzo.entrypoints.azure.wire.envelope import Place
from mafunzo.entrypoints.http.identity import Caller
from tests.support.azure_bench import azure_bench
from tests.support.statements import statements_sent

OWNER, OLGA = Caller("amina", Role.OWNER), Caller("olga", Role.CONTRIBUTOR)


class Workspace:
    """Counts how often somebody's view of it is made."""

    def __init__(self, user: str, views: list[str]) -> None:
        self.user, self.views = user, views

    def acting_as(self, user: str) -> "Workspace":
        self.views.append(user)
        return Workspace(user, self.views)


def request_to(app: FastAPI, host: str = "gpu-box:8443") -> Request:
    return Request({"type": "http", "app": app, "headers": [(b"host", host.encode())], "state": {}})


def server() -> tuple[FastAPI, list[str]]:
    views: list[str] = []
    app = FastAPI()
    app.state.context = AzureContext(
        caller=OWNER,
        place=Place("https://127.0.0.1:8443"),
        identity=cast(Any, SimpleNamespace()),
        workspace=cast(Any, Workspace("amina", views)),
        job_logs=cast(Any, None),
        serving=cast(Any, None),
        http_port=8080,
    )
    return app, views


def test_a_request_has_one_context_for_all_who_ask_for_it() -> None:
    app, views = server()
    request = request_to(app)
    request.state.caller = OLGA
    contexts = [azure_context(request) for _ in range(4)]
    assert all(context is contexts[0] for context in contexts)
    assert contexts[0].workspace.user == "olga" and views == ["olga"]
    assert contexts[0].place.base == "https://gpu-box:8443"


def test_it_is_the_owner_s_until_it_is_known_who_asks() -> None:
    app, views = server()
    request = request_to(app)
    assert azure_context(request).workspace.user == "amina"
    request.state.caller = OLGA
    assert azure_context(request).workspace.user == "olga"
    assert azure_context(request).caller == OLGA
    assert views == ["olga"]


def test_the_owner_has_the_server_s_own_workspace() -> None:
    app, views = server()
    request = request_to(app)
    request.state.caller = OWNER
    assert azure_context(request).workspace is app.state.context.workspace
    assert views == []


def test_requests_share_no_context() -> None:
    app, _ = server()
    one, other = request_to(app), request_to(app, "127.0.0.1:8443")
    one.state.caller = OLGA
    assert azure_context(one).caller == OLGA
    assert (azure_context(other).caller, azure_context(other).place.host) == (OWNER, "127.0.0.1:8443")


def test_whoever_may_have_signed_is_known_after_as_many_queries_however_many_jobs_run(tmp_path: Path) -> None:
    spec, counts = StepSpec("s", "hello:1", "sha256:0", "true"), []
    with azure_bench(tmp_path) as bench:
        records, first = bench.workspace.records, 0
        for size in (1, 9):
            for number in range(first, first + size):
                job = Job(f"j{number}", "j", "e", "hello:1", status=JobStatus.RUNNING, created_by="ada")
                records.jobs.add(job, [Step(f"j{number}", spec, StepStatus.RUNNING, attempt=2)])
            first += size
            with statements_sent() as statements:
                callers = list(bench.app.state.context.callers())
            counts.append(len(statements))
    assert len(callers) == 11 and callers[-1].user == "ada"
    assert counts[0] == counts[1]
